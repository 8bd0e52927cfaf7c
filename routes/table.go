package routes

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/upstream"
)

// Route is where requests go and what is asked of them on the way. The zero
// value of a field is its default. A Route that is in a table does not change.
type Route struct {
	upstream.Route
	// Engine reaches the route's upstream, with the bounds that hold for it. It
	// has no default.
	Engine upstream.Engine

	Auth Auth
	// PassAuthorization lets the client's own Authorization field through. It is
	// of use with AuthNone alone.
	PassAuthorization bool
	CSRF              CSRF
	Roles             []string // a device needs any of these, if there are any
	Scopes            []string // its access token needs all of these
	// Identity is what the upstream is told of who is signed in.
	Identity Identity

	Methods     []string      // the ones that are taken; none means all. GET takes HEAD along
	MaxBody     int64         // bytes of a request's body; 0: any
	IdleTimeout time.Duration // of silence within an answer; 0: any
	// FirstByteTimeout is for how long an upstream that has not answered may take
	// nothing of a request's body; 0: any. The wait for the answer to the whole is
	// the Engine's to bound.
	FirstByteTimeout time.Duration
	// SetHeaders are put into every request, in the place of the client's.
	SetHeaders []upstream.Field
	// HideHeaders are left out of every answer.
	HideHeaders []string

	allow string // Methods as an Allow field has them
}

// Auth says who may use a route.
type Auth uint8

const (
	// AuthRequired: who is signed in.
	AuthRequired Auth = iota
	// AuthOptional: everybody. The upstream gets the token of who is signed in.
	AuthOptional
	// AuthNone: everybody. No session is looked at and no token given out.
	AuthNone
)

// CSRF says how a request with our cookie proves that it is not another site's
// doing.
type CSRF uint8

const (
	// CSRFOn: one that changes something proves it as for a path of ours.
	CSRFOn CSRF = iota
	// CSRFOff: none does. It is for AuthNone alone.
	CSRFOff
	// CSRFHeader: every one, of whatever method, carries X-CSRF, which no page
	// can send to another site unasked. A WebSocket's handshake cannot carry it
	// and proves itself by its Origin.
	CSRFHeader
)

// Table is everywhere that the proxy can send a request. It does not change: a
// reload makes another one.
type Table struct {
	places *upstream.Table
	routes []Route
}

// NewTable checks the routes and reports everything that is wrong with them.
func NewTable(routes []Route) (*Table, error) {
	var problems []error
	t := &Table{routes: slices.Clone(routes)}
	places := make([]upstream.Route, len(routes))
	for i := range t.routes {
		r := &t.routes[i]
		places[i] = r.Route
		if slices.Contains(r.Methods, fiber.MethodGet) && !slices.Contains(r.Methods, fiber.MethodHead) {
			r.Methods = append(slices.Clip(r.Methods), fiber.MethodHead)
		}
		r.allow = strings.Join(r.Methods, ", ")
		if problem := r.problem(); problem != "" {
			problems = append(problems, fmt.Errorf("route %q: %s", r.Prefix, problem))
		}
	}
	var err error
	t.places, err = upstream.NewTable(places)
	return t, errors.Join(append(problems, err)...)
}

// problem says what of a route would be unsafe, or cannot be.
func (r *Route) problem() string {
	switch {
	case r.Engine == nil:
		return "has no engine"
	case r.CSRF == CSRFOff && r.Auth != AuthNone:
		return "tokens without a check of where requests come from"
	case r.PassAuthorization && r.Auth != AuthNone:
		return "the client's Authorization beside the device's"
	case len(r.Roles)+len(r.Scopes) > 0 && r.Auth != AuthRequired:
		return "roles or scopes of nobody"
	}
	return ""
}

// destination is where one request goes, and by which route.
type destination struct {
	upstream.Destination
	*Route
}

// leads reports whether a path of a host belongs to a route.
func (t *Table) leads(host []byte, path string) bool {
	_, err := t.places.Resolve(host, path)
	return err == nil
}

// SetTable puts another table in the place of the present one. Requests under
// way end as they began.
func (h *Handlers) SetTable(t *Table) { h.table.Store(t) }

// destination finds out where a request goes. The target's own bytes decide, as
// the upstream will see them, and not Fiber's reading of them; its Host chooses
// among the routes that name one.
func (h *handlers) destination(c *fiber.Ctx) (destination, error) {
	table, header := h.table.Load(), &c.Request().Header
	to, err := table.places.Resolve(header.Host(), string(header.RequestURI()))
	switch {
	case errors.Is(err, upstream.ErrNoRoute):
		return destination{}, errNotFound
	case err != nil:
		return destination{}, err
	}
	return destination{to, &table.routes[to.Index]}, nil
}
