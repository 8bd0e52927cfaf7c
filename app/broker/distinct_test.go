package broker_test

import (
	"bufio"
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/settings"
)

const (
	people      = 64
	perPerson   = 1568 // 100,352 in all
	atATime     = 16   // requests that a person sends before reading the answers
	tokensTurns = 4    // seconds that an access token lives: several during the test
)

// TestNobodySeesAnothersData: what fasthttp hands out are its buffers, which the
// next request on any connection overwrites. Each of 64 people sends marked
// requests, as fast as they go, while tokens are refreshed; whatever the upstream
// sees and whatever comes back has to be of that person and that request. It says
// most under the race detector.
func TestNobodySeesAnothersData(t *testing.T) {
	upstream, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { upstream.Close() })
	go func() {
		for {
			c, err := upstream.Accept()
			if err != nil {
				return
			}
			go tellWhatComes(c)
		}
	}()
	s := newStack(t, func(c *settings.Settings) {
		c.Routes[0].Upstreams = upstreamsAt(t, "http://"+upstream.Addr().String())
		c.Store = settings.Store{Kind: settings.Memory}
		c.LogLevel = slog.LevelError // 100,000 lines are not what is looked at
		c.RefreshAhead, c.RefreshMargin = time.Second, 100*time.Millisecond
	})
	s.auth.Set(func(o *authapitest.Options) { o.AccessLife = tokensTurns * time.Second })
	var all sync.WaitGroup
	for i := range people {
		address := fmt.Sprintf("person-%d@example.com", i)
		s.auth.AddAccount(address, password)
		b := s.browser()
		b.signIn(address)
		p := &person{t: t, n: i, address: address, cookie: "device_id=" + b.ticket()}
		c, err := net.Dial("tcp", strings.TrimPrefix(s.url, "http://"))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		p.conn, p.w, p.r = c, bufio.NewWriterSize(c, 32<<10), bufio.NewReaderSize(c, 32<<10)
		all.Go(p.work)
	}
	begun := time.Now()
	all.Wait()
	t.Logf("%d requests in %v, %d refreshes", people*perPerson, time.Since(begun), s.auth.Granted(authapitest.RefreshPath))
}

// person is one of them, on one connection.
type person struct {
	t       *testing.T
	n       int
	address string
	cookie  string
	token   string // the last one that turned out to be theirs
	conn    net.Conn
	w       *bufio.Writer
	r       *bufio.Reader
}

func (p *person) work() {
	for i := 0; i < perPerson; i += atATime {
		_ = p.conn.SetDeadline(time.Now().Add(time.Minute))
		for j := range atATime {
			p.send(i + j)
		}
		if err := p.w.Flush(); err != nil {
			p.t.Errorf("%s: %v", p.address, err)
			return
		}
		for j := range atATime {
			if err := p.receive(i + j); err != nil {
				p.t.Errorf("%s, request %d: %v", p.address, i+j, err)
				return
			}
		}
	}
}

// mark is of a length of its own, so that what is left of another shows.
func (p *person) mark(i int) string {
	return fmt.Sprintf("%d.%d.%s", p.n, i, strings.Repeat(string(rune('a'+p.n%26)), 1+(i*7+p.n)%60))
}

func (p *person) send(i int) {
	mark, method, body := p.mark(i), "GET", ""
	if i%4 == 0 {
		method, body = "POST", mark+mark
	}
	fmt.Fprintf(p.w, "%s /%s?chunked=%v HTTP/1.1\r\nHost: app.test\r\nX-CSRF: 1\r\nX-Mark: %s\r\nCookie: mark=%s; %s\r\n", method, mark, i%8 == 1, mark, mark, p.cookie)
	if i%12 == 0 {
		fmt.Fprintf(p.w, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
	} else {
		fmt.Fprintf(p.w, "Content-Length: %d\r\n\r\n%s", len(body), body)
	}
}

func (p *person) receive(i int) error {
	mark, body := p.mark(i), ""
	if i%4 == 0 {
		body = mark + mark
	}
	m, err := readMessage(p.r)
	if err != nil {
		return err
	}
	lines := strings.Split(string(m.body), "\n")
	if !strings.HasPrefix(m.first, "HTTP/1.1 200 ") || len(lines) != 5 {
		return fmt.Errorf("%s %q", m.first, m.body)
	}
	token := strings.TrimPrefix(lines[0], "Bearer ")
	want := []string{lines[0], mark, "mark=" + mark, fmt.Sprintf("/%s?chunked=%v", mark, i%8 == 1), body}
	if got := m.field["x-mark"]; got != mark || strings.Join(lines, "|") != strings.Join(want, "|") {
		return fmt.Errorf("the answer is %q %q, want %q", got, lines, want)
	}
	if token != p.token {
		if owner := ownerOf(token); owner != p.address {
			return fmt.Errorf("went on with the token of %q", owner)
		}
		p.token = token
	}
	return nil
}

func ownerOf(token string) string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return ""
	}
	claims, _ := base64.RawURLEncoding.DecodeString(parts[1])
	var c struct{ Email string }
	_ = json.Unmarshal(claims, &c)
	return c.Email
}

// tellWhatComes answers each request with what it has brought.
func tellWhatComes(c net.Conn) {
	defer c.Close()
	r, w := bufio.NewReaderSize(c, 16<<10), bufio.NewWriterSize(c, 16<<10)
	for {
		m, err := readMessage(r)
		if err != nil {
			return
		}
		_, target, _ := strings.Cut(m.first, " ")
		target, _, _ = strings.Cut(target, " ")
		mark := m.field["x-mark"]
		body := m.field["authorization"] + "\n" + mark + "\n" + m.field["cookie"] + "\n" + target + "\n" + string(m.body)
		fmt.Fprintf(w, "HTTP/1.1 200 OK\r\nX-Mark: %s\r\n", mark)
		if strings.HasSuffix(target, "=true") {
			fmt.Fprintf(w, "Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n", len(body), body)
		} else {
			fmt.Fprintf(w, "Content-Length: %d\r\n\r\n%s", len(body), body)
		}
		if r.Buffered() == 0 && w.Flush() != nil {
			return
		}
	}
}

// message is a request or an answer. net/http's own reader would take most of the
// test's time.
type message struct {
	first string
	field map[string]string // those that are looked at
	body  []byte
}

func readMessage(r *bufio.Reader) (m message, err error) {
	m.field = make(map[string]string, 5)
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return m, err
		}
		line = bytes.TrimSuffix(line, []byte("\r\n"))
		if m.first == "" {
			m.first = string(line)
			continue
		}
		if len(line) == 0 {
			break
		}
		name, value, _ := bytes.Cut(line, []byte(": "))
		switch name := strings.ToLower(string(name)); name {
		case "content-length", "transfer-encoding", "x-mark", "authorization", "cookie":
			m.field[name] = string(value)
		}
	}
	if m.field["transfer-encoding"] == "" {
		n, _ := strconv.Atoi(m.field["content-length"])
		m.body = make([]byte, n)
		_, err = io.ReadFull(r, m.body)
		return m, err
	}
	for {
		line, err := r.ReadString('\n')
		if err != nil {
			return m, err
		}
		n, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return m, err
		}
		chunk := make([]byte, n+2)
		if _, err := io.ReadFull(r, chunk); err != nil || n == 0 {
			return m, err
		}
		m.body = append(m.body, chunk[:n]...)
	}
}
