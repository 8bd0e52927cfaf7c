package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Route sends the requests below a path, for one host or for any, to an
// upstream.
type Route struct {
	// Hosts are those that the route is for, as PlainHost returns them: in lower
	// case and without a port. None means any host.
	Hosts []string
	// Prefix is "/" or a path without a slash at its end. It matches whole
	// segments: /api matches /api and /api/x, not /apix.
	Prefix string
	// Target is where the requests go: http or https, a host, and perhaps a
	// path that stands before theirs. Nothing else of it may be set. Whoever is
	// reached in another way, over a Unix socket say, has a name here for the
	// Host field.
	Target *url.URL
	// StripPrefix takes the prefix off before the request goes on.
	StripPrefix bool
	// Rewrite is put where the prefix was. "" or a path without a slash at its end.
	Rewrite string
}

// Table is the list of everywhere that a request can go. Whatever a request
// says of itself, in its target, its Host or any other field, it is sent to one
// of the table's targets or to nobody. A Table does not change.
type Table struct {
	hosts map[string][]entry // of the routes that have any; longest prefix first
	any   []entry            // of those that are for any host; longest prefix first
}

type entry struct {
	host   string // "" for any
	prefix string
	target *url.URL
	strip  bool
	base   string // what stands before the path, without a slash at its end
	name   string // the host and the prefix
	index  int    // of the route
}

// Destination is where one request goes.
type Destination struct {
	Index  int      // of the route in the list that the table was made of
	Target *url.URL // scheme and host count
	Path   string   // the request target to send, query included
	// Host is the one that the route was chosen by, "" if it is for any.
	Host string
	// Name is the route's: that host and the prefix.
	Name string
}

// ErrNoRoute is Resolve's answer for what no route matches.
var ErrNoRoute = errors.New("no route")

// NewTable checks the routes and reports everything that is wrong with them.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{hosts: make(map[string][]entry)}
	var problems []error
	type place struct{ host, prefix string }
	seen := make(map[place]bool, len(routes))
	for i, r := range routes {
		e, err := newEntry(r)
		hosts := r.Hosts
		if len(hosts) == 0 {
			hosts = []string{""}
		}
		for _, host := range hosts {
			if err == nil && seen[place{host, r.Prefix}] {
				err = errors.New("is there twice")
			}
			seen[place{host, r.Prefix}] = true
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("route %q: %w", strings.Join(r.Hosts, ",")+r.Prefix, err))
			continue
		}
		e.index = i
		for _, host := range hosts {
			e.name = host + r.Prefix
			if e.host = host; host == "" {
				t.any = append(t.any, e)
			} else {
				t.hosts[host] = append(t.hosts[host], e)
			}
		}
	}
	longest := func(a, b entry) int { return cmp.Compare(len(b.prefix), len(a.prefix)) }
	slices.SortStableFunc(t.any, longest)
	for _, list := range t.hosts {
		slices.SortStableFunc(list, longest)
	}
	return t, errors.Join(problems...)
}

