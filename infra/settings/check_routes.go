package settings

import (
	"crypto/x509"
	"fmt"
	"slices"
	"strings"

	"cloakroom/infra/settings/schema"
	"cloakroom/infra/upstream"
)

// completeRoutes puts in what follows from elsewhere: the path of a route that
// has a host alone, and what the files hold that are named.
func completeRoutes(routes []Route, l *schema.Loaded) {
	for i := range routes {
		r, where := &routes[i], l.WhereItem("route", i)
		if r.Prefix == "" && len(r.Hosts) > 0 {
			r.Prefix = "/"
		}
		for j, host := range r.Hosts {
			plain, ok := upstream.PlainHost(host)
			if !ok || strings.HasSuffix(plain, ".") || strings.Contains(host, "]:") || !strings.Contains(host, "]") && strings.Contains(host, ":") {
				l.Rejectf("%s: has a host that is none; write a name or an address, without a port, for example app.example", where)
				continue
			}
			r.Hosts[j] = plain
		}
		if r.CAFile == "" {
			continue
		}
		data, err := l.ReadFile(r.CAFile)
		switch {
		case err != nil:
			l.Rejectf("%s: has a ca-file that %v", where, err)
		case !x509.NewCertPool().AppendCertsFromPEM(data):
			l.Rejectf("%s: has a ca-file without a certificate; give a file of PEM", where)
		}
		r.CA = string(data)
	}
}

// healthPath is where health is told, beside everything under the prefix.
const healthPath = "/health"

// proxyMethods are those that a request can have.
var proxyMethods = []string{"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"}

func checkRoutes(s Settings, l *schema.Loaded) {
	if len(s.Routes) == 0 && s.ForwardAuthListen == "" && l.Valid("route", "forward-auth-listen") {
		l.Rejectf("route: is missing; %s", l.Remedy("route"))
	}
	seen := map[string]string{}
	for i, r := range s.Routes {
		where := l.WhereItem("route", i)
		reject := func(format string, args ...any) { l.Rejectf("%s: %s", where, fmt.Sprintf(format, args...)) }
		if r.Prefix == "" {
			reject("has neither prefix nor host; add one of them")
			continue
		}
		before := ""
		for _, host := range places(r) {
			if first, twice := seen[host+r.Prefix]; twice && first != before {
				reject("has the same path as %s%s, so that one of them never gets a request; keep one", first, forHost(host))
				before = first
			}
			seen[host+r.Prefix] = where
		}
		for _, own := range []string{s.Prefix, healthPath} {
			if own != "/" && under(r.Prefix, own) && l.Valid("prefix") {
				reject("is below %s, which is Cloakroom's own; choose another path, or another prefix", own)
			}
		}
		checkUpstreams(r, s, l, reject)
		checkRules(r, reject)
	}
}

// places are the hosts that a route is for, "" standing for any.
func places(r Route) []string {
	if len(r.Hosts) == 0 {
		return []string{""}
	}
	return r.Hosts
}

func forHost(host string) string {
	if host == "" {
		return ""
	}
	return " for " + host
}

func checkUpstreams(r Route, s Settings, l *schema.Loaded, reject func(string, ...any)) {
	first := r.Upstreams[0]
	if len(r.Upstreams) > upstream.MostAddresses {
		reject("has %d upstreams; give it %d at most", len(r.Upstreams), upstream.MostAddresses)
	}
	for i, u := range r.Upstreams {
		if l.Valid("listen") && pointsAt(u.Target(), s.Listen) || l.Valid("forward-auth-listen") && pointsAt(u.Target(), s.ForwardAuthListen) {
			reject("leads back to Cloakroom itself; give the upstream's own address")
		}
		if slices.Contains(r.Upstreams[:i], u) {
			reject("has the same upstream twice; keep one")
		}
		if u.Scheme != first.Scheme || u.Scheme != "unix" && u.Path != first.Path {
			reject("has upstreams that differ in more than their addresses; give them one scheme and one path")
			break
		}
	}
	if r.StripPrefix && r.RewritePrefix != "" {
		reject("has strip-prefix and rewrite-prefix; keep one of them")
	}
	if r.CAFile != "" && first.Scheme != "https" {
		reject("has a ca-file, but its upstream is not https; take it out, or write https://")
	}
	if r.HealthPath != "" && len(r.Upstreams) == 1 {
		reject("has a health-path, but no second upstream to turn to; take it out")
	}
	if r.HealthInterval > 0 && r.HealthPath == "" {
		reject("has a health-interval without a health-path; add that")
	}
	if _, err := upstream.NewTable([]upstream.Route{{Prefix: r.Prefix, Target: first.Target(), Rewrite: r.RewritePrefix}}); err != nil {
		reject("has a path with characters that mean something else in one; write it plainly")
	}
}

