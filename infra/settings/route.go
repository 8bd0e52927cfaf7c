package settings

import (
	"cmp"
	"errors"
	"math"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/settings/schema"
	"cloakroom/infra/upstream"
)

// Route sends the requests for a host, below a path, to an upstream. The zero
// value of every field that is not required stands for its default.
type Route struct {
	// Hosts are in lower case and without a port; none means any host.
	Hosts []string `name:"host"`
	// Prefix is "/" or a path without a slash at its end. It matches whole
	// segments: /api matches /api and /api/x, not /apis.
	Prefix string `name:"prefix" form:"path"`
	// Upstreams are the addresses of one and the same service.
	Upstreams []Upstream `name:"upstream" required:""`
	// StripPrefix takes the prefix off before the request goes on,
	// RewritePrefix puts a path in its place.
	StripPrefix   bool   `name:"strip-prefix"`
	RewritePrefix string `name:"rewrite-prefix" form:"path"`

	ConnectTimeout time.Duration `name:"connect-timeout" min:"1ms"` // 0: 5 s
	// FirstByteTimeout is nil for upstream-header-timeout, and 0 for none.
	FirstByteTimeout *time.Duration `name:"first-byte-timeout"`
	// IdleTimeout bounds the silence within an answer; 0: none.
	IdleTimeout time.Duration `name:"idle-timeout"`
	MaxBody     Size          `name:"max-body"` // 0: any
	Methods     []string      `name:"method"`   // none: all

	CAFile string `name:"ca-file"`
	// CA is what CAFile holds. Load reads it.
	CA string

	// HealthPath is asked of every address; "": none is asked.
	HealthPath     string        `name:"health-path" form:"path"`
	HealthInterval time.Duration `name:"health-interval" min:"100ms"` // 0: 5 s

	Auth              string   `name:"auth" enum:"required,optional,none"` // "": required
	PassAuthorization bool     `name:"pass-authorization"`
	CSRF              string   `name:"csrf" enum:"on,off,header"` // "": on
	Roles             []string `name:"role"`                      // any of them
	Scopes            []string `name:"scope"`                     // all of them
	IdentityHeaders   []string `name:"identity-header" enum:"user,email,groups,issuer"`
	SetHeaders        []Header `name:"set-header"`
	HideHeaders       []string `name:"hide-header"`
}

// The values of Route.Auth and Route.CSRF.
const (
	AuthRequired = "required"
	AuthOptional = "optional"
	AuthNone     = "none"

	CSRFOn     = "on"
	CSRFOff    = "off"
	CSRFHeader = "header"
)

// AuthMode and CSRFMode return the defaults as well.
func (r Route) AuthMode() string { return cmp.Or(r.Auth, AuthRequired) }
func (r Route) CSRFMode() string { return cmp.Or(r.CSRF, CSRFOn) }

const stripPrefixOption = "strip-prefix"

// UnmarshalText reads the form of flags and variables: /api=http://127.0.0.1:9000,
// and behind it perhaps ;strip-prefix, ;host=NAME or ;auth=MODE.
func (r *Route) UnmarshalText(text []byte) error {
	options := strings.Split(string(text), ";")
	prefix, upstream, found := strings.Cut(options[0], "=")
	if !found {
		return errors.New("is not a route; write /path=URL, for example /api=http://127.0.0.1:9000")
	}
	fields := map[string]string{"prefix": prefix, "upstream": upstream}
	for _, option := range options[1:] {
		name, value, hasValue := strings.Cut(option, "=")
		if _, twice := fields[name]; twice {
			return errors.New("has an option twice; keep one of them")
		}
		switch {
		case option == stripPrefixOption:
			value = "true"
		case (name == "host" || name == "auth") && hasValue:
		default:
			return errors.New("has an unknown option; only ;" + stripPrefixOption + ", ;host=NAME and ;auth=MODE may follow the URL, the others stand in a YAML file")
		}
		fields[name] = value
	}
	return schema.Fill(r, fields)
}

// String returns the form that UnmarshalText reads. What only YAML can say
// follows in the same way, for people to look at; of headers that are set, only
// the names, because their values may be secrets.
func (r Route) String() string {
	var b strings.Builder
	b.WriteString(r.Prefix + "=")
	for i, u := range r.Upstreams {
		if i > 0 {
			b.WriteByte('|')
		}
		b.WriteString(u.String())
	}
	option := func(name, value string) {
		if value != "" {
			b.WriteString(";" + name + "=" + value)
		}
	}
	list := func(name string, values []string) { option(name, strings.Join(values, "|")) }
	duration := func(name string, d time.Duration) {
		if d != 0 {
			option(name, schema.FormatDuration(d))
		}
	}
	if r.StripPrefix {
		b.WriteString(";" + stripPrefixOption)
	}
	list("host", r.Hosts)
	option("rewrite-prefix", r.RewritePrefix)
	duration("connect-timeout", r.ConnectTimeout)
	if r.FirstByteTimeout != nil {
		option("first-byte-timeout", schema.FormatDuration(*r.FirstByteTimeout))
	}
	duration("idle-timeout", r.IdleTimeout)
	if r.MaxBody > 0 {
		option("max-body", r.MaxBody.String())
	}
	list("method", r.Methods)
	option("ca-file", r.CAFile)
	option("health-path", r.HealthPath)
	duration("health-interval", r.HealthInterval)
	option("auth", r.Auth)
	if r.PassAuthorization {
		b.WriteString(";pass-authorization")
	}
	option("csrf", r.CSRF)
	list("role", r.Roles)
	list("scope", r.Scopes)
	list("identity-header", r.IdentityHeaders)
	for _, header := range r.SetHeaders {
		option("set-header", header.Name)
	}
	list("hide-header", r.HideHeaders)
	return b.String()
}

