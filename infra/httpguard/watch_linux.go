package httpguard

import (
	"fmt"
	"net"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// newWatcher returns a watcher on epoll, or a poller where the system gives no
// epoll instance.
func newWatcher() watcher {
	w, err := newEpoll()
	if err != nil {
		return newPoller()
	}
	return w
}

// epoll watches through one epoll instance, which hears of a connection's end
// and of nothing else, once. The instance itself waits in the runtime's
// poller, so that it costs a goroutine and no thread.
type epoll struct {
	watched
	file *os.File
	raw  syscall.RawConn
}

func newEpoll() (*epoll, error) {
	fd, err := unix.EpollCreate1(unix.EPOLL_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("epoll: %w", err)
	}
	if err := unix.SetNonblock(fd, true); err != nil { // os.NewFile polls only such
		unix.Close(fd)
		return nil, fmt.Errorf("epoll: %w", err)
	}
	file := os.NewFile(uintptr(fd), "epoll")
	raw, err := file.SyscallConn()
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("epoll: %w", err)
	}
	w := &epoll{file: file, raw: raw}
	go w.loop()
	return w, nil
}

func (w *epoll) loop() {
	events := make([]unix.EpollEvent, 128)
	for {
		var n int
		var waitErr error
		err := w.raw.Read(func(fd uintptr) bool {
			for {
				n, waitErr = unix.EpollWait(int(fd), events, 0)
				if waitErr != unix.EINTR {
					return n != 0
				}
			}
		})
		if err != nil || waitErr != nil {
			return // stopped
		}
		for _, e := range events[:n] {
			if c := w.find(uint64(uint32(e.Fd)) | uint64(uint32(e.Pad))<<32); c != nil {
				c.peerGone()
			}
		}
	}
}

// add begins to watch the socket under c. A connection without one, in memory,
// is not watched: its end is noticed by whoever reads or writes next.
func (w *epoll) add(c *Conn) error {
	raw, err := rawSocket(c.Conn)
	if raw == nil || err != nil {
		return err
	}
	w.enter(c)
	event := unix.EpollEvent{
		Events: unix.EPOLLRDHUP | unix.EPOLLET, // EPOLLHUP and EPOLLERR come unasked
		Fd:     int32(uint32(c.id)),
		Pad:    int32(uint32(c.id >> 32)),
	}
	add := func(epfd uintptr) (err error) {
		ctlErr := raw.Control(func(fd uintptr) {
			err = unix.EpollCtl(int(epfd), unix.EPOLL_CTL_ADD, int(fd), &event)
		})
		if err == nil {
			err = ctlErr
		}
		return err
	}
	if ctlErr := w.raw.Control(func(epfd uintptr) { err = add(epfd) }); err == nil {
		err = ctlErr
	}
	if err != nil {
		w.remove(c)
		return fmt.Errorf("epoll: %w", err)
	}
	return nil
}

// stop ends the loop. Closed sockets have left the instance by themselves.
func (w *epoll) stop() { w.file.Close() }

// rawSocket finds the socket that carries nc, through TLS if need be, and
// returns nil if there is none.
func rawSocket(nc net.Conn) (syscall.RawConn, error) {
	for nc != nil {
		switch c := nc.(type) {
		case syscall.Conn:
			return c.SyscallConn()
		case interface{ NetConn() net.Conn }:
			nc = c.NetConn()
		default:
			return nil, nil
		}
	}
	return nil, nil
}
