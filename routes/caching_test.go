package routes_test

import (
	"net/http"
	"strings"
	"testing"
)

// A cache in front sees no Authorization, on which the upstream relies (RFC 9111,
// section 3.5).
func TestSharedCachesKeepNobodysAnswer(t *testing.T) {
	var says []string
	f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		for _, field := range says {
			name, value, _ := strings.Cut(field, ": ")
			w.Header().Add(name, value)
		}
		if r.Header.Get("If-None-Match") != "" {
			w.WriteHeader(http.StatusNotModified)
		}
	}))
	for _, c := range []struct {
		upstream    []string
		cache, vary string
	}{
		{nil, "private", ""},
		{[]string{"Expires: Thu, 01 Dec 2050 16:00:00 GMT"}, "private", ""},
		{[]string{"Cache-Control: max-age=60"}, "max-age=60, private", ""},
		{[]string{"Cache-Control: max-age=60", "Cache-Control: immutable"}, "max-age=60, immutable, private", ""},
		{[]string{"Cache-Control: no-cache, must-revalidate"}, "no-cache, must-revalidate, private", ""},
		{[]string{`Cache-Control: private="x-mine", max-age=60`}, `private="x-mine", max-age=60, private`, ""},
		{[]string{"Cache-Control: max-age=60,PUBLIC"}, "max-age=60,PUBLIC", ""},
		{[]string{"Cache-Control: s-maxage=60"}, "s-maxage=60", ""},
		{[]string{"Cache-Control: max-age=60", "Cache-Control: private"}, "max-age=60, private", ""},
		{[]string{"Cache-Control: no-store"}, "no-store", ""},
		{[]string{"Vary: Accept, authorization"}, "private", "Accept, authorization, Cookie"},
		{[]string{"Vary: Authorization", "Vary: Cookie"}, "private", "Authorization, Cookie"},
		{[]string{"Vary: *"}, "private", "*"},
		{[]string{"Vary: Accept"}, "private", "Accept"},
	} {
		says = c.upstream
		for _, header := range [][]string{nil, {"If-None-Match", `"x"`}} {
			resp, _ := f.get("/", header...)
			wantHeader(t, strings.Join(c.upstream, "; ")+" "+resp.Status, resp, "Cache-Control", c.cache, "Vary", c.vary)
		}
	}
}
