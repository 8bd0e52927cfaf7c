package upstream

import (
	"cmp"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
)

// Route sends the requests below a path to an upstream.
type Route struct {
	// Prefix is "/" or a path without a slash at its end. It matches whole
	// segments: /api matches /api and /api/x, not /apix.
	Prefix string
	// Target is where the requests go: http or https, a host, and perhaps a
	// path that stands before theirs. Nothing else of it may be set.
	Target *url.URL
	// StripPrefix takes the prefix off before the request goes on.
	StripPrefix bool
}

// Table is the list of everywhere that a request can go. Whatever a request
// says of itself, in its target, its Host or any other field, it is sent to one
// of the table's targets or to nobody. A Table does not change.
type Table struct {
	entries []entry // longest prefix first
}

type entry struct {
	Route
	base string // Target's path as it stands in front, without a slash at its end
}

// Destination is where one request goes.
type Destination struct {
	Target *url.URL // scheme and host count
	Path   string   // the request target to send, query included
}

// ErrNoRoute is Resolve's answer for a path that no route matches.
var ErrNoRoute = errors.New("no route")

// NewTable checks the routes and reports everything that is wrong with them.
func NewTable(routes []Route) (*Table, error) {
	t := &Table{entries: make([]entry, 0, len(routes))}
	var problems []error
	seen := make(map[string]bool, len(routes))
	for _, r := range routes {
		e, err := newEntry(r)
		if err == nil && seen[r.Prefix] {
			err = errors.New("is there twice")
		}
		if err != nil {
			problems = append(problems, fmt.Errorf("route %q: %w", r.Prefix, err))
			continue
		}
		seen[r.Prefix] = true
		t.entries = append(t.entries, e)
	}
	slices.SortStableFunc(t.entries, func(a, b entry) int { return cmp.Compare(len(b.Prefix), len(a.Prefix)) })
	return t, errors.Join(problems...)
}

func newEntry(r Route) (entry, error) {
	switch u := r.Target; {
	case !strings.HasPrefix(r.Prefix, "/") || len(r.Prefix) > 1 && strings.HasSuffix(r.Prefix, "/"):
		return entry{}, errors.New("the prefix is neither / nor a path without a slash at its end")
	case strings.ContainsAny(r.Prefix, "%?;") || !plainTarget(r.Prefix) || !safePath(r.Prefix):
		return entry{}, errors.New("the prefix is not a plain path")
	case u == nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || u.Opaque != "":
		return entry{}, errors.New("the target is not an http or https URL with a host")
	case u.User != nil || u.RawQuery != "" || u.ForceQuery || u.Fragment != "":
		return entry{}, errors.New("the target has more than scheme, host and path")
	}
	base := strings.TrimSuffix(r.Target.EscapedPath(), "/")
	if base != "" && (base[0] != '/' || !plainTarget(base) || !safePath(base)) {
		return entry{}, errors.New("the target's path is not a plain path")
	}
	return entry{Route: r, base: base}, nil
}

// Match returns the route of a path, the one with the longest prefix.
func (t *Table) Match(path string) (Route, bool) {
	e, _ := t.match(path)
	if e == nil {
		return Route{}, false
	}
	return e.Route, true
}

// match returns the entry of a path, or nil, and what of the path is left
// behind the prefix: nothing, or something that begins with a slash.
func (t *Table) match(path string) (*entry, string) {
	for i := range t.entries {
		e := &t.entries[i]
		if e.Prefix == "/" {
			return e, path
		}
		if rest, ok := cutPrefix(path, e.Prefix); ok {
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

// Resolve says where the request goes whose target is given, as it came. The
// bytes of the target stay what they are, but for a prefix that is taken off
// and a base path that is put before it.
//
// A target that must not pass is an *Error of kind BadTarget: one that is not a
// path with perhaps a query, or that an upstream could read as another path
// than the route's. A path without a route is ErrNoRoute.
func (t *Table) Resolve(target string) (Destination, error) {
	path, query, hasQuery := strings.Cut(target, "?")
	if !plainTarget(target) || !safePath(path) {
		return Destination{}, &Error{Kind: BadTarget}
	}
	e, rest := t.match(path)
	if e == nil {
		return Destination{}, ErrNoRoute
	}
	out := target
	if e.base != "" || e.StripPrefix && e.Prefix != "/" {
		if !e.StripPrefix {
			rest = path
		}
		if out = e.base + rest; out == "" {
			out = "/"
		}
		if hasQuery {
			out += "?" + query
		}
	}
	return Destination{Target: e.Target, Path: out}, nil
}
