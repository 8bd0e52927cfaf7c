package testreport

import (
	"os"
	"path/filepath"
	"runtime"
	"testing"
)

// spy is a test that notes its end instead of coming to it.
type spy struct {
	testing.TB
	failed, skipped bool
}

func (s *spy) Helper()               {}
func (s *spy) Attr(string, string)   {}
func (s *spy) Fatalf(string, ...any) { s.failed = true; runtime.Goexit() }
func (s *spy) Skip(...any)           { s.skipped = true; runtime.Goexit() }

// run reports on a goroutine of its own, which Fatalf and Skip end.
func run(t *testing.T, report func(testing.TB)) *spy {
	s := &spy{TB: t}
	done := make(chan struct{})
	go func() {
		defer close(done)
		report(s)
	}()
	<-done
	return s
}

func TestEveryReportIsOneLine(t *testing.T) {
	path := filepath.Join(t.TempDir(), "report")
	t.Setenv(reportVariable, path)
	t.Setenv(requireVariable, "")
	run(t, func(t testing.TB) { Real(t, "redis", "redis-server 7.0.15\n(standalone)") })
	run(t, func(t testing.TB) { Substitute(t, "mongo", "wire double") })
	run(t, func(t testing.TB) { Missing(t, "chromium", "none on the path") })
	got, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	want := "redis: REAL redis-server 7.0.15 (standalone)\nmongo: SUBSTITUTE wire double\nchromium: NOT TESTED none on the path\n"
	if string(got) != want {
		t.Errorf("the report is %q, want %q", got, want)
	}
}

func TestWhatIsRequiredHasToBeReal(t *testing.T) {
	t.Setenv(reportVariable, "")
	for _, c := range []struct {
		name            string
		report          func(testing.TB, string, string)
		require         string
		failed, skipped bool
	}{
		{"a substitute will do", Substitute, "", false, false},
		{"a substitute for what is not required", Substitute, "redis-cluster,mongo", false, false},
		{"a substitute for what is required", Substitute, "mongo, redis", true, false},
		{"nothing will do", Missing, "mongo", false, true},
		{"nothing for what is required", Missing, "redis", true, false},
		{"the real one", Real, "redis", false, false},
	} {
		t.Setenv(requireVariable, c.require)
		if s := run(t, func(t testing.TB) { c.report(t, "redis", "detail") }); s.failed != c.failed || s.skipped != c.skipped {
			t.Errorf("%s: failed %v, skipped %v", c.name, s.failed, s.skipped)
		}
	}
}
