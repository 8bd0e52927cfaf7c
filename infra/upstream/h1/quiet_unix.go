//go:build unix

package h1

import "golang.org/x/sys/unix"

// quiet reports whether the connection is open and has nothing to read. It
// does not wait.
func (c *conn) quiet() bool {
	// Control and not Read: that one fails when the last answer's deadline has
	// passed meanwhile.
	err := c.raw.Control(c.peek)
	return err == nil && (c.peeked == unix.EAGAIN || c.peeked == unix.EWOULDBLOCK)
}

// newPeek returns what quiet does with the socket. It is made once for each
// connection, because it is called for each request.
func newPeek(c *conn) func(fd uintptr) {
	var b [1]byte
	return func(fd uintptr) {
		for {
			_, _, c.peeked = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if c.peeked != unix.EINTR {
				return
			}
		}
	}
}
