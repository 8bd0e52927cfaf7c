package soak

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"
)

// mostFindings is how many findings are told in words; all are counted.
const mostFindings = 20

// Report is what a run has come to.
type Report struct {
	Duration time.Duration `json:"duration"`
	Seed     uint64        `json:"seed"`
	Store    string        `json:"store"`
	Replicas int           `json:"replicas"`
	Devices  int           `json:"devices"`

	Requests    int `json:"requests"`    // to the upstream, through a replica
	Served      int `json:"served"`      // of those, that the upstream answered
	Unavailable int `json:"unavailable"` // 502, 503 or 504: try again
	Broken      int `json:"broken"`      // no answer, because a replica was killed
	HungUp      int `json:"hung_up"`     // the client left
	SignIns     int `json:"sign_ins"`
	SignOuts    int `json:"sign_outs"`

	Refreshes int `json:"refreshes"` // token pairs that the auth server has made for a refresh
	Replays   int `json:"replays"`   // spent tokens that brought the same successor, after a fault had taken it

	EndedByRule int `json:"ended_by_rule"` // devices without reuse window whose new pair died in a fault

	// What must not be.
	Needless   int      `json:"needless"`    // refreshes that should not have been
	Lost       int      `json:"lost"`        // sessions
	Stale      int      `json:"stale"`       // calls with a token that was over when the client sent its request
	Zombies    int      `json:"zombies"`     // calls served for a device a second and more after its sign-out
	Mixed      int      `json:"mixed"`       // calls with another device's token
	Wedged     int      `json:"wedged"`      // devices that did not work when all was well again
	Unexpected int      `json:"unexpected"`  // answers that there is no reason for
	Findings   []string `json:"findings"`    // the first of these, in words
	LongestGap string   `json:"longest_gap"` // that a device has waited for an answer from the upstream

	Faults map[string]int `json:"faults"` // how often each struck
}

// OK reports whether nothing was found.
func (r Report) OK() bool {
	return r.Needless+r.Lost+r.Stale+r.Zombies+r.Mixed+r.Wedged+r.Unexpected == 0
}

// String returns the report for people.
func (r Report) String() string {
	var b strings.Builder
	line := func(name string, n any) { fmt.Fprintf(&b, "%-38s %v\n", name, n) }
	fmt.Fprintf(&b, "%v, %d replicas on %s, %d devices, seed %d\n\n", r.Duration.Round(time.Second), r.Replicas, r.Store, r.Devices, r.Seed)
	line("requests", r.Requests)
	line("  served by the upstream", r.Served)
	line("  told to try again", r.Unavailable)
	line("  cut off by a killed replica", r.Broken)
	line("  given up by the client", r.HungUp)
	line("sign-ins", r.SignIns)
	line("sign-outs", r.SignOuts)
	line("refreshes", r.Refreshes)
	line("  successors that were fetched again", r.Replays)
	line("ended by the auth server's rule", r.EndedByRule)
	line("longest time without an answer", r.LongestGap)
	b.WriteString("\nfaults\n")
	for _, name := range slices.Sorted(maps.Keys(r.Faults)) {
		line("  "+name, r.Faults[name])
	}
	b.WriteString("\nwhat must not be\n")
	line("  refreshes that should not have been", r.Needless)
	line("  sessions lost", r.Lost)
	line("  stale calls", r.Stale)
	line("  calls after a sign-out", r.Zombies)
	line("  calls with another's token", r.Mixed)
	line("  devices that do not work at the end", r.Wedged)
	line("  answers without reason", r.Unexpected)
	for _, f := range r.Findings {
		fmt.Fprintf(&b, "  - %s\n", f)
	}
	return b.String()
}

// counts is a report that is being written.
type counts struct {
	mu sync.Mutex
	Report
	start    time.Time
	gap      time.Duration
	progress io.Writer
}

func (c *counts) add(n *int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
}

// note counts something that must not be and says what it was.
func (c *counts) note(n *int, format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*n++
	if len(c.Findings) < mostFindings {
		finding := fmt.Sprintf("after %v: ", time.Since(c.start).Round(time.Millisecond)) + fmt.Sprintf(format, args...)
		c.Findings = append(c.Findings, finding)
		fmt.Fprintln(c.progress, finding)
	}
}

func (c *counts) fault(name string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.Faults[name]++
}

// waited notes how long a device was without an answer.
func (c *counts) waited(d time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if d > c.gap {
		c.gap = d
		c.LongestGap = d.Round(time.Millisecond).String()
	}
}

func (c *counts) report() Report {
	c.mu.Lock()
	defer c.mu.Unlock()
	r := c.Report
	r.Duration = time.Since(c.start)
	r.Findings, r.Faults = slices.Clone(r.Findings), maps.Clone(r.Faults)
	return r
}
