// Package testreport lets tests say which servers they have really met. What a
// test needs from outside, a database or a browser, may be missing on a machine
// and be replaced by a substitute; go test hides that, because it shows nothing
// of packages that pass. So every fixture tells it here, and whoever ran the
// tests reads it in one file:
//
//	CLOAKROOM_TEST_REPORT   a file that gets one line from each fixture
//	CLOAKROOM_TEST_REQUIRE  names, comma-separated, that have to be real: a
//	                        substitute or a skip is a failure then
//
// Only tests and their fixtures import it.
package testreport

import (
	"os"
	"slices"
	"strings"
	"testing"
)

const (
	reportVariable  = "CLOAKROOM_TEST_REPORT"
	requireVariable = "CLOAKROOM_TEST_REQUIRE"
)

// Real reports that the test meets the real thing. The detail says which one,
// such as "redis-server 7.0.15".
func Real(t testing.TB, name, detail string) {
	t.Helper()
	report(t, name, "REAL "+detail)
}

// Substitute reports that the test meets something else in its place, and fails
// the test if name is required.
func Substitute(t testing.TB, name, detail string) {
	t.Helper()
	report(t, name, "SUBSTITUTE "+detail)
	if Required(name) {
		t.Fatalf("%s has to be real, as %s says, and there is only %s", name, requireVariable, detail)
	}
}

// Missing reports that there is neither, and why, and ends the test: as skipped,
// or as failed if name is required.
func Missing(t testing.TB, name, reason string) {
	t.Helper()
	report(t, name, "NOT TESTED "+reason)
	if Required(name) {
		t.Fatalf("%s has to be tested, as %s says: %s", name, requireVariable, reason)
	}
	t.Skip(reason)
}

// Required reports whether name has to be real.
func Required(name string) bool {
	return slices.ContainsFunc(strings.Split(os.Getenv(requireVariable), ","), func(required string) bool {
		return strings.TrimSpace(required) == name
	})
}

// report appends one line. Several test processes append to the file at once;
// a single short write in append mode keeps their lines whole.
func report(t testing.TB, name, text string) {
	t.Helper()
	text = strings.Join(strings.Fields(text), " ")
	t.Attr(name, text)
	path := os.Getenv(reportVariable)
	if path == "" {
		return
	}
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_APPEND|os.O_CREATE, 0o644)
	if err != nil {
		t.Fatalf("%s: %v", reportVariable, err)
	}
	_, err = file.WriteString(name + ": " + text + "\n")
	if closed := file.Close(); err == nil {
		err = closed
	}
	if err != nil {
		t.Fatalf("%s: %v", reportVariable, err)
	}
}
