package bench

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"runtime"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Report is what a benchmark found. Times are in microseconds.
type Report struct {
	Machine    Machine     `json:"machine"`
	Setup      Setup       `json:"setup"`
	Contenders []Contender `json:"contenders"`
	Targets    []Target    `json:"targets"`
	Missing    string      `json:"missing,omitempty"` // what was not measured, and why
}

// Machine is where it ran.
type Machine struct {
	CPU   string `json:"cpu"` // the model, "" if the system does not say
	CPUs  int    `json:"cpus"`
	OS    string `json:"os"`
	Arch  string `json:"arch"`
	Go    string `json:"go"`
	Limit int    `json:"gomaxprocs"`
}

// Setup is how it ran.
type Setup struct {
	Connections int     `json:"connections"`
	Rounds      int     `json:"rounds"`
	Seconds     float64 `json:"seconds"` // of each turn, without the warm-up
}

// Contender is one of the servers: its turns, one in each round, and their
// medians.
type Contender struct {
	Name string `json:"name"`
	Turn
	// CPUAgainst is the CPU time of a request as a multiple of the others'.
	CPUAgainst map[string]Ratio `json:"cpu_against"`
	Turns      []Turn           `json:"turns"`
}

// Turn is what one server did in one round, or the medians of all.
type Turn struct {
	CPU        float64 `json:"cpu_us_per_request"`
	Throughput float64 `json:"requests_per_second"`
	P50        float64 `json:"p50_us"`
	P99        float64 `json:"p99_us"`
}

// Ratio is the median of the ratios within each round, and their range.
type Ratio struct {
	Median float64 `json:"median"`
	Least  float64 `json:"least"`
	Most   float64 `json:"most"`
}

// Target is what a broker is meant to cost at most, as a multiple of another
// one's CPU time.
type Target struct {
	Of      string  `json:"of"`
	Against string  `json:"against"`
	AtMost  float64 `json:"at_most"`
	Ratio   Ratio   `json:"ratio"`
	Met     bool    `json:"met"` // by the median
}

var targets = []Target{
	{Of: cloakroom, Against: reverseProxy, AtMost: 0.65},
	{Of: cloakroom, Against: fastHTTP, AtMost: 2.2},
	{Of: onRedis, Against: fastHTTP, AtMost: 2.9},
}

func newReport(c Config) Report {
	r := Report{
		Machine: Machine{CPU: cpuModel(), CPUs: runtime.NumCPU(), OS: runtime.GOOS, Arch: runtime.GOARCH, Go: runtime.Version(), Limit: runtime.GOMAXPROCS(0)},
		Setup:   Setup{Connections: c.Connections, Rounds: c.Rounds, Seconds: c.Duration.Seconds()},
	}
	for _, name := range c.contenders() {
		r.Contenders = append(r.Contenders, Contender{Name: name})
	}
	if c.Redis == "" {
		r.Missing = onRedis + ", because there is no redis-server on the path"
	}
	return r
}

func newTurn(m measured, cpu time.Duration) Turn {
	us := func(d time.Duration) float64 { return float64(d) / float64(time.Microsecond) }
	return Turn{
		CPU:        us(cpu) / float64(m.answered),
		Throughput: float64(m.answered) / m.took.Seconds(),
		P50:        us(m.latency.quantile(0.50)),
		P99:        us(m.latency.quantile(0.99)),
	}
}

// of returns a contender by its name, or nil.
func (r *Report) of(name string) *Contender {
	i := slices.IndexFunc(r.Contenders, func(c Contender) bool { return c.Name == name })
	if i < 0 {
		return nil
	}
	return &r.Contenders[i]
}

func (r *Report) add(name string, t Turn) {
	c := r.of(name)
	c.Turns = append(c.Turns, t)
}

