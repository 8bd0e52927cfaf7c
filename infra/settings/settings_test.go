package settings_test

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/settings"
	"cloakroom/infra/settings/schema"
)

const (
	key1 = "k1:AQIDBAUGBwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyA"
	key2 = "k2:ISIjJCUmJygpKissLS4vMDEyMzQ1Njc4OTo7PD0-P0A"
)

// world is what settings are read from, written the way a test likes it.
type world struct {
	flags []string // --name=value
	env   []string // NAME=value
	files map[string]string
}

func (w world) input() schema.Input {
	in := schema.Input{Environ: w.env, ReadFile: func(name string) ([]byte, error) {
		text, ok := w.files[name]
		if !ok {
			return nil, &fs.PathError{Op: "open", Path: name, Err: fs.ErrNotExist}
		}
		return []byte(text), nil
	}}
	for _, flag := range w.flags {
		name, value, _ := strings.Cut(strings.TrimPrefix(flag, "--"), "=")
		i := slices.IndexFunc(in.Flags, func(f schema.Flag) bool { return f.Name == name })
		if i < 0 {
			in.Flags = append(in.Flags, schema.Flag{Name: name})
			i = len(in.Flags) - 1
		}
		in.Flags[i].Values = append(in.Flags[i].Values, value)
	}
	return in
}

func (w world) load(t *testing.T) (settings.Settings, []schema.Value, schema.Problems) {
	t.Helper()
	s, values, err := settings.Load(w.input())
	var problems schema.Problems
	if err != nil && !errors.As(err, &problems) {
		t.Fatalf("Load: %v, want Problems", err)
	}
	return s, values, problems
}

// enough is the least that has to be set.
func enough(more ...string) []string {
	return append([]string{
		"CLOAKROOM_AUTH_URL=https://auth.example/api/v1/",
		"CLOAKROOM_ROUTE=/api=http://127.0.0.1:9000",
		"CLOAKROOM_SEAL_KEY=" + key1,
	}, more...)
}

func TestDefaults(t *testing.T) {
	s, _, problems := world{env: enough()}.load(t)
	if problems != nil {
		t.Fatalf("the least that has to be set is not enough:\n%v", problems)
	}
	for _, tt := range []struct {
		name      string
		got, want any
	}{
		{"Listen", s.Listen, "127.0.0.1:8080"},
		{"PublicURL", s.PublicURL == nil, true},
		{"Prefix", s.Prefix, "/auth"},
		{"Store", s.Store, settings.Store{Kind: settings.SQLite, Path: "data/cloakroom.db"}},
		{"AuthURL", s.AuthURL.String(), "https://auth.example/api/v1"},
		{"AuthIssuer", s.AuthIssuer, "https://auth.example/api/v1"},
		{"AuthRegisterPath", s.AuthRegisterPath, "/register"},
		{"AuthBody", s.AuthBody, "json"},
		{"IdleTimeout", s.IdleTimeout, 14 * 24 * time.Hour},
		{"AbsoluteLifetime", s.AbsoluteLifetime, 90 * 24 * time.Hour},
		{"TouchInterval", s.TouchInterval, time.Minute},
		{"CookieSameSite", s.CookieSameSite, "lax"},
		{"LogLevel", s.LogLevel, slog.LevelInfo},
		{"SealKeys", len(s.SealKeys) == 1 && s.SealKeys[0].Reveal() == key1, true},
		{"Routes", s.Routes[0].String(), "/api=http://127.0.0.1:9000"},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("%s = %v, want %v", tt.name, tt.got, tt.want)
		}
	}
	d := settings.Defaults()
	if d.IdleTimeout != s.IdleTimeout || d.AuthURL != nil || d.Routes != nil {
		t.Errorf("Defaults gives %+v", d)
	}
}

