package upstream

import "context"

// Choice is the Engine that takes one of two for each request: Plain for
// targets whose scheme is http, unless the request asks to switch protocols, and
// Other for all else.
type Choice struct {
	Plain, Other interface {
		Engine
		Close()
	}
}

var _ Engine = Choice{}

// Do implements Engine.
func (c Choice) Do(ctx context.Context, r *Request) (*Response, error) {
	if r.Target.Scheme == "http" && r.Upgrade == "" {
		return c.Plain.Do(ctx, r)
	}
	return c.Other.Do(ctx, r)
}

// Close closes both.
func (c Choice) Close() {
	c.Plain.Close()
	c.Other.Close()
}