func checkRules(r Route, reject func(string, ...any)) {
	for i, m := range r.Methods {
		switch {
		case !slices.Contains(proxyMethods, m):
			reject("has a method that cannot be; write some of %s", strings.Join(proxyMethods, ", "))
		case slices.Contains(r.Methods[:i], m):
			reject("has the method %s twice; keep one", m)
		}
	}
	none := r.AuthMode() == AuthNone
	if r.PassAuthorization && !none {
		reject("has pass-authorization, but with auth: %s the upstream gets the device's token; take it out, or set auth to none", r.AuthMode())
	}
	if r.CSRFMode() == CSRFOff && !none {
		reject("has csrf: off, so that any page could act for who is signed in; take it out, or set auth to none")
	}
	if len(r.Roles)+len(r.Scopes) > 0 && r.AuthMode() != AuthRequired {
		reject("asks for a role or a scope, which needs auth: required")
	}
	if len(r.IdentityHeaders) > 0 && none {
		reject("has an identity-header, but with auth: none nobody is known; take it out")
	}
	for i, h := range r.SetHeaders {
		if slices.ContainsFunc(r.SetHeaders[:i], func(earlier Header) bool { return strings.EqualFold(earlier.Name, h.Name) }) {
			reject("sets the header %s twice; keep one", h.Name)
		}
	}
	for _, name := range r.HideHeaders {
		if !upstream.MayHide(name) {
			reject("has a hide-header that cannot be left out: one that says how to read the answer, or whose name is none")
		}
	}
}

// Overlap is a pair of routes of which one takes requests from the other. That is
// how routes are meant to be, and worth a look all the same.
type Overlap struct {
	Text string
	// Open says that the one that takes asks for less than the other.
	Open bool
}

// Overlaps returns the overlaps of the routes: each with the routes that would
// get its requests if it were not there.
func Overlaps(routes []Route) (list []Overlap) {
	for i, r := range routes {
		var others []int
		for _, host := range places(r) {
			others = append(others, instead(routes, i, host)...)
		}
		slices.Sort(others)
		for _, j := range slices.Compact(others) {
			list = append(list, overlap(r, routes[j]))
		}
	}
	return list
}

func overlap(r, from Route) Overlap {
	text := fmt.Sprintf("route %s takes requests from %s", r.place(), from.place())
	if len(from.Prefix) > len(r.Prefix) {
		text += ", although that has the longer path: a host comes first"
	}
	switch {
	case openness(r) > openness(from):
		text += fmt.Sprintf(", and asks for less: auth is %s there and %s here", from.AuthMode(), r.AuthMode())
	case len(from.Roles) > 0 && len(r.Roles) == 0:
		text += ", and asks for less: a role is needed there and none here"
	case len(from.Scopes) > 0 && len(r.Scopes) == 0:
		text += ", and asks for less: a scope is needed there and none here"
	default:
		return Overlap{Text: text}
	}
	return Overlap{Text: text, Open: true}
}

func openness(r Route) int {
	switch r.AuthMode() {
	case AuthNone:
		return 2
	case AuthOptional:
		return 1
	}
	return 0
}

// instead returns the routes that would get the requests of one for a host if it
// were not there: the nearest around it, for that host if there is one. If not,
// those for any host that are below it get some as well.
func instead(routes []Route, of int, host string) []int {
	r, list := routes[of], []int(nil)
	nearest := around(routes, of, host, r.Prefix)
	if nearest < 0 && host != "" {
		nearest = around(routes, of, "", r.Prefix)
		for j, other := range routes {
			below := len(other.Hosts) == 0 && other.Prefix != r.Prefix && within(other.Prefix, r.Prefix)
			if below && around(routes, of, host, other.Prefix) < 0 {
				list = append(list, j)
			}
		}
	}
	if nearest >= 0 {
		list = append(list, nearest)
	}
	return list
}

// around returns the route for a host, "" being any, that has the longest path
// around path, without looking at the route but; -1 if there is none.
func around(routes []Route, but int, host, path string) int {
	nearest := -1
	for j, r := range routes {
		if j != but && slices.Contains(places(r), host) && within(path, r.Prefix) && (nearest < 0 || len(r.Prefix) > len(routes[nearest].Prefix)) {
			nearest = j
		}
	}
	return nearest
}

// within is under for a base that may be the root.
func within(path, base string) bool { return base == "/" || under(path, base) }