func TestFlagWinsOverEnvironmentOverDotenvOverYAMLOverDefault(t *testing.T) {
	full := world{
		flags: []string{"--idle-timeout=1h", "--config=c.yaml"},
		env:   enough("CLOAKROOM_IDLE_TIMEOUT=2h", "CLOAKROOM_ENV_FILE=my.env"),
		files: map[string]string{"my.env": "CLOAKROOM_IDLE_TIMEOUT=3h\n", "c.yaml": "idle-timeout: 4h\n"},
	}
	for _, tt := range []struct {
		origin string
		want   time.Duration
		remove func(*world)
	}{
		{"--idle-timeout", time.Hour, func(*world) {}},
		{"CLOAKROOM_IDLE_TIMEOUT", 2 * time.Hour, func(w *world) { w.flags = w.flags[1:] }},
		{"CLOAKROOM_IDLE_TIMEOUT in my.env", 3 * time.Hour, func(w *world) { w.env = enough("CLOAKROOM_ENV_FILE=my.env") }},
		{"idle-timeout in c.yaml, line 1", 4 * time.Hour, func(w *world) { w.files["my.env"] = "" }},
		{"default", 336 * time.Hour, func(w *world) { w.files["c.yaml"] = "" }},
	} {
		tt.remove(&full)
		s, values, problems := full.load(t)
		i := slices.IndexFunc(values, func(v schema.Value) bool { return v.Name == "idle-timeout" })
		if problems != nil || s.IdleTimeout != tt.want || values[i].Origin != tt.origin {
			t.Errorf("idle-timeout = %v from %q, problems %v; want %v from %q", s.IdleTimeout, values[i].Origin, problems, tt.want, tt.origin)
		}
	}
}

func TestRoutes(t *testing.T) {
	want := []string{"/api=https://api.example/v2;strip-prefix", "/=http://127.0.0.1:9000"}
	for name, w := range map[string]world{
		"one variable": {env: []string{"CLOAKROOM_ROUTE=/api=https://api.example/v2;strip-prefix, /=http://127.0.0.1:9000/"}},
		"two flags":    {flags: []string{"--route=/api=HTTPS://API.example/v2/;strip-prefix", "--route=/=http://127.0.0.1:9000"}},
		"YAML objects": {flags: []string{"--config=c.yaml"}, files: map[string]string{"c.yaml": `
route:
  - prefix: /api
    upstream: https://api.example/v2
    strip-prefix: true
  - {prefix: /, upstream: "http://127.0.0.1:9000"}
`}},
		"YAML texts": {flags: []string{"--config=c.yaml"}, files: map[string]string{"c.yaml": "route: ['/api=https://api.example/v2;strip-prefix', '/=http://127.0.0.1:9000']\n"}},
	} {
		w.env = append(w.env, "CLOAKROOM_AUTH_URL=https://auth.example", "CLOAKROOM_STORE=memory:")
		s, _, problems := w.load(t)
		var got []string
		for _, r := range s.Routes {
			got = append(got, r.String())
		}
		if problems != nil || !slices.Equal(got, want) {
			t.Errorf("%s: routes %q, problems %v; want %q", name, got, problems, want)
		}
	}
}

func TestForms(t *testing.T) {
	s, _, problems := world{
		env: enough(
			"CLOAKROOM_PUBLIC_URL=HTTPS://App.Example:443/", "CLOAKROOM_LISTEN=:8080", "CLOAKROOM_TRUSTED_PROXY=10.0.0.0/8, 192.0.2.7,fd00::/8",
			"CLOAKROOM_ALLOWED_ORIGIN=https://a.example:8443,http://localhost:5173", "CLOAKROOM_AUTH_REGISTER_PATH=", "CLOAKROOM_LOG_LEVEL=warn",
			"CLOAKROOM_REFRESH_AHEAD=0", "CLOAKROOM_AUTH_ISSUER=", "CLOAKROOM_STORE=sqlite:///var/lib/c.db"),
	}.load(t)
	if problems != nil {
		t.Fatal(problems)
	}
	for _, tt := range []struct{ got, want any }{
		{s.PublicURL.String(), "https://app.example"},
		{s.TrustedProxies, []netip.Prefix{netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("192.0.2.7/32"), netip.MustParsePrefix("fd00::/8")}},
		{fmt.Sprint(s.AllowedOrigins), "[https://a.example:8443 http://localhost:5173]"},
		{s.AuthRegisterPath, ""},
		{s.AuthIssuer, "https://auth.example/api/v1"},
		{s.LogLevel, slog.LevelWarn},
		{s.RefreshAhead, time.Duration(0)},
		{s.Store, settings.Store{Kind: settings.SQLite, Path: "/var/lib/c.db"}},
	} {
		if !reflect.DeepEqual(tt.got, tt.want) {
			t.Errorf("got %v, want %v", tt.got, tt.want)
		}
	}
}

