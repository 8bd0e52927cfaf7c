package settings_test

import (
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"net/http/httptest"
	"os"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
)

// authority is a file with the certificate of some authority.
func authority(t *testing.T) string {
	s := httptest.NewTLSServer(nil)
	defer s.Close()
	return string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw}))
}

// withRoutes is settings whose YAML file has these routes.
func withRoutes(routes string, files map[string]string) world {
	w := world{flags: []string{"--config=c.yaml"}, files: map[string]string{"c.yaml": "route:\n" + routes}}
	for name, text := range files {
		w.files[name] = text
	}
	w.env = []string{"CLOAKROOM_AUTH_URL=https://auth.example", "CLOAKROOM_STORE=memory:"}
	return w
}

// withRoute is settings with a route in the short form.
func withRoute(text string) world {
	return world{env: append([]string{"CLOAKROOM_ROUTE=" + text}, enough()...)}
}

func TestRouteOptions(t *testing.T) {
	ca := authority(t)
	s, values, problems := withRoutes(`
  - host: [App.Example, "[::1]"]
    prefix: /api
    upstream: [https://a.internal:8443/v1/, HTTPS://B.internal/v1]
    rewrite-prefix: /r
    connect-timeout: 2s
    first-byte-timeout: 0s
    idle-timeout: 1m
    max-body: 10MiB
    method: [GET, POST]
    ca-file: ca.pem
    health-path: /healthz
    health-interval: 3s
    auth: required
    csrf: header
    role: [admin, "the boss"]
    scope: read write
    identity-header: [user, groups, issuer]
    set-header: ["X-Api-Key: hunter2, or: not"]
    hide-header: Server
  - host: b.example
    upstream: h2c://10.0.0.1:81
    auth: none
    csrf: off
    pass-authorization: yes
  - prefix: /
    upstream: unix:///run/app.sock
`, map[string]string{"ca.pem": ca}).load(t)
	if problems != nil {
		t.Fatal(problems)
	}
	none := time.Duration(0)
	want := []settings.Route{{
		Hosts: []string{"app.example", "[::1]"}, Prefix: "/api", RewritePrefix: "/r",
		Upstreams:      []settings.Upstream{{Scheme: "https", Host: "a.internal:8443", Path: "/v1"}, {Scheme: "https", Host: "b.internal", Path: "/v1"}},
		ConnectTimeout: 2 * time.Second, FirstByteTimeout: &none, IdleTimeout: time.Minute, MaxBody: 10 << 20, Methods: []string{"GET", "POST"},
		CAFile: "ca.pem", CA: ca, HealthPath: "/healthz", HealthInterval: 3 * time.Second,
		Auth: "required", CSRF: "header", Roles: []string{"admin", "the boss"}, Scopes: []string{"read write"}, IdentityHeaders: []string{"user", "groups", "issuer"},
		SetHeaders: []settings.Header{{Name: "X-Api-Key", Value: domain.NewSecret("hunter2, or: not")}}, HideHeaders: []string{"Server"},
	}, {
		Hosts: []string{"b.example"}, Prefix: "/", Upstreams: []settings.Upstream{{Scheme: "h2c", Host: "10.0.0.1:81"}},
		Auth: "none", CSRF: "off", PassAuthorization: true,
	}, {
		Prefix: "/", Upstreams: []settings.Upstream{{Scheme: "unix", Path: "/run/app.sock"}},
	}}
	for i := range want {
		if !reflect.DeepEqual(s.Routes[i], want[i]) {
			t.Errorf("route %d\n is  %+v\nwant %+v", i+1, s.Routes[i], want[i])
		}
	}
	i := slices.IndexFunc(values, func(v schema.Value) bool { return v.Name == "route" })
	shown := values[i].Value
	if strings.Contains(shown, "hunter2") || !strings.Contains(shown, ";set-header=X-Api-Key;hide-header=Server,/=h2c://10.0.0.1:81;host=b.example;auth=none;pass-authorization;csrf=off,/=unix:/run/app.sock") {
		t.Errorf("shown as %s", shown)
	}
}

