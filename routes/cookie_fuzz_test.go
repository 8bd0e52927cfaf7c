package routes

import (
	"net/http"
	"slices"
	"strings"
	"testing"
)

// FuzzCookies takes Cookie headers apart and looks at the two parts as upstreams
// do: our cookie is in none of what they get, and all else is.
func FuzzCookies(f *testing.F) {
	ticket := "0192f0c1-2d3e-7f45-8a6b-1c2d3e4f5a6b." + strings.Repeat("A", 43)
	for _, secure := range []bool{true, false} {
		name := Config{SecureCookie: secure}.cookieName()
		for _, header := range []string{
			"", name, name + "=", "a=b; " + name + "=" + ticket + "; c=d", name + " = " + ticket + ";;a", "a=" + ticket + "; " + name + "=" + ticket,
			name + "=x; " + name + "=y", `a="b; ` + name + "=" + ticket + `"`, "\t" + name + "=" + ticket + "\t;a=b=c", workCookie + "1=x; " + name + "=" + ticket, "x" + name + "=y", name + "\r",
		} {
			f.Add(header, secure)
		}
	}
	f.Fuzz(func(t *testing.T, header string, secure bool) {
		name := Config{SecureCookie: secure}.cookieName()
		got, rest, err := splitCookies(header, name)
		if err != nil {
			if got != "" || rest != "" {
				t.Errorf("refused, and yet %q and %q", got, rest)
			}
			return
		}
		var want []string
		for pair := range strings.SplitSeq(header, ";") {
			pair = strings.Trim(pair, cookieSpace)
			key, _, _ := strings.Cut(pair, "=")
			if pair != "" && strings.TrimRight(key, cookieSpace) != name && !isWorkCookie(key) {
				want = append(want, pair)
			}
		}
		var passed []string
		for pair := range strings.SplitSeq(rest, ";") {
			if pair = strings.Trim(pair, cookieSpace); pair != "" {
				passed = append(passed, pair)
			}
		}
		if !slices.Equal(passed, want) {
			t.Errorf("of %q the upstream gets %q, want %q", header, passed, want)
		}
		// Somebody else's reading of the same text.
		r := http.Request{Header: http.Header{"Cookie": {rest}}}
		for _, c := range r.Cookies() {
			if strings.TrimSpace(c.Name) == name || isWorkCookie(c.Name) {
				t.Errorf("of %q the upstream reads our cookie %s", header, c.Name)
			}
		}
	})
}