func TestSealKeysFromAFile(t *testing.T) {
	for name, w := range map[string]world{
		"variable": {env: []string{"CLOAKROOM_SEAL_KEY_FILE=/run/keys"}},
		"flag":     {flags: []string{"--seal-key-file=/run/keys"}},
		"YAML":     {flags: []string{"--config=c.yaml"}, files: map[string]string{"c.yaml": "seal-key-file: /run/keys\n"}},
	} {
		w.env = append(w.env, "CLOAKROOM_AUTH_URL=https://auth.example", "CLOAKROOM_ROUTE=/api=http://127.0.0.1:9000")
		if w.files == nil {
			w.files = map[string]string{}
		}
		w.files["/run/keys"] = key2 + "\n" + key1 + "\n"
		s, _, problems := w.load(t)
		if problems != nil || len(s.SealKeys) != 2 || s.SealKeys[0].Reveal() != key2 || s.SealKeys[1].Reveal() != key1 {
			t.Errorf("%s: %d keys, problems %v; want the two of the file in its order", name, len(s.SealKeys), problems)
		}
	}
}

func TestEveryProblemAtOnce(t *testing.T) {
	_, _, got := world{
		flags: []string{"--listen=nonsense", "--idle-timeout=5", "--config=c.yaml"},
		env: []string{
			"CLOAKROOM_SEAL_KEY=k1:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA", "CLOAKROOM_COOKIE_SAME_SITE=none",
			"CLOAKROOM_TRUSTED_PROXIES=10.0.0.0/8", "PATH=/bin", "CLOAKROOM_TRUSTED_PROXY=10.0.0.0/8,proxy.example",
		},
		files: map[string]string{
			".env": "CLOAKROOM_AUTH_TIMEOUT='1m'\nCLOAKROOM_SEAL_KYE=x\nOTHER=1\n",
			"c.yaml": `auth_url: https://auth.example
store: etcd://:hunter2@cache
route:
  - prefix: /api
    upstraem: http://127.0.0.1:9000
  - prefix: /auth/x
    upstream: ftp://host
`},
	}.load(t)
	want := schema.Problems{
		"CLOAKROOM_TRUSTED_PROXIES: there is no such setting; did you mean CLOAKROOM_TRUSTED_PROXY?",
		"CLOAKROOM_SEAL_KYE in .env: there is no such setting; did you mean CLOAKROOM_SEAL_KEY?",
		"auth_url in c.yaml, line 1: there is no such setting; did you mean auth-url?",
		"--listen: is not an address; write host:port, for example 127.0.0.1:8080 or :8080",
		"CLOAKROOM_TRUSTED_PROXY (value 2): is not a range of addresses; write for example 10.0.0.0/8, fd00::/8 or 192.0.2.7",
		"route[1] in c.yaml, line 4: has no upstream; add it",
		"upstraem of route in c.yaml, line 5: there is no upstraem here; did you mean upstream?",
		"upstream of route in c.yaml, line 7: does not begin with http://, https://, h2c:// or unix:; write for example http://127.0.0.1:9000",
		"store in c.yaml, line 2: is of no known kind; write sqlite://data/cloakroom.db, sqlite:///var/lib/cloakroom.db, redis://host:6379, mongodb://host:27017 or memory: for trials",
		"--idle-timeout: is not a duration; write numbers with their units, for example 30s, 1h30m or 720h",
		"CLOAKROOM_COOKIE_SAME_SITE: is none of the allowed values; write one of lax, strict",
		"CLOAKROOM_SEAL_KEY: is too regular to be a random key; make one with 'cloakroom keys generate'",
		"auth-url: is missing, and there is no provider, so that nobody could sign in; set --auth-url, CLOAKROOM_AUTH_URL or auth-url in the YAML file, for example to https://auth.example/api/v1, or see docs/openid.md for providers",
		"CLOAKROOM_AUTH_TIMEOUT in .env: 1m does not go with shutdown-grace of 15s: a refresh under way at the end could lose its tokens; shorten the first or lengthen the second",
	}
	for i := range max(len(got), len(want)) {
		g, w := "(none)", "(none)"
		if i < len(got) {
			g = got[i]
		}
		if i < len(want) {
			w = want[i]
		}
		if g != w {
			t.Errorf("problem %d:\n got %s\nwant %s", i, g, w)
		}
	}
}

