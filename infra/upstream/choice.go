package upstream

import "context"

// Choice is the Engine that takes one of two for each request: Plain for
// targets whose scheme is http, and Other for those whose scheme is https.
type Choice struct {
	Plain, Other interface {
		Engine
		Close()
	}
}

var _ Engine = Choice{}

// Do implements Engine.
func (c Choice) Do(ctx context.Context, r *Request) (*Response, error) {
	if r.Target.Scheme == "http" {
		return c.Plain.Do(ctx, r)
	}
	return c.Other.Do(ctx, r)
}

// Close closes both.
func (c Choice) Close() {
	c.Plain.Close()
	c.Other.Close()
}