// Names are what the route is called in metrics, one for each of its hosts.
func (r Route) Names() []string {
	var names []string
	for _, host := range places(r) {
		names = append(names, host+r.Prefix)
	}
	return names
}

// place names a route by what it is for.
func (r Route) place() string {
	if len(r.Hosts) == 0 {
		return r.Prefix
	}
	return strings.Join(r.Hosts, "|") + r.Prefix
}

// Upstream is an address of a service.
type Upstream struct {
	// Scheme is http, https, h2c for HTTP/2 without TLS, or unix for HTTP/1.1
	// over a Unix socket.
	Scheme string
	Host   string // with its port, if it has one; "" for unix
	// Path stands before the requests' own, and has no slash at its end; with
	// unix it is the socket's file.
	Path string
}

// UpstreamAt is the upstream of a URL whose scheme is http or https.
func UpstreamAt(u *url.URL) Upstream {
	return Upstream{Scheme: u.Scheme, Host: u.Host, Path: strings.TrimRight(u.Path, "/")}
}

// UnmarshalText reads http://, https:// and h2c:// URLs and unix:/path/of.sock.
func (u *Upstream) UnmarshalText(text []byte) error {
	scheme, rest, _ := strings.Cut(string(text), ":")
	switch scheme = strings.ToLower(scheme); scheme {
	case "unix":
		file := "/" + strings.TrimLeft(rest, "/")
		if !strings.HasPrefix(rest, "/") || strings.HasSuffix(rest, "/") || strings.ContainsAny(rest, "?#%\x00") {
			return errors.New("names no socket; write unix: and the whole path of its file, for example unix:/run/app.sock")
		}
		*u = Upstream{Scheme: scheme, Path: file}
		return nil
	case "h2c":
		text = []byte("http:" + rest)
	case "http", "https":
	default:
		return errors.New("does not begin with http://, https://, h2c:// or unix:; write for example http://127.0.0.1:9000")
	}
	parsed, err := schema.ParseURL("base", string(text))
	if err != nil {
		return err
	}
	*u = UpstreamAt(parsed)
	u.Scheme = scheme
	return nil
}

// String returns the form that UnmarshalText reads.
func (u Upstream) String() string {
	if u.Scheme == "unix" {
		return "unix:" + u.Path
	}
	return u.Scheme + "://" + u.Host + u.Path
}

// Target is the URL that requests to it are made for. A Unix socket's host is
// called localhost.
func (u Upstream) Target() *url.URL {
	switch u.Scheme {
	case "unix":
		return &url.URL{Scheme: "http", Host: "localhost"}
	case "h2c":
		return &url.URL{Scheme: "http", Host: u.Host, Path: u.Path}
	}
	return &url.URL{Scheme: u.Scheme, Host: u.Host, Path: u.Path}
}

// Header is a header field to be set. Its value may be secret.
type Header struct {
	Name  string
	Value domain.Secret
}

// UnmarshalText reads "Name: value".
func (h *Header) UnmarshalText(text []byte) error {
	name, value, found := strings.Cut(string(text), ":")
	value = strings.Trim(value, " \t")
	switch {
	case !found || value == "":
		return errors.New("is not of the form Name: value")
	case !upstream.MaySet(name):
		return errors.New("names a header that cannot be set: one that is Cloakroom's to say, or whose name is none")
	case strings.ContainsFunc(value, func(r rune) bool { return r < ' ' && r != '\t' || r >= 0x7f }):
		return errors.New("has a value beyond visible ASCII; encode it")
	}
	*h = Header{Name: name, Value: domain.NewSecret(value)}
	return nil
}

// Size is a number of bytes.
type Size int64

type unit struct {
	name  string
	bytes int64
}

// units are those of a Size; the first three are for writing one.
var units = []unit{{"GiB", 1 << 30}, {"MiB", 1 << 20}, {"KiB", 1 << 10}, {"kB", 1e3}, {"MB", 1e6}, {"GB", 1e9}, {"B", 1}, {"", 1}}

// UnmarshalText reads a whole number with a unit: 512KiB, 10MiB, 2GiB, or bytes.
func (s *Size) UnmarshalText(text []byte) error {
	digits := strings.TrimRight(string(text), "BGKMikb")
	n, err := strconv.ParseInt(strings.TrimSpace(digits), 10, 64)
	i := slices.IndexFunc(units, func(u unit) bool { return u.name == string(text[len(digits):]) })
	if err != nil || i < 0 || n < 0 || n > math.MaxInt64/units[i].bytes {
		return errors.New("is not a size; write a whole number with its unit, for example 512KiB, 10MiB or 2GiB")
	}
	*s = Size(n * units[i].bytes)
	return nil
}

// String returns the form that UnmarshalText reads.
func (s Size) String() string {
	for _, u := range units[:3] {
		if n := int64(s) / u.bytes; n > 0 && n*u.bytes == int64(s) {
			return strconv.FormatInt(n, 10) + u.name
		}
	}
	return strconv.FormatInt(int64(s), 10)
}