func TestRefused(t *testing.T) {
	example := "example:dGhpcy1pcy10aGUtZXhhbXBsZS1ub3QtYS1zZWNyZXQ"
	for _, tt := range []struct {
		name string
		env  []string // beside enough; a later value of a name wins
		want string   // how the one problem begins
	}{
		{"no key", []string{"SEAL_KEY="}, "seal-key: is missing"},
		{"the key of the documents", []string{"SEAL_KEY=" + example}, "CLOAKROOM_SEAL_KEY: is the key of the documents"},
		{"the same under another name", []string{"SEAL_KEY=mine:" + strings.TrimPrefix(example, "example:") + "="}, "CLOAKROOM_SEAL_KEY: is the key of the documents"},
		{"a short key", []string{"SEAL_KEY=k1:c2hvcnQ"}, "CLOAKROOM_SEAL_KEY: is not 32 bytes long"},
		{"a key without an id", []string{"SEAL_KEY=" + strings.TrimPrefix(key1, "k1:")}, "CLOAKROOM_SEAL_KEY: is no key"},
		{"two keys of one id", []string{"SEAL_KEY=" + key1 + ",k1:" + strings.TrimPrefix(key2, "k2:")}, "CLOAKROOM_SEAL_KEY (value 2): has the same id as CLOAKROOM_SEAL_KEY (value 1)"},
		{"a bad key without a store", []string{"STORE=memory:", "SEAL_KEY=k1:c2hvcnQ"}, "CLOAKROOM_SEAL_KEY: is not 32 bytes long"},
		{"a key and its file", []string{"SEAL_KEY_FILE=/run/key"}, "CLOAKROOM_SEAL_KEY: is given, and so is CLOAKROOM_SEAL_KEY_FILE; keep one of them"},
		{"a file that is not there", []string{"SEAL_KEY=", "SEAL_KEY_FILE=/run/key"}, "CLOAKROOM_SEAL_KEY_FILE: names a file that does not exist"},

		{"listening for all without a public URL", []string{"LISTEN=:8080"}, "public-url: is missing, and CLOAKROOM_LISTEN is not a loopback address; set --public-url"},
		{"a public URL in plain http", []string{"PUBLIC_URL=http://app.example"}, "CLOAKROOM_PUBLIC_URL: is plain http"},
		{"listening for all under a loopback URL", []string{"LISTEN=0.0.0.0:8080", "PUBLIC_URL=http://localhost:8080"}, "CLOAKROOM_PUBLIC_URL: is a loopback address, but CLOAKROOM_LISTEN is open to others"},
		{"an insecure cookie over https", []string{"PUBLIC_URL=https://app.example", "UNSAFE_INSECURE_COOKIE=yes"}, "CLOAKROOM_UNSAFE_INSECURE_COOKIE: has no use"},
		{"a public URL with a path", []string{"PUBLIC_URL=https://app.example/x"}, "CLOAKROOM_PUBLIC_URL: has a path"},
		{"a public URL with a password", []string{"PUBLIC_URL=https://a:b@app.example"}, "CLOAKROOM_PUBLIC_URL: holds a user name or password"},
		{"a port beyond all", []string{"LISTEN=127.0.0.1:80800"}, "CLOAKROOM_LISTEN: has no port from 0 to 65535"},
		{"an insecure origin", []string{"PUBLIC_URL=https://app.example", "ALLOWED_ORIGIN=http://a.example"}, "CLOAKROOM_ALLOWED_ORIGIN: is plain http"},
		{"a certificate without a key", []string{"PUBLIC_URL=https://app.example", "TLS_CERT=c.pem"}, "CLOAKROOM_TLS_CERT: has no key beside it; give"},
		{"a key without a certificate", []string{"PUBLIC_URL=https://app.example", "TLS_KEY=k.pem"}, "CLOAKROOM_TLS_KEY: has no certificate beside it; give"},
		{"TLS without a public URL", []string{"TLS_CERT=c.pem", "TLS_KEY=k.pem", "LISTEN=:8443"}, "CLOAKROOM_TLS_CERT: makes browsers come over https; give"},
		{"TLS under a plain public URL", []string{"TLS_CERT=c.pem", "TLS_KEY=k.pem", "PUBLIC_URL=http://localhost:8080"}, "CLOAKROOM_TLS_CERT: makes browsers come over https; give"},
		{"no such header", []string{"HSTS=forever"}, "CLOAKROOM_HSTS: is no such header; write"},
		{"a header too many", []string{"HSTS=max-age=1\r\nX: y"}, "CLOAKROOM_HSTS: is no such header; write"},
		{"forward-auth without a public URL", []string{"FORWARD_AUTH_LISTEN=127.0.0.1:8081", "TRUSTED_PROXY=127.0.0.1"}, "CLOAKROOM_FORWARD_AUTH_LISTEN: needs the URL"},
		{"forward-auth for nobody", []string{"FORWARD_AUTH_LISTEN=127.0.0.1:8081", "PUBLIC_URL=https://app.example"}, "CLOAKROOM_FORWARD_AUTH_LISTEN: answers the proxies of trusted-proxy alone"},
		{"forward-auth where browsers come", []string{"FORWARD_AUTH_LISTEN=:8080", "PUBLIC_URL=https://app.example", "TRUSTED_PROXY=127.0.0.1"}, "CLOAKROOM_FORWARD_AUTH_LISTEN: is the address of listen"},
		{"a route to forward-auth", []string{"FORWARD_AUTH_LISTEN=127.0.0.1:8081", "PUBLIC_URL=https://app.example", "TRUSTED_PROXY=127.0.0.1", "ROUTE=/a=http://localhost:8081"}, "CLOAKROOM_ROUTE: leads back to Cloakroom"},
		{"everybody trusted", []string{"TRUSTED_PROXY=0.0.0.0/0"}, "CLOAKROOM_TRUSTED_PROXY: trusts everybody"},
		{"a range with address bits", []string{"TRUSTED_PROXY=10.1.2.3/8"}, "CLOAKROOM_TRUSTED_PROXY: has address bits"},
		{"all paths ours", []string{"PREFIX=/"}, "CLOAKROOM_PREFIX: leaves no path"},
		{"our path with a slash at its end", []string{"PREFIX=/auth/"}, "CLOAKROOM_PREFIX: is not a plain path"},
		{"our path below health", []string{"PREFIX=/health/auth"}, "CLOAKROOM_PREFIX: is below /health"},

		{"no route", []string{"ROUTE="}, "route: is missing; set --route"},
		{"a route under our path", []string{"ROUTE=/auth/x=http://127.0.0.1:9000"}, "CLOAKROOM_ROUTE: is below /auth"},
		{"a route to our path elsewhere", []string{"PREFIX=/own", "ROUTE=/own=http://127.0.0.1:9000"}, "CLOAKROOM_ROUTE: is below /own"},
		{"a route for health", []string{"ROUTE=/health=http://127.0.0.1:9000"}, "CLOAKROOM_ROUTE: is below /health"},
		{"two routes of one path", []string{"ROUTE=/a=http://127.0.0.1:9000,/a=http://127.0.0.1:9001"}, "CLOAKROOM_ROUTE (value 2): has the same path as CLOAKROOM_ROUTE (value 1)"},
		{"a route back to us", []string{"ROUTE=/a=http://localhost:8080"}, "CLOAKROOM_ROUTE: leads back to Cloakroom"},
		{"a route that climbs", []string{"ROUTE=/a/../b=http://127.0.0.1:9000"}, "CLOAKROOM_ROUTE: has a bad prefix, which is not a plain path"},
		{"a route with a query", []string{"ROUTE=/a=http://127.0.0.1:9000/?x=1"}, "CLOAKROOM_ROUTE: has a bad upstream, which has a query"},
		{"a route with an option that is none", []string{"ROUTE=/a=http://127.0.0.1:9000;fast"}, "CLOAKROOM_ROUTE: has an unknown option"},
		{"half a route", []string{"ROUTE=http://127.0.0.1:9000"}, "CLOAKROOM_ROUTE: is not a route"},

		{"an auth server in plain http", []string{"AUTH_URL=http://auth.example"}, "CLOAKROOM_AUTH_URL: is plain http"},
		{"an unsafe option without a use", []string{"UNSAFE_PLAIN_AUTH_URL=true"}, "CLOAKROOM_UNSAFE_PLAIN_AUTH_URL: has no use"},
		{"an auth server that is us", []string{"AUTH_URL=http://127.0.0.1:8080/api"}, "CLOAKROOM_AUTH_URL: leads back to Cloakroom"},
		{"no path to sign in", []string{"AUTH_LOGIN_PATH="}, "CLOAKROOM_AUTH_LOGIN_PATH: is empty; give a value, or leave it out for /login"},
		{"a whole URL as a path", []string{"AUTH_LOGIN_PATH=https://auth.example/login"}, "CLOAKROOM_AUTH_LOGIN_PATH: does not begin with a slash"},
		{"one field for two things", []string{"AUTH_EMAIL_FIELD=password"}, "auth-password-field: is the same field as CLOAKROOM_AUTH_EMAIL_FIELD"},
		{"one answer for two things", []string{"AUTH_ANSWER_REFRESH_TOKEN=access_token"}, "CLOAKROOM_AUTH_ANSWER_REFRESH_TOKEN: is the same field as auth-answer-access-token"},

		{"idle for longer than alive", []string{"ABSOLUTE_LIFETIME=24h"}, "idle-timeout: 336h does not go with CLOAKROOM_ABSOLUTE_LIFETIME of 24h"},
		{"touched too seldom", []string{"IDLE_TIMEOUT=90s"}, "touch-interval: 1m does not go with CLOAKROOM_IDLE_TIMEOUT of 1m30s"},
		{"a margin beyond the lead", []string{"REFRESH_MARGIN=30s"}, "CLOAKROOM_REFRESH_MARGIN: 30s does not go with refresh-ahead of 30s"},
		{"access outlives refresh", []string{"REFRESH_TOKEN_LIFETIME=10m"}, "access-token-lifetime: 15m does not go with CLOAKROOM_REFRESH_TOKEN_LIFETIME of 10m"},
		{"a grace too short", []string{"SHUTDOWN_GRACE=5s"}, "auth-timeout: 10s does not go with CLOAKROOM_SHUTDOWN_GRACE of 5s"},
		{"no time at all", []string{"AUTH_TIMEOUT=0s"}, "CLOAKROOM_AUTH_TIMEOUT: is too short; give at least 1ms"},
		{"time before now", []string{"REFRESH_AHEAD=-1s"}, "CLOAKROOM_REFRESH_AHEAD: is too short; give at least 0s"},

		{"a store elsewhere", []string{"STORE=postgres://x"}, "CLOAKROOM_STORE: is of no known kind"},
		{"a store without a file", []string{"STORE=sqlite://"}, "CLOAKROOM_STORE: names no file"},
		{"a store in SQLite's memory", []string{"STORE=sqlite://:memory:"}, "CLOAKROOM_STORE: has one of ? # % :"},
		{"a store with options", []string{"STORE=sqlite://a.db?mode=ro"}, "CLOAKROOM_STORE: has one of ? # % :"},
		{"neither yes nor no", []string{"UNSAFE_INSECURE_COOKIE=maybe"}, "CLOAKROOM_UNSAFE_INSECURE_COOKIE: is neither true nor false"},
		{"a level that is none", []string{"LOG_LEVEL=INFO+2"}, "CLOAKROOM_LOG_LEVEL: is none of the allowed values; write one of debug, info, warn, error"},
		{"a YAML file that is not there", []string{"CONFIG=c.yaml"}, "CLOAKROOM_CONFIG: names a file that does not exist"},
		{"an .env file that is not there", []string{"ENV_FILE=x.env"}, "CLOAKROOM_ENV_FILE: names a file that does not exist"},
	} {
		var env []string
		for _, line := range tt.env {
			env = append(env, "CLOAKROOM_"+line)
		}
		_, _, problems := world{env: append(env, enough()...)}.load(t)
		if len(problems) != 1 || !strings.HasPrefix(problems[0], tt.want) {
			t.Errorf("%s: problems\n%v\nwant one: %s", tt.name, problems, tt.want)
		} else if _, remedy, _ := strings.Cut(problems[0], "; "); remedy == "" {
			t.Errorf("%s: no remedy in %q", tt.name, problems[0])
		}
	}
}