func TestShortRoutes(t *testing.T) {
	for text, want := range map[string]string{
		"/a=http://h;strip-prefix;auth=optional;host=A.example": "/a=http://h;strip-prefix;host=a.example;auth=optional",
		"/=unix:/run/x.sock":        "/=unix:/run/x.sock",
		"/=h2c://h:1;auth=none":     "/=h2c://h:1;auth=none",
		"=http://h;host=b.example":  "/=http://h;host=b.example",
		"/a=https://H.example:443/": "/a=https://h.example:443",
	} {
		s, _, problems := withRoute(text).load(t)
		if problems != nil || s.Routes[0].String() != want {
			t.Errorf("%s is read as %v, %v, want %s", text, s.Routes, problems, want)
		}
	}
	for text, want := range map[string]string{
		"/a=http://h;auth=some":           "CLOAKROOM_ROUTE: has a bad auth, which is none of the allowed values",
		"/a=http://h;auth=none;auth=none": "CLOAKROOM_ROUTE: has an option twice",
		"/a=http://h;prefix=/b":           "CLOAKROOM_ROUTE: has an option twice",
		"/a=http://h;csrf=off":            "CLOAKROOM_ROUTE: has an unknown option",
		"/a=http://h;host=a:80":           "CLOAKROOM_ROUTE: has a host that is none",
		"=http://h":                       "CLOAKROOM_ROUTE: has neither prefix nor host",
		"/a=unix:run/x.sock":              "CLOAKROOM_ROUTE: has a bad upstream, which names no socket",
		"/a=unix:/":                       "CLOAKROOM_ROUTE: has a bad upstream, which names no socket",
		"/a=h2c://u:p@h":                  "CLOAKROOM_ROUTE: has a bad upstream, which holds a user name",
		"/a=ws://h":                       "CLOAKROOM_ROUTE: has a bad upstream, which does not begin with http://, https://, h2c:// or unix:",
	} {
		if _, _, problems := withRoute(text).load(t); len(problems) != 1 || !strings.HasPrefix(problems[0], want) {
			t.Errorf("%s: %q, want %q", text, []string(problems), want)
		}
	}
}

func TestRoutesThatDoNotGoTogether(t *testing.T) {
	for _, tt := range []struct{ route, want string }{
		{"{prefix: /a, upstream: 'http://h', csrf: off}", "has csrf: off"},
		{"{prefix: /a, upstream: 'http://h', csrf: off, auth: optional}", "has csrf: off"},
		{"{prefix: /a, upstream: 'http://h', pass-authorization: true}", "has pass-authorization, but with auth: required"},
		{"{prefix: /a, upstream: 'http://h', auth: optional, pass-authorization: true}", "has pass-authorization, but with auth: optional"},
		{"{prefix: /a, upstream: 'http://h', auth: optional, role: admin}", "asks for a role or a scope"},
		{"{prefix: /a, upstream: 'http://h', auth: none, scope: read}", "asks for a role or a scope"},
		{"{prefix: /a, upstream: 'http://h', auth: none, identity-header: user}", "has an identity-header"},
		{"{prefix: /a, upstream: 'http://h', strip-prefix: true, rewrite-prefix: /b}", "has strip-prefix and rewrite-prefix"},
		{"{prefix: /a, upstream: 'http://h', ca-file: ca.pem}", "has a ca-file, but its upstream is not https"},
		{"{prefix: /a, upstream: 'https://h', ca-file: none.pem}", "has a ca-file that names a file that does not exist"},
		{"{prefix: /a, upstream: 'https://h', ca-file: c.yaml}", "has a ca-file without a certificate"},
		{"{prefix: /a, upstream: [http://h, http://h]}", "has the same upstream twice"},
		{"{prefix: /a, upstream: [" + manyUpstreams(65) + "]}", "has 65 upstreams; give it 64 at most"},
		{"{prefix: /a, upstream: [http://h, https://i]}", "has upstreams that differ in more"},
		{"{prefix: /a, upstream: [http://h/a, http://i/b]}", "has upstreams that differ in more"},
		{"{prefix: /a, upstream: ['http://h', 'http://127.0.0.1:8080']}", "leads back to Cloakroom"},
		{"{prefix: /a, upstream: 'http://h', health-path: /x}", "has a health-path, but no second upstream"},
		{"{prefix: /a, upstream: [http://h, http://i], health-interval: 1s}", "has a health-interval without"},
		{"{prefix: /a, upstream: 'http://h', method: [GET, BREW]}", "has a method that cannot be"},
		{"{prefix: /a, upstream: 'http://h', method: get}", "has a method that cannot be"},
		{"{prefix: /a, upstream: 'http://h', method: [GET, GET]}", "has the method GET twice"},
		{"{prefix: /a, upstream: 'http://h', set-header: ['X-A: 1', 'x-a: 2']}", "sets the header x-a twice"},
		{"{prefix: /a, upstream: 'http://h', hide-header: Content-Length}", "has a hide-header that cannot be left out"},
		{"{prefix: /a, upstream: 'http://h', hide-header: 'a b'}", "has a hide-header that cannot be left out"},
		{"{prefix: '/a;b', upstream: 'http://h'}", "has a path with characters"},
		{"{upstream: 'http://h'}", "has neither prefix nor host"},
		{"{host: a.example, prefix: /auth/x, upstream: 'http://h'}", "is below /auth"},
		{"{host: 'a.example:80', upstream: 'http://h'}", "has a host that is none"},
		{"{host: [a.example, A.example], upstream: 'http://h'}", "has the same path as"},
	} {
		_, _, problems := withRoutes("  - "+tt.route+"\n", map[string]string{"ca.pem": authority(t)}).load(t)
		if len(problems) != 1 || !strings.HasPrefix(problems[0], "route[1] in c.yaml, line 2: "+tt.want) {
			t.Errorf("%s: %q, want %q", tt.route, []string(problems), tt.want)
		}
	}
	for _, name := range []string{
		"Authorization", "cookie", "Host", "Connection", "Content-Length", "Transfer-Encoding", "X-Forwarded-User", "X-Forwarded-For", "Forwarded",
		"X-Auth-Request-Email", "Remote-User", "X_Under", "TE", "Upgrade", "X-Real-Ip", "Proxy-Authorization", "Expect", "a b", "", "Trailer",
	} {
		_, _, problems := withRoutes(fmt.Sprintf("  - {prefix: /a, upstream: 'http://h', set-header: '%s: hunter2'}\n", name), nil).load(t)
		if len(problems) != 1 || strings.Contains(problems[0], "hunter2") {
			t.Errorf("set-header %q: %q", name, []string(problems))
		}
	}
}

