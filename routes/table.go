package routes

import (
	"errors"
	"fmt"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/upstream"
)

// Route is where requests go and what is asked of them on the way. A Route that
// is in a table does not change.
type Route struct {
	upstream.Route
	// Engine reaches the route's upstream, with the bounds that hold for it.
	Engine upstream.Engine
}

// Table is everywhere that the proxy can send a request. It does not change: a
// reload makes another one.
type Table struct {
	places *upstream.Table
	routes []Route
}

// NewTable checks the routes and reports everything that is wrong with them.
func NewTable(routes []Route) (*Table, error) {
	var problems []error
	places := make([]upstream.Route, len(routes))
	for i, r := range routes {
		places[i] = r.Route
		if r.Engine == nil {
			problems = append(problems, fmt.Errorf("route %q: has no engine", r.Prefix))
		}
	}
	table, err := upstream.NewTable(places)
	return &Table{places: table, routes: routes}, errors.Join(append(problems, err)...)
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