func TestForwardAuthNeedsNoRoute(t *testing.T) {
	w := world{env: append([]string{"CLOAKROOM_ROUTE=", "CLOAKROOM_FORWARD_AUTH_LISTEN=127.0.0.1:8081", "CLOAKROOM_PUBLIC_URL=https://app.example", "CLOAKROOM_TRUSTED_PROXY=127.0.0.1"}, enough()...)}
	if s, _, problems := w.load(t); problems != nil || len(s.Routes) != 0 {
		t.Errorf("%d routes, problems %v", len(s.Routes), problems)
	}
}

func TestUnsafeOptionsAllow(t *testing.T) {
	for _, env := range [][]string{
		{"CLOAKROOM_PUBLIC_URL=http://app.example", "CLOAKROOM_UNSAFE_INSECURE_COOKIE=true"},
		{"CLOAKROOM_LISTEN=:8080", "CLOAKROOM_PUBLIC_URL=http://localhost:8080", "CLOAKROOM_UNSAFE_INSECURE_COOKIE=true"},
		{"CLOAKROOM_AUTH_URL=http://auth:8081", "CLOAKROOM_UNSAFE_PLAIN_AUTH_URL=true"},
	} {
		if _, _, problems := (world{env: append(env, enough()...)}).load(t); problems != nil {
			t.Errorf("%v: %v", env, problems)
		}
	}
}