func newEntry(r Route) (entry, error) {
	plain := func(path string) bool {
		return path == "/" || path != "" && path[0] == '/' && !strings.HasSuffix(path, "/") && !strings.ContainsAny(path, "%?;") && plainTarget(path) && safePath(path)
	}
	switch u := r.Target; {
	case !plain(r.Prefix):
		return entry{}, errors.New("the prefix is neither / nor a plain path without a slash at its end")
	case r.Rewrite != "" && !plain(r.Rewrite):
		return entry{}, errors.New("what the prefix is rewritten to is neither / nor a plain path without a slash at its end")
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "":
		return entry{}, errors.New("the target is not an http or https URL with a host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return entry{}, errors.New("the target has more than scheme, host and path")
	}
	for _, host := range r.Hosts {
		if plain, ok := PlainHost(host); !ok || plain != host {
			return entry{}, errors.New("the host is not a name or an address in lower case without a port")
		}
	}
	base := strings.TrimSuffix(r.Target.EscapedPath(), "/")
	if base != "" && (base[0] != '/' || !plainTarget(base) || !safePath(base)) {
		return entry{}, errors.New("the target's path is not a plain path")
	}
	return entry{
		prefix: r.Prefix, target: r.Target,
		strip: r.StripPrefix || r.Rewrite != "", base: base + strings.TrimSuffix(r.Rewrite, "/"),
	}, nil
}

// mostHost is how long a host's name may be (RFC 1035, section 2.3.4).
const mostHost = 255

// PlainHost takes the port off what a Host field says, and a root's dot, and
// puts the rest in lower case. It is false for what is no host.
func PlainHost(host string) (string, bool) {
	var buf [mostHost]byte
	b, ok := plainHostOf(buf[:0], host)
	return string(b), ok
}

// plainHostOf is PlainHost, written to buf.
func plainHostOf[T ~string | ~[]byte](buf []byte, host T) ([]byte, bool) {
	end := len(host)
	for i := end - 1; i > 0; i-- { // the port's digits
		if host[i] == ':' && (host[0] != '[' || host[i-1] == ']') {
			end = i
		}
		if c := host[i]; c < '0' || c > '9' {
			break
		}
	}
	if end > 1 && host[end-1] == '.' {
		end--
	}
	if end == 0 || end > mostHost {
		return nil, false
	}
	address := host[0] == '[' && host[end-1] == ']'
	for i := range end {
		c := host[i]
		switch {
		case 'A' <= c && c <= 'Z':
			c |= 0x20
		case 'a' <= c && c <= 'z', '0' <= c && c <= '9', c == '-', c == '.', c == '_':
		case address && (c == ':' || c == '[' && i == 0 || c == ']' && i == end-1):
		default:
			return nil, false
		}
		buf = append(buf, c)
	}
	return buf, true
}

// match returns the entry of a host and a path, or nil, and what of the path is
// left behind the prefix: nothing, or something that begins with a slash. An
// entry for the host wins over one for any, and then the longest prefix.
func (t *Table) match(host []byte, path string) (*entry, string) {
	if len(t.hosts) > 0 {
		var buf [mostHost]byte
		if name, ok := plainHostOf(buf[:0], host); ok {
			if e, rest := matchPath(t.hosts[string(name)], path); e != nil {
				return e, rest
			}
		}
	}
	return matchPath(t.any, path)
}

func matchPath(entries []entry, path string) (*entry, string) {
	for i := range entries {
		e := &entries[i]
		if e.prefix == "/" {
			return e, path
		}
		if rest, ok := cutPrefix(path, e.prefix); ok {
			return e, rest
		}
	}
	return nil, ""
}

// cutPrefix takes prefix off path at a segment's end. A byte of the path that
// is percent-encoded without need counts as itself (RFC 3986, section 6.2.2.2):
// the upstream will read it so, and /%61pi must not take another way than /api.
func cutPrefix(path, prefix string) (rest string, ok bool) {
	i := 0
	for j := range len(prefix) {
		if i == len(path) {
			return "", false
		}
		c, n := path[i], 1
		if c == '%' {
			if d, ok := unescape(path[i:]); ok {
				c, n = d, 3
			}
		}
		if c != prefix[j] {
			return "", false
		}
		i += n
	}
	if i < len(path) && path[i] != '/' {
		return "", false
	}
	return path[i:], true
}

// Resolve says where the request goes whose Host field and target are given, as
// they came. The bytes of the target stay what they are, but for a prefix that
// is taken off and a base path that is put before it. The host chooses among
// the routes that name one, and does nothing else.
//
// A target that must not pass is an *Error of kind BadTarget: one that is not a
// path with perhaps a query, or that an upstream could read as another path
// than the route's. What no route is for is ErrNoRoute.
func (t *Table) Resolve(host []byte, target string) (Destination, error) {
	path, query, hasQuery := strings.Cut(target, "?")
	if !plainTarget(target) || !safePath(path) {
		return Destination{}, &Error{Kind: BadTarget}
	}
	e, rest := t.match(host, path)
	if e == nil {
		return Destination{}, ErrNoRoute
	}
	if strings.IndexByte(path, ';') >= 0 || strings.IndexByte(path, '%') >= 0 {
		for reading := range readings(path) {
			if other, _ := t.match(host, reading); other != e {
				return Destination{}, &Error{Kind: BadTarget}
			}
		}
	}
	out := target
	if e.base != "" || e.strip && e.prefix != "/" {
		if !e.strip {
			rest = path
		}
		if out = e.base + rest; out == "" {
			out = "/"
		}
		if hasQuery {
			out += "?" + query
		}
	}
	return Destination{Index: e.index, Target: e.target, Path: out, Host: e.host, Name: e.name}, nil
}
