package broker_test

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/settings"
)

// shown is what /metrics shows, by series: name and labels as they stand there.
type shown map[string]string

// metrics looks at /metrics.
func (s *stack) metrics() (text string, values shown) {
	s.Helper()
	var found []string
	eventually(s.T, "the log says where the metrics are shown", func() bool {
		found = regexp.MustCompile(`msg="metrics are shown" address=(\S+)`).FindStringSubmatch(s.said.String())
		return found != nil
	})
	res, err := http.Get("http://" + found[1] + "/metrics")
	if err != nil {
		s.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil || res.StatusCode != 200 {
		s.Fatalf("GET /metrics = %d, %v", res.StatusCode, err)
	}
	values = shown{}
	for line := range strings.Lines(string(body)) {
		if name, value, ok := strings.Cut(strings.TrimSuffix(line, "\n"), " "); ok && name != "#" {
			values[name] = value
		}
	}
	return string(body), values
}

func withMetrics(s *settings.Settings) { s.MetricsListen = "127.0.0.1:0" }

// TestMetricsTellWhatHappened counts along.
func TestMetricsTellWhatHappened(t *testing.T) {
	s := newStack(t, withMetrics)
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = 100 * time.Millisecond })
	b := s.browser()
	b.do("POST", "/auth/login", `{"email":"`+email+`","password":"not this"}`, asJSON, asScript)
	a := b.signIn(email)
	var signedIn struct {
		DeviceID string `json:"device_id"`
	}
	a.json(t, &signedIn)
	eventually(t, "the token is old", func() bool { return !s.auth.Valid(s.auth.Issued()[0]) })
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = 10 * time.Minute })
	b.get("/api/thing").want(t, 200, "")
	b.get("/api/thing").want(t, 200, "")
	b.do("POST", "/api/thing", "", "Origin: https://evil.example").want(t, 403, "foreign_origin")
	b.do("POST", "/api/thing", "").want(t, 403, "origin_missing")

	req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/stream", nil)
	if err != nil {
		t.Fatal(err)
	}
	res, err := b.client.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if _, err := bufio.NewReader(res.Body).ReadString('\n'); err != nil {
		t.Fatal(err)
	}
	if _, m := s.metrics(); m["cloakroom_streams_open"] != "1" {
		t.Errorf("%s streams are open, want 1", m["cloakroom_streams_open"])
	}
	b.do("POST", "/auth/logout", "", asScript).want(t, 204, "")
	b.get("/api/thing").want(t, 401, "sign_in_required")

	want := shown{
		`cloakroom_logins_total{method="Password",result="ok"}`:        "1",
		`cloakroom_logins_total{method="Password",result="refused"}`:   "1",
		`cloakroom_refreshes_total{outcome="ok"}`:                      "1",
		`cloakroom_refreshes_total{outcome="taken_over"}`:              "0",
		`cloakroom_refresh_duration_seconds_count{outcome="ok"}`:       "1",
		`cloakroom_refresh_waiters`:                                    "0",
		`cloakroom_refreshes_running`:                                  "0",
		`cloakroom_auth_breaker_open{provider="Password"}`:             "0",
		`cloakroom_auth_refuses_broker{provider="Password"}`:           "0",
		`cloakroom_sessions_ended_total{reason="signed_out"}`:          "1",
		`cloakroom_revocations_total{result="done"}`:                   "1",
		`cloakroom_revocations_pending`:                                "0",
		`cloakroom_streams_open`:                                       "0",
		`cloakroom_streams_cut_total{by="device"}`:                     "1",
		`cloakroom_proxied_requests_total{route="/",status="2xx"}`:     "3", // the stream is the third
		`cloakroom_proxied_requests_total{route="/",status="4xx"}`:     "1",
		`cloakroom_csrf_refused_total{reason="foreign_origin"}`:        "1",
		`cloakroom_csrf_refused_total{reason="origin_missing"}`:        "1",
		`cloakroom_store_operation_seconds_count{op="create"}`:         "1",
		`cloakroom_store_operation_seconds_count{op="replace_tokens"}`: "1",
		`cloakroom_store_errors_total{op="get"}`:                       "0",
	}
	var text string
	var have shown
	differ := func() string {
		var d strings.Builder
		for name, value := range want {
			if have[name] != value {
				fmt.Fprintf(&d, "%s is %q, want %s\n", name, have[name], value)
			}
		}
		return d.String()
	}
	for deadline := time.Now().Add(10 * time.Second); ; {
		text, have = s.metrics() // the revocation and the stream's end come a moment later
		if differ() == "" {
			break
		}
		if time.Now().After(deadline) {
			t.Fatal(differ())
		}
	}
	for _, secret := range append(s.auth.Issued(), signedIn.DeviceID, email, password, b.ticket()) {
		if secret != "" && strings.Contains(text, secret) {
			t.Errorf("the metrics show %q", secret)
		}
	}
}