func manyUpstreams(n int) string {
	list := make([]string, n)
	for i := range list {
		list[i] = fmt.Sprintf("http://h%d", i)
	}
	return strings.Join(list, ", ")
}

// One of two routes for the same place would never get a request.
func TestUnreachableRoutes(t *testing.T) {
	_, _, problems := withRoutes(`
  - {prefix: /a, upstream: http://h}
  - {host: [x.example, y.example], upstream: http://h}
  - {host: [z.example, y.example], upstream: http://h}
  - {host: x.example, prefix: /a, upstream: http://h}
  - {prefix: /a, upstream: http://i, method: POST}
`, nil).load(t)
	want := []string{
		"route[3] in c.yaml, line 5: has the same path as route[2] in c.yaml, line 4 for y.example,",
		"route[5] in c.yaml, line 7: has the same path as route[1] in c.yaml, line 3,",
	}
	if !slices.EqualFunc(problems, want, strings.HasPrefix) {
		t.Errorf("%q, want %q", []string(problems), want)
	}
}

func TestOverlaps(t *testing.T) {
	s, _, problems := withRoutes(`
  - {prefix: /, upstream: http://h}
  - {prefix: /api, upstream: http://h, auth: optional}
  - {prefix: /api/v2, upstream: http://h}
  - {prefix: /apis, upstream: http://h}
  - {host: x.example, upstream: http://h}
  - {host: x.example, prefix: /open, upstream: http://h, auth: none}
  - {host: y.example, prefix: /a, upstream: http://h, role: [admin], scope: [a]}
  - {host: y.example, prefix: /a/b, upstream: http://h, scope: [b]}
  - {host: y.example, prefix: /a/c, upstream: http://h, role: [analyst]}
  - {host: y.example, prefix: /a/d, upstream: http://h, role: [analyst], scope: [d]}
`, nil).load(t)
	if problems != nil {
		t.Fatal(problems)
	}
	var got []string
	for _, o := range settings.Overlaps(s.Routes) {
		got = append(got, fmt.Sprint(o.Text, " ", o.Open))
	}
	want := []string{
		"route /api takes requests from /, and asks for less: auth is required there and optional here true",
		"route /api/v2 takes requests from /api false",
		"route /apis takes requests from / false",
		"route x.example/ takes requests from / false",
		"route x.example/ takes requests from /api, although that has the longer path: a host comes first false",
		"route x.example/ takes requests from /api/v2, although that has the longer path: a host comes first false",
		"route x.example/ takes requests from /apis, although that has the longer path: a host comes first false",
		"route x.example/open takes requests from x.example/, and asks for less: auth is required there and none here true",
		"route y.example/a takes requests from / false",
		"route y.example/a/b takes requests from y.example/a, and asks for less: a role is needed there and none here true",
		"route y.example/a/c takes requests from y.example/a, and asks for less: a scope is needed there and none here true",
		"route y.example/a/d takes requests from y.example/a false",
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	if settings.Overlaps(s.Routes[3:4]) != nil {
		t.Error("a route overlaps with itself")
	}
}

// A route for a host takes from every route for any host that is below it, unless
// another one for the host does, and of two hosts' routes from both.
func TestOverlapsOfHosts(t *testing.T) {
	s, _, problems := withRoutes(`
  - {prefix: /api, upstream: http://h}
  - {prefix: /admin, upstream: http://h, role: [admin]}
  - {prefix: /admin/logs, upstream: http://h, role: [admin]}
  - {host: [x.example, y.example], upstream: http://h}
  - {host: x.example, prefix: /admin, upstream: http://h, role: [admin]}
  - {host: y.example, prefix: /a, upstream: http://h, role: [admin]}
  - {host: [x.example, y.example], prefix: /a/b, upstream: http://h}
`, nil).load(t)
	if problems != nil {
		t.Fatal(problems)
	}
	var got []string
	for _, o := range settings.Overlaps(s.Routes) {
		got = append(got, fmt.Sprint(o.Text, " ", o.Open))
	}
	const longer = ", although that has the longer path: a host comes first"
	const role = ", and asks for less: a role is needed there and none here true"
	want := []string{
		"route /admin/logs takes requests from /admin false",
		"route x.example|y.example/ takes requests from /api" + longer + " false",
		"route x.example|y.example/ takes requests from /admin" + longer + role,
		"route x.example|y.example/ takes requests from /admin/logs" + longer + role,
		"route x.example/admin takes requests from x.example|y.example/ false",
		"route y.example/a takes requests from x.example|y.example/ false",
		"route x.example|y.example/a/b takes requests from x.example|y.example/ false",
		"route x.example|y.example/a/b takes requests from y.example/a" + role,
	}
	if !slices.Equal(got, want) {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestSizes(t *testing.T) {
	for text, want := range map[string]settings.Size{
		"0": 0, "7": 7, "7B": 7, "1kB": 1000, "512KiB": 512 << 10, "10MiB": 10 << 20, "3 MB": 3e6, "2GiB": 2 << 30, "1GB": 1e9,
		"": -1, "-1": -1, "1.5MiB": -1, "1TiB": -1, "x": -1, "MiB": -1, "9223372036854775807KiB": -1, "1mib": -1,
	} {
		var s settings.Size
		if err := s.UnmarshalText([]byte(text)); (err != nil) != (want < 0) || err == nil && s != want {
			t.Errorf("%q is %d, %v, want %d", text, s, err, want)
		}
		var again settings.Size
		if err := again.UnmarshalText([]byte(s.String())); err != nil || again != s {
			t.Errorf("%d is written %s and read as %d, %v", s, s, again, err)
		}
	}
}

// TestTheRoutesOfTheDocument loads what docs/routes.md shows.
func TestTheRoutesOfTheDocument(t *testing.T) {
	text, err := os.ReadFile("../../docs/routes.md")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```yaml\nroute:\n(.*?)```").FindAllSubmatch(text, -1)
	if len(blocks) != 1 {
		t.Fatalf("%d lists of routes in the document", len(blocks))
	}
	w := withRoutes(string(blocks[0][1]), map[string]string{"/etc/cloakroom/internal-ca.pem": authority(t)})
	s, _, problems := w.load(t)
	if problems != nil || len(s.Routes) < 5 {
		t.Fatalf("%d routes, %v", len(s.Routes), problems)
	}
	// Every option that there is, is in the example or in the short form above it.
	v := reflect.TypeFor[settings.Route]()
	for i := range v.NumField() {
		if name := v.Field(i).Tag.Get("name"); name != "" && !regexp.MustCompile("(?m)^ *(- )?"+name+":").Match(blocks[0][1]) {
			t.Errorf("the example does not show %s", name)
		}
		if name := v.Field(i).Tag.Get("name"); name != "" && !strings.Contains(string(text), "`"+name+"`") {
			t.Errorf("the document does not say what %s is", name)
		}
	}
	short := regexp.MustCompile(`--route '([^']+)'`).FindAllStringSubmatch(string(text), -1)
	for _, s := range short {
		if _, _, problems := withRoute(s[1]).load(t); problems != nil {
			t.Errorf("%s: %v", s[1], problems)
		}
	}
	if len(short) == 0 || !x509.NewCertPool().AppendCertsFromPEM([]byte(s.Routes[1].CA)) {
		t.Error("the test looks in the wrong place")
	}
}