// TestNoValueInAnyMessage puts a secret where each setting should be, in every
// way of giving one, and looks for it in what people are shown.
func TestNoValueInAnyMessage(t *testing.T) {
	const secret = "hunter2hunter2hunter2hunter2hunter2hunter2hunter2"
	shapes := []string{secret, "k1:" + secret, "https://u:" + secret + "@host/", "/a=" + secret, "-" + secret, secret + "=x", "k1:" + secret + "," + secret, "'" + secret, `"` + secret}
	// Plain texts are what they are: nobody can tell a path or a field's name from a secret.
	plain := map[string]bool{"auth-issuer": true, "prefix": true, "tls-cert": true, "tls-key": true, "hsts": true}
	for _, r := range settings.Schema().Rows() {
		if strings.HasSuffix(r.Name, "-field") || strings.HasSuffix(r.Name, "-path") || strings.HasPrefix(r.Name, "auth-answer-") {
			plain[r.Name] = true
		}
	}
	for _, r := range settings.Schema().Rows() {
		for _, shape := range shapes {
			for how, w := range map[string]world{
				"flag":        {flags: []string{"--" + r.Name + "=" + shape}, env: enough()},
				"environment": {env: append([]string{r.Env + "=" + shape}, enough()...)},
				".env":        {env: enough(), files: map[string]string{".env": r.Env + "=" + shape + "\n"}},
				".env broken": {env: enough(), files: map[string]string{".env": "A=1\n" + r.Env + " " + shape + "\n"}},
				"YAML":        {flags: []string{"--config=c.yaml"}, env: enough(), files: map[string]string{"c.yaml": r.Name + ": " + shape + "\n"}},
				"YAML list":   {flags: []string{"--config=c.yaml"}, env: enough(), files: map[string]string{"c.yaml": r.Name + ": [" + shape + "]\n"}},
				"YAML object": {flags: []string{"--config=c.yaml"}, env: enough(), files: map[string]string{"c.yaml": r.Name + ": [{" + shape + ": " + shape + "}]\n"}},
				"YAML key":    {flags: []string{"--config=c.yaml"}, env: enough(), files: map[string]string{"c.yaml": shape + ": 1\n"}},
				"secret file": {env: []string{"CLOAKROOM_SEAL_KEY_FILE=f", "CLOAKROOM_AUTH_URL=https://a.example", "CLOAKROOM_ROUTE=/a=http://b"}, files: map[string]string{"f": shape}},
				"stray":       {env: enough(), flags: nil},
			} {
				in := w.input()
				if how == "stray" {
					in.Stray = []string{shape, "--" + shape, "--x=" + shape}
				}
				_, values, err := settings.Load(in)
				if err != nil && strings.Contains(err.Error(), secret[:14]) {
					t.Errorf("%s of %s: a message shows the value: %v", how, r.Name, err)
				}
				for _, v := range values {
					if strings.Contains(v.Value+v.Origin, secret[:14]) && !plain[v.Name] {
						t.Errorf("%s of %s: config show tells %s = %s from %s", how, r.Name, v.Name, v.Value, v.Origin)
					}
				}
			}
		}
	}
}

