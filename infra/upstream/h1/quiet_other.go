//go:build !unix

package h1

// quiet would have to look at what has come in without taking it. Where it
// cannot, each request gets a connection of its own.
func (c *conn) quiet() bool { return false }

func newPeek(*conn) func(fd uintptr) { return nil }
