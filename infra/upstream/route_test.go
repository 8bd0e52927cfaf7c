package upstream

import (
	"errors"
	"net/url"
	"path"
	"strings"
	"testing"
)

func parseURL(t testing.TB, s string) *url.URL {
	t.Helper()
	u, err := url.Parse(s)
	if err != nil {
		t.Fatal(err)
	}
	return u
}

func newTable(t testing.TB, routes ...Route) *Table {
	t.Helper()
	table, err := NewTable(routes)
	if err != nil {
		t.Fatal(err)
	}
	return table
}

func TestResolve(t *testing.T) {
	table := newTable(t,
		Route{Prefix: "/", Target: parseURL(t, "http://web.test")},
		Route{Prefix: "/api", Target: parseURL(t, "http://api.test:9000")},
		Route{Prefix: "/api/v2", Target: parseURL(t, "http://v2.test/"), StripPrefix: true},
		Route{Prefix: "/files", Target: parseURL(t, "https://files.test/store/"), StripPrefix: true},
		Route{Prefix: "/app", Target: parseURL(t, "http://app.test/base")},
	)
	for target, want := range map[string]string{
		"/":                              "http://web.test /",
		"/?":                             "http://web.test /?",
		"/apix":                          "http://web.test /apix",
		"/ap":                            "http://web.test /ap",
		"/API/x":                         "http://web.test /API/x",
		"/x;v=1/api":                     "http://web.test /x;v=1/api",
		"/api/x;v=1":                     "http://api.test:9000 /api/x;v=1",
		"/api":                           "http://api.test:9000 /api",
		"/api/":                          "http://api.test:9000 /api/",
		"/api/x":                         "http://api.test:9000 /api/x",
		"/api?x=/api/v2":                 "http://api.test:9000 /api?x=/api/v2",
		"/api/v20":                       "http://api.test:9000 /api/v20",
		"/%61pi/x":                       "http://api.test:9000 /%61pi/x",
		"/api/v2":                        "http://v2.test/ /",
		"/api/v2?a=b":                    "http://v2.test/ /?a=b",
		"/api/v2/":                       "http://v2.test/ /",
		"/api/v2/x?":                     "http://v2.test/ /x?",
		"/api/%762/%7Ex":                 "http://v2.test/ /%7Ex",
		"/files":                         "https://files.test/store/ /store",
		"/files/a%20b/c?d=%2F":           "https://files.test/store/ /store/a%20b/c?d=%2F",
		"/app/x":                         "http://app.test/base /base/app/x",
		"/x?y=../../z&q={|}^`":           "http://web.test /x?y=../../z&q={|}^`",
		"/x?u=http://evil.test/%2e%2e//": "http://web.test /x?u=http://evil.test/%2e%2e//",
	} {
		d, err := table.Resolve([]byte("app.test"), target)
		if err != nil {
			t.Errorf("Resolve(%q): %v", target, err)
			continue
		}
		if got := d.Target.String() + " " + d.Path; got != want {
			t.Errorf("Resolve(%q) = %q, want %q", target, got, want)
		}
	}
}

func TestResolveByHost(t *testing.T) {
	table := newTable(t,
		Route{Prefix: "/", Target: parseURL(t, "http://web.test")},
		Route{Prefix: "/api/v2", Target: parseURL(t, "http://v2.test")},
		Route{Hosts: []string{"a.test", "b.test"}, Prefix: "/api", Target: parseURL(t, "http://ab.test"), Rewrite: "/r"},
		Route{Hosts: []string{"a.test"}, Prefix: "/api/v2/x", Target: parseURL(t, "http://ax.test/base"), Rewrite: "/"},
		Route{Hosts: []string{"[::1]"}, Prefix: "/", Target: parseURL(t, "http://six.test")},
	)
	for request, want := range map[string]string{
		"a.test /":              "http://web.test/",
		"a.test /api":           "a.test http://ab.test/r",
		"A.TEST:8443 /api/v2?q": "a.test http://ab.test/r/v2?q",
		"a.test. /api/":         "a.test http://ab.test/r/",
		"b.test /api/v2/x":      "b.test http://ab.test/r/v2/x",
		"a.test /api/v2/x/y":    "a.test http://ax.test/base/base/y",
		"a.test /api/v2/x":      "a.test http://ax.test/base/base",
		"c.test /api/v2/x":      "http://v2.test/api/v2/x",
		"xa.test /api":          "http://web.test/api",
		"a.test:x /api":         "http://web.test/api",
		"a.test:80:80 /api":     "http://web.test/api",
		"a.test.. /api":         "http://web.test/api",
		"b.test@a.test /api":    "http://web.test/api",
		"a.test%00 /api":        "http://web.test/api",
		" /api":                 "http://web.test/api",
		"[::1]:80 /x":           "[::1] http://six.test/x",
		"::1 /x":                "http://web.test/x",
	} {
		host, target, _ := strings.Cut(request, " ")
		d, err := table.Resolve([]byte(host), target)
		if got := strings.TrimSpace(d.Host + " " + d.Target.String() + d.Path); err != nil || got != want {
			t.Errorf("%s: %s, %v, want %s", request, got, err, want)
		}
	}
}