func TestStoreOfAServerNeverShowsItsPassword(t *testing.T) {
	for text, want := range map[string]struct{ kind, shown string }{
		"redis://:hunter2@cache:6379/1":          {settings.Redis, "redis://[redacted]@cache:6379/1"},
		"rediss://user:hunter2@cache?ca=hunter2": {settings.Redis, "rediss://[redacted]@cache"},
		"redis+cluster://a:7000,b:7000":          {settings.Redis, "redis+cluster://a:7000,b:7000"},
		"mongodb://user:hunter2@a,b/people":      {settings.MongoDB, "mongodb://[redacted]@a,b/people"},
		"mongodb+srv://user:hunter2@c/?w=1":      {settings.MongoDB, "mongodb+srv://[redacted]@c/"},
	} {
		var s settings.Store
		if err := s.UnmarshalText([]byte(text)); err != nil {
			t.Errorf("%s: %v", want.shown, err)
			continue
		}
		if s.Kind != want.kind || s.String() != want.shown || s.URL.Reveal() != text {
			t.Errorf("%s was read as %s %s", want.shown, s.Kind, s)
		}
		if shown := fmt.Sprintf("%v %+v", s, &s); strings.Contains(shown, "hunter2") {
			t.Errorf("a password is shown: %s", shown)
		}
	}
}
