package bench

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"time"
)

// load is a number of connections to one server, each with the same request to
// send. It parses as little as it can: what it takes of the processors, the
// servers do not get.
type load struct {
	conns   []*conn
	request []byte
	want    []byte // the body of every answer
}

type conn struct {
	net.Conn
	in *bufio.Reader
}

// request is what a browser's script sends, on one connection after the other.
func request(host, cookie string) []byte {
	return []byte("GET /api/things?page=2 HTTP/1.1\r\n" +
		"Host: " + host + "\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0\r\n" +
		"Accept: application/json, text/plain, */*\r\n" +
		"Accept-Language: en-GB,en;q=0.7,de;q=0.3\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Referer: http://" + host + "/things\r\n" +
		"Sec-Fetch-Dest: empty\r\n" +
		"Sec-Fetch-Mode: cors\r\n" +
		"Sec-Fetch-Site: same-origin\r\n" +
		"Cookie: " + cookie + "\r\n\r\n")
}

// dial opens the connections.
func dial(ctx context.Context, address string, connections int, request, want []byte) (*load, error) {
	l := &load{request: request, want: want}
	for range connections {
		c, err := (&net.Dialer{Timeout: answerWithin}).DialContext(ctx, "tcp", address)
		if err != nil {
			l.close()
			return nil, err
		}
		l.conns = append(l.conns, &conn{Conn: c, in: bufio.NewReader(c)})
	}
	return l, nil
}

func (l *load) close() {
	for _, c := range l.conns {
		c.Close()
	}
}

// measured is what a run saw.
type measured struct {
	answered int
	took     time.Duration
	latency  histogram
}

// run sends requests on all connections, on each the next one when the answer to
// the last is there, and returns when the time is over and every answer has
// come. An answer that is not as it should be, or none within answerWithin
// after the end, is an error; the load is of no use then.
func (l *load) run(ctx context.Context, d time.Duration) (measured, error) {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	// Closing wakes up whoever waits for an answer.
	defer context.AfterFunc(ctx, l.close)()

	begin := time.Now()
	end := begin.Add(d)
	each := make([]histogram, len(l.conns))
	var running sync.WaitGroup
	for i, c := range l.conns {
		running.Go(func() {
			if err := l.drive(c, end, &each[i]); err != nil {
				cancel(err) // the first one counts
			}
		})
	}
	running.Wait()
	m := measured{took: time.Since(begin)}
	if err := context.Cause(ctx); err != nil {
		return measured{}, err
	}
	for i := range each {
		m.latency.merge(&each[i])
	}
	m.answered = m.latency.count()
	return m, nil
}

// drive keeps one connection busy.
func (l *load) drive(c *conn, end time.Time, latency *histogram) error {
	if err := c.SetDeadline(end.Add(answerWithin)); err != nil {
		return err
	}
	for now := time.Now(); now.Before(end); {
		if _, err := c.Write(l.request); err != nil {
			return err
		}
		if err := c.receive(l.want); err != nil {
			return err
		}
		before := now
		now = time.Now()
		latency.add(now.Sub(before))
	}
	return nil
}

var errNoLength = errors.New("wrong answer: it has no length")

// receive reads one answer, which has to be a 200 with the body that is wanted.
func (c *conn) receive(want []byte) error {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(line, []byte("HTTP/1.1 200 ")) {
		return fmt.Errorf("wrong answer: %q", line)
	}
	length := -1
	for {
		line, err = c.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if line = bytes.TrimRight(line, "\r\n"); len(line) == 0 {
			break
		}
		const name = "content-length:"
		if len(line) > len(name) && bytes.EqualFold(line[:len(name)], []byte(name)) {
			if length, err = strconv.Atoi(string(bytes.TrimSpace(line[len(name):]))); err != nil {
				return fmt.Errorf("wrong answer: %w", err)
			}
		}
	}
	if length < 0 {
		return errNoLength
	}
	if length != len(want) {
		return fmt.Errorf("wrong answer: %d bytes and not %d", length, len(want))
	}
	body, err := c.in.Peek(length)
	if err != nil {
		return err
	}
	if !bytes.Equal(body, want) {
		return errors.New("wrong answer: another body than the upstream's")
	}
	_, err = c.in.Discard(length)
	return err
}