func TestResolveWithoutRoute(t *testing.T) {
	table := newTable(t, Route{Prefix: "/api", Target: parseURL(t, "http://api.test")})
	for _, target := range []string{"/", "/x", "/apix", "/ap%69x", "/apI"} {
		if _, err := table.Resolve([]byte("app.test"), target); !errors.Is(err, ErrNoRoute) {
			t.Errorf("Resolve(%q): %v, want ErrNoRoute", target, err)
		}
	}
}

var badTargets = []string{
	"", "*", "x", "http://evil.test/", "http://user:pass@evil.test/", "evil.test:80", "?x",
	"//evil.test/", "//", "/a//b", "/a//", "/a/%2f/b", "/a%2Fb", "/%2F", "/%2f%2fevil.test",
	"/.", "/..", "/a/.", "/a/..", "/./a", "/../a", "/a/./b", "/a/../b", "/../../etc/passwd",
	"/%2e", "/%2E%2E/", "/.%2e/a", "/%2e./a", "/a/%2e%2E",
	"/%252e%252e/a", "/.%252e/a", "/%252e/", "/%25252e%25252e/", "/%2525252e%2e/", "/%%32%65/a", "/%25%32%65./",
	"/%25%32%65%25%32%65/a", "/a%252f..%252fb", "/a%252f%252e%252e%252fb", "/..%252f", "/..%255c..%255cb",
	"/%2525252525252e", "/%2525252525252525252541",
	"/..;/a", "/..;x=y/a", "/.;/a", "/;/../a", "/%2e%2e;/a", "/%2e%2e%3b/a", "/..%3bx/a", "/..%253b/a", "/a/..;",
	"/..%20/a", "/..%20", "/.%20;/a", "/%2e%2e%20%20/",
	`/\`, `/a\b`, `/..\a`, "/a%5cb", "/a%5Cb", "/..%5c", "/a%255cb",
	"/a%00b", "/..%00/", "/a%0ab", "/a%0d%0aX:y", "/a%7fb", "/a%2500b", "/%09", "/..%09/",
	"/%", "/100%", "/%zz", "/%u002e%u002e/", "/%2", "/%2x", "/a%",
	"/%c0%ae%c0%ae/a", "/%c0%ae./a", "/..%c0%af..%c0%afa", "/a%c1%9cb", "/%e0%80%ae%e0%80%ae/a", "/a%e0%80%afb", "/a%e0%81%9cb", "/%f0%80%80%ae/",
	"/%25c0%25ae/",
	"/a#b", "/a?b#c", "/#", "/a b", "/a\tb", "/a\x00b", "/a\r\nb", "/a?b\nc", "/a\x7fb", "/ü", "/a?\x80",
}

func TestR24_TargetsThatMayNotPass(t *testing.T) {
	table := newTable(t, Route{Prefix: "/", Target: parseURL(t, "http://web.test")})
	for _, target := range badTargets {
		d, err := table.Resolve([]byte("app.test"), target)
		var e *Error
		if !errors.As(err, &e) || e.Kind != BadTarget || e.Status() != 400 {
			t.Errorf("Resolve(%q) = %+v, %v", target, d, err)
		}
	}
	for _, target := range []string{
		"/", "/...", "/.hidden", "/.well-known/x", "/a..b", "/..a", "/a.", "/a..", "/a;x=../y", "/a/;x/b", "/~a", "/a%20b",
		"/a%2eb", "/%C3%BC", "/%FC", "/a%252fb", "/a%25b", "/100%25", "/100%25/x", "/a%3fb", "/a%23b", "/a%3bb", "/a|b", "/(a)'*!,@:&=+$",
		"/a/b/", "/%e2%80%ae", "/%c4%af",
	} {
		if d, err := table.Resolve([]byte("app.test"), target); err != nil || d.Path != target {
			t.Errorf("Resolve(%q) = %q, %v", target, d.Path, err)
		}
	}
}

func TestNewTableReportsEveryProblem(t *testing.T) {
	web := parseURL(t, "http://web.test")
	for name, r := range map[string]Route{
		"relative prefix":      {Prefix: "api", Target: web},
		"no prefix":            {Prefix: "", Target: web},
		"slash at the end":     {Prefix: "/api/", Target: web},
		"dot segment":          {Prefix: "/a/../b", Target: web},
		"two slashes":          {Prefix: "//a", Target: web},
		"encoded prefix":       {Prefix: "/a%62", Target: web},
		"query in the prefix":  {Prefix: "/a?b", Target: web},
		"no target":            {Prefix: "/a"},
		"other scheme":         {Prefix: "/a", Target: parseURL(t, "ftp://web.test")},
		"no host":              {Prefix: "/a", Target: parseURL(t, "http:///x")},
		"opaque":               {Prefix: "/a", Target: parseURL(t, "http:web.test")},
		"userinfo":             {Prefix: "/a", Target: parseURL(t, "http://u:p@web.test")},
		"query":                {Prefix: "/a", Target: parseURL(t, "http://web.test/?x")},
		"fragment":             {Prefix: "/a", Target: parseURL(t, "http://web.test/#x")},
		"rewritten to nowhere": {Prefix: "/a", Target: web, Rewrite: "b"},
		"rewritten with dots":  {Prefix: "/a", Target: web, Rewrite: "/a/../b"},
		"host with a port":     {Prefix: "/a", Target: web, Hosts: []string{"a.test:80"}},
		"host in upper case":   {Prefix: "/a", Target: web, Hosts: []string{"A.test"}},
		"a host twice":         {Prefix: "/a", Target: web, Hosts: []string{"a.test", "a.test"}},
		"target's dot segment": {Prefix: "/a", Target: parseURL(t, "http://web.test/a/../b")},
	} {
		if _, err := NewTable([]Route{r}); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	_, err := NewTable([]Route{{Prefix: "x"}, {Prefix: "/a", Target: web}, {Prefix: "/a", Target: web}})
	if err == nil || strings.Count(err.Error(), "route ") != 2 {
		t.Errorf("two problems are reported as %v", err)
	}
}

// A path must not reach by one route what another one guards at the same
// upstream, because that reads it in another way.
func TestR24_PathsThatCouldBeAnotherRoutes(t *testing.T) {
	web := parseURL(t, "http://web.test")
	table := newTable(t,
		Route{Prefix: "/", Target: web},
		Route{Prefix: "/api", Target: web},
		Route{Prefix: "/api/admin", Target: web},
		Route{Hosts: []string{"app.test"}, Prefix: "/own", Target: web},
	)
	for _, target := range []string{
		"/api;", "/api;v=1/x", "/api%3b/x", "/api%3Bv/admin", "/api%253b/x", "/;/api", "/;x/api/y", "/%3b/api", "/own;x",
		"/%2561pi", "/%252561pi/x", "/api%252fx", "/%252fapi", "/api/%2561dmin", "/api/admin;x/y", "/api;x%252fq/admin", "/api/;x/admin",
	} {
		d, err := table.Resolve([]byte("app.test"), target)
		if e, ok := errors.AsType[*Error](err); !ok || e.Kind != BadTarget {
			t.Errorf("Resolve(%q) = %+v, %v", target, d, err)
		}
	}
	for target, name := range map[string]string{
		"/x;/api": "/", "/apix;v": "/", "/x%252fy": "/", "/;x": "/", "/x;api/admin": "/", "/api/x;/admin": "/api", "/api/%61dmin/x;y=%3b": "/api/admin", "/%25": "/",
	} {
		if d, err := table.Resolve([]byte("app.test"), target); err != nil || d.Name != name || d.Path != target {
			t.Errorf("Resolve(%q) = %+v, %v, want %s", target, d, err, name)
		}
	}
}

// FuzzTarget holds against what passes an idea of a path that is simpler than
// the rule: decode everything some times over, clean it, and see whether one is
// still below the route.
func FuzzTarget(f *testing.F) {
	for _, s := range badTargets {
		f.Add(s)
	}
	for _, s := range []string{"/", "/api", "/api/x?y", "/api/a%20b", "/%61pi/x", "/api/%252f", "/apix", "/strip/x", "/strip"} {
		f.Add(s)
	}
	table, err := NewTable([]Route{
		{Prefix: "/api", Target: &url.URL{Scheme: "http", Host: "api.test", Path: "/base"}},
		{Prefix: "/strip", Target: &url.URL{Scheme: "http", Host: "strip.test", Path: "/base"}, StripPrefix: true},
		{Prefix: "/", Target: &url.URL{Scheme: "http", Host: "web.test"}},
	})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, target string) {
		d, err := table.Resolve([]byte("app.test"), target)
		if err != nil {
			return
		}
		base := map[string]string{"api.test": "/base/api", "strip.test": "/base", "web.test": ""}[d.Target.Host]
		got, _, _ := strings.Cut(d.Path, "?")
		if d.Path[0] != '/' || strings.HasPrefix(d.Path, "//") || strings.ContainsAny(d.Path, "\r\n \x00#") {
			t.Fatalf("%q became %q", target, d.Path)
		}
		for range decodings + 2 {
			for segment := range strings.SplitSeq(got, "/") {
				segment, _, _ = strings.Cut(segment, ";")
				if s := strings.TrimRight(segment, " "); s == "." || s == ".." {
					t.Fatalf("%q has a dot segment in %q", target, got)
				}
			}
			if strings.ContainsAny(got, "\\\x00\r\n") {
				t.Fatalf("%q hides %q", target, got)
			}
			next, err := url.PathUnescape(got)
			if err != nil {
				break
			}
			if clean := path.Clean(next); !(clean == base || strings.HasPrefix(clean, base+"/")) {
				t.Fatalf("%q leaves %s as %q", target, base, clean)
			}
			if next == got {
				break
			}
			got = next
		}
		again, err := url.Parse("http://" + d.Target.Host + d.Path)
		if err != nil || again.Host != d.Target.Host {
			t.Fatalf("%q is read as host %q, %v", target, again.Host, err)
		}
	})
}