// conclude works out everything that follows from the turns.
func (r *Report) conclude() {
	for i := range r.Contenders {
		c := &r.Contenders[i]
		each := func(value func(Turn) float64) float64 {
			var all []float64
			for _, t := range c.Turns {
				all = append(all, value(t))
			}
			return ratioOf(all).Median
		}
		c.Turn = Turn{
			CPU:        each(func(t Turn) float64 { return t.CPU }),
			Throughput: each(func(t Turn) float64 { return t.Throughput }),
			P50:        each(func(t Turn) float64 { return t.P50 }),
			P99:        each(func(t Turn) float64 { return t.P99 }),
		}
		c.CPUAgainst = make(map[string]Ratio)
		for _, other := range r.Contenders {
			if other.Name == c.Name {
				continue
			}
			var all []float64
			for i, t := range c.Turns {
				all = append(all, t.CPU/other.Turns[i].CPU)
			}
			c.CPUAgainst[other.Name] = ratioOf(all)
		}
	}
	for _, t := range targets {
		of := r.of(t.Of)
		if of == nil {
			continue
		}
		t.Ratio = of.CPUAgainst[t.Against]
		t.Met = t.Ratio.Median <= t.AtMost
		r.Targets = append(r.Targets, t)
	}
}

// ratioOf returns median and range of what is not empty.
func ratioOf(all []float64) Ratio {
	all = slices.Sorted(slices.Values(all))
	n := len(all)
	return Ratio{Median: (all[(n-1)/2] + all[n/2]) / 2, Least: all[0], Most: all[n-1]}
}

// String is the report for people.
func (r Report) String() string {
	var b strings.Builder
	m := r.Machine
	fmt.Fprintf(&b, "%s, %d CPUs, %s/%s, %s\n", m.name(), m.CPUs, m.OS, m.Arch, m.Go)
	fmt.Fprintf(&b, "%d connections, %d rounds of %gs; medians of the rounds\n\n", r.Setup.Connections, r.Setup.Rounds, r.Setup.Seconds)
	r.table(&b)
	for _, name := range brokers {
		if of := r.of(name); of != nil {
			r.ratios(&b, of)
		}
	}
	if r.Missing != "" {
		fmt.Fprintf(&b, "\nNOT MEASURED: %s\n", r.Missing)
	}
	return b.String()
}

// ratios compares one broker with the proxies, and with the broker as it usually
// is.
func (r Report) ratios(w io.Writer, of *Contender) {
	fmt.Fprintf(w, "\nCPU of %s against\n", of.Name)
	for _, name := range append([]string{cloakroom}, proxies...) {
		if name == of.Name {
			continue
		}
		ratio := of.CPUAgainst[name]
		fmt.Fprintf(w, "  %-12s  %.2f  (%.2f to %.2f)%s\n", name, ratio.Median, ratio.Least, ratio.Most, r.verdict(of.Name, name))
	}
}

func (r Report) table(w io.Writer) {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\tCPU µs/request\trequests/s\tp50 ms\tp99 ms\t")
	for _, name := range proxies {
		fmt.Fprintf(t, "CPU/%s\t", name)
	}
	fmt.Fprintln(t)
	for _, c := range r.Contenders {
		fmt.Fprintf(t, "%s\t%.1f\t%.0f\t%.2f\t%.2f\t", c.Name, c.CPU, c.Throughput, c.P50/1000, c.P99/1000)
		for _, name := range proxies {
			if name == c.Name {
				fmt.Fprint(t, "1\t")
			} else {
				fmt.Fprintf(t, "%.2f\t", c.CPUAgainst[name].Median)
			}
		}
		fmt.Fprintln(t)
	}
	_ = t.Flush() // to a builder, which takes everything
}

func (r Report) verdict(of, against string) string {
	for _, t := range r.Targets {
		if t.Of != of || t.Against != against {
			continue
		}
		if t.Met {
			return fmt.Sprintf("  target %g: met", t.AtMost)
		}
		return fmt.Sprintf("  target %g: missed", t.AtMost)
	}
	return ""
}

func (m Machine) name() string {
	if m.CPU == "" {
		return "unknown processor"
	}
	return m.CPU
}

// cpuModel asks Linux for the processor's name.
func cpuModel() string {
	f, err := os.Open("/proc/cpuinfo")
	if err != nil {
		return ""
	}
	defer f.Close()
	for lines := bufio.NewScanner(f); lines.Scan(); {
		if name, value, _ := strings.Cut(lines.Text(), ":"); strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return ""
}
