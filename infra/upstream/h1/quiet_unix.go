//go:build unix

package h1

import "golang.org/x/sys/unix"

// quiet reports whether the connection is open and has nothing to read. It
// does not wait.
func (c *conn) quiet() bool {
	var peeked error
	// Control and not Read: that one fails when the last answer's deadline has
	// passed meanwhile.
	err := c.raw.Control(func(fd uintptr) {
		var b [1]byte
		for {
			_, _, peeked = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
			if peeked != unix.EINTR {
				return
			}
		}
	})
	return err == nil && (peeked == unix.EAGAIN || peeked == unix.EWOULDBLOCK)
}