// TestMetricsNameEachOutcome looks at the ways in which a refresh can fail.
func TestMetricsNameEachOutcome(t *testing.T) {
	for outcome, behaviour := range map[string]authapitest.Behaviour{
		"invalid_grant": authapitest.Refuse("invalid_grant"),
		"client_error":  authapitest.Refuse("invalid_client"),
		"upstream_5xx":  authapitest.Unavailable(""),
		"throttled":     authapitest.TooMany(""),
		"broken_answer": authapitest.Garbage,
		"network":       authapitest.Cut,
		"timeout":       authapitest.NewGate().Before,
	} {
		t.Run(outcome, func(t *testing.T) {
			t.Parallel()
			s := newStack(t, func(s *settings.Settings) { withMetrics(s); s.AuthTimeout = 300 * time.Millisecond })
			s.auth.Set(func(o *authapitest.Options) { o.AccessLife = 10 * time.Millisecond })
			b := s.browser()
			b.signIn(email)
			eventually(t, "the token is old", func() bool { return !s.auth.Valid(s.auth.Issued()[0]) })
			s.auth.Always(authapitest.RefreshPath, behaviour)
			a := b.get("/api/thing")
			_, m := s.metrics()
			if n := m[`cloakroom_refreshes_total{outcome="`+outcome+`"}`]; n != "1" {
				t.Errorf("answered %d; %s refreshes are %s, want 1", a.StatusCode, n, outcome)
			}
			refuses := map[bool]string{true: "1"}[outcome == "client_error"]
			if n := m[`cloakroom_auth_refuses_broker{provider="Password"}`]; n != max(refuses, "0") {
				t.Errorf("refuses_broker is %s after %s", n, outcome)
			}
			if outcome == "client_error" && !strings.Contains(s.said.String(), "level=ERROR msg=\"the auth server refuses the broker") {
				t.Error("the log does not shout")
			}
		})
	}
}

// TestMetricsNeedAnAddressOfTheirOwn: by default there are none, and an address
// that is taken is told with the setting's name.
func TestMetricsNeedAnAddressOfTheirOwn(t *testing.T) {
	s := newStack(t, nil)
	s.browser().get("/metrics").want(t, 401, "sign_in_required") // the upstream's, like any path
	if strings.Contains(s.said.String(), "metrics are shown") {
		t.Error("metrics are shown without the setting")
	}
}

// TestMetricsAreWhatTheDocumentSays compares docs/metrics.md with what is shown:
// names, kinds, labels, and the labels' values where the document lists them.
func TestMetricsAreWhatTheDocumentSays(t *testing.T) {
	s := newStack(t, withMetrics)
	text, _ := s.metrics()
	kinds := map[string]string{}
	values := map[string]map[string]map[string]bool{} // by name and label
	for line := range strings.Lines(text) {
		if kind := regexp.MustCompile(`^# TYPE (cloakroom_\S+) (\S+)`).FindStringSubmatch(line); kind != nil {
			kinds[kind[1]] = kind[2]
			values[kind[1]] = map[string]map[string]bool{}
			continue
		}
		series := regexp.MustCompile(`^(cloakroom_[a-z0-9_]+?)(?:_bucket|_sum|_count)?(?:\{(.*)\})? `).FindStringSubmatch(line)
		if series == nil {
			continue
		}
		for _, label := range regexp.MustCompile(`([a-z_]+)="([^"]*)"`).FindAllStringSubmatch(series[2], -1) {
			if label[1] == "le" {
				continue
			}
			at := values[series[1]]
			if at[label[1]] == nil {
				at[label[1]] = map[string]bool{}
			}
			at[label[1]][label[2]] = true
		}
	}
	have := map[string]string{}
	for name, kind := range kinds {
		have[name] = kind
		for _, label := range slices.Sorted(maps.Keys(values[name])) {
			have[name] += " " + label
			if label == "route" || label == "provider" || label == "method" {
				continue // from the settings
			}
			have[name] += "=" + strings.Join(slices.Sorted(maps.Keys(values[name][label])), ",")
		}
	}

	document, err := os.ReadFile("../../docs/metrics.md")
	if err != nil {
		t.Fatal(err)
	}
	lists := map[string][]string{} // of a label's values, by "name label" or "label"
	for _, list := range regexp.MustCompile("(?m)^<!-- values of (.+) -->\n((?:.*\n)*?)\n").FindAllStringSubmatch(string(document), -1) {
		for _, row := range regexp.MustCompile("(?m)^\\| `([^`]+)` \\|").FindAllStringSubmatch(list[2], -1) {
			lists[list[1]] = append(lists[list[1]], row[1])
		}
		slices.Sort(lists[list[1]])
	}
	want := map[string]string{}
	for _, row := range regexp.MustCompile("(?m)^\\| `(cloakroom_[a-z0-9_]+)` \\| ([a-z]+) \\|([^|]*)\\|").FindAllStringSubmatch(string(document), -1) {
		want[row[1]] = row[2]
		var labels []string
		for _, label := range regexp.MustCompile("`([a-z_]+)`").FindAllStringSubmatch(row[3], -1) {
			labels = append(labels, label[1])
		}
		slices.Sort(labels)
		for _, label := range labels {
			want[row[1]] += " " + label
			list, ok := lists[row[1]+" "+label]
			if !ok {
				list, ok = lists[label]
			}
			if ok {
				want[row[1]] += "=" + strings.Join(list, ",")
			}
		}
	}
	for name := range have {
		if have[name] != want[name] {
			t.Errorf("%s is shown as %q, and docs/metrics.md says %q", name, have[name], want[name])
		}
	}
	for name := range want {
		if _, there := have[name]; !there {
			t.Errorf("docs/metrics.md speaks of %s, which is not shown", name)
		}
	}
}
