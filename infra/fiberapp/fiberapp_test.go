package fiberapp

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/httpguard/guardtest"
)

// Before 1.77 the unread rest of a streamed body is served as a request, and
// Fiber by itself asks for 1.51.
func TestFasthttpVersion(t *testing.T) {
	out, err := exec.Command("go", "list", "-m", "-f", "{{.Version}}", "github.com/valyala/fasthttp").Output()
	if err != nil {
		t.Fatalf("go list: %v", err)
	}
	var major, minor, patch int
	if _, err := fmt.Sscanf(string(out), "v%d.%d.%d", &major, &minor, &patch); err != nil {
		t.Fatalf("version %q: %v", out, err)
	}
	if major != 1 || minor < 77 {
		t.Errorf("fasthttp resolves to %s, want v1.77.0 or later", strings.TrimSpace(string(out)))
	}
}

// logbook is a log to look into.
type logbook struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logbook) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logbook) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logbook) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// serve serves an application on loopback behind the guard, and returns its
// address.
func serve(t *testing.T, cfg Config, guard httpguard.Config, routes func(app *fiber.App)) string {
	t.Helper()
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	app := New(cfg)
	routes(app)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served := make(chan error)
	go func() { served <- app.Listener(httpguard.Listener(l, guard)) }()
	t.Cleanup(func() {
		if err := app.ShutdownWithTimeout(5 * time.Second); err != nil {
			t.Errorf("shut down: %v", err)
		}
		if err := <-served; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	return l.Addr().String()
}

func dial(t *testing.T, addr string) *guardtest.Client {
	t.Helper()
	c, err := guardtest.Dial(addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func answer(t *testing.T, c *guardtest.Client) guardtest.Answer {
	t.Helper()
	a, err := c.Answer()
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// readBody reads a request's body as a proxy would.
func readBody(c *fiber.Ctx) (string, error) {
	stream := c.Context().RequestBodyStream()
	if stream == nil {
		return "", nil
	}
	body, err := io.ReadAll(stream)
	return string(body), err
}

const (
	host = "Host: app.test\r\n"
	get  = "GET / HTTP/1.1\r\n" + host
	post = "POST / HTTP/1.1\r\n" + host
)

// teapot is an error handler whose answers are recognised.
func teapot(c *fiber.Ctx, err error) error {
	status := fiber.StatusTeapot
	if e := (*fiber.Error)(nil); errors.As(err, &e) {
		status = e.Code
	}
	return c.Status(status).SendString(fmt.Sprintf("handled %s %s %q", c.Method(), c.Path(), c.Get("Cookie")))
}

// A refused request is answered by the error handler, and nothing of it is
// echoed or logged.
func TestRefusalEchoesNothing(t *testing.T) {
	const secret = "swordfish"
	var book logbook
	addr := serve(t, Config{ErrorHandler: teapot, Logger: book.logger()}, httpguard.Config{}, func(*fiber.App) {})
	for name, raw := range map[string]string{
		"by the guard":  get + "Cookie: a=" + secret + "\r\nAuthorization: Bearer " + secret + "\r\nX" + secret + " : y\r\n\r\n",
		"of its target": "GET /" + secret + "\x80 HTTP/1.1\r\n" + host + "Cookie: a=" + secret + "\r\n\r\n",
		"of its host":   "GET / HTTP/1.1\r\nHost: [" + secret + "\r\nCookie: a=" + secret + "\r\n\r\n",
		"by fasthttp":   get + "Cookie: a=" + secret + "\r\nTrailer: Authorization, " + secret + "\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			for how, send := range map[string]func(*guardtest.Client){
				"whole":  func(c *guardtest.Client) { c.Send(raw) },
				"pieces": func(c *guardtest.Client) { c.SendBytewise(raw) },
			} {
				c := dial(t, addr)
				send(c)
				a := answer(t, c)
				if a.Status != 400 || !a.Close || a.Body != `handled GET / ""` {
					t.Errorf("%s: answer %+v", how, a)
				}
				if err := c.Closed(); err != nil {
					t.Errorf("%s: %v", how, err)
				}
				if strings.Contains(fmt.Sprint(a), secret) {
					t.Errorf("%s: the answer echoes the request: %+v", how, a)
				}
			}
		})
	}
	if log := book.String(); strings.Contains(log, secret) {
		t.Errorf("the log quotes a request:\n%s", log)
	} else if !strings.Contains(log, "field name is not a token") || !strings.Contains(log, "remote=127.0.0.1:") {
		t.Errorf("the log does not say why a request was refused:\n%s", log)
	}
}

// fasthttp's own words reach the log without what they may quote.
func TestServerLog(t *testing.T) {
	var book logbook
	log := serverLog{book.logger()}
	log.Printf("error when serving connection %q<->%q: %v", "swordfish", []byte("swordfish"), errors.New("swordfish"))
	log.Printf("cannot be served, because of %d others", 7)
	log.Printf("cannot accept: %v", &net.OpError{Op: "accept", Err: errors.New("out of luck")})
	got := book.String()
	if strings.Contains(got, "swordfish") {
		t.Errorf("the log quotes an argument:\n%s", got)
	}
	for _, want := range []string{"level=DEBUG", "level=WARN", "error when serving connection", "count=7", "out of luck"} {
		if !strings.Contains(got, want) {
			t.Errorf("the log has no %q:\n%s", want, got)
		}
	}
}

// A client that connects and says nothing is let go without a word; one that
// stalls in its request is told so.
func TestTimeouts(t *testing.T) {
	const short = 150 * time.Millisecond // long enough for a busy machine to send a request
	addr := serve(t, Config{ErrorHandler: teapot},
		httpguard.Config{HeadTimeout: short, IdleTimeout: short, BodyTimeout: short},
		func(app *fiber.App) {
			app.All("/", func(c *fiber.Ctx) error {
				if _, err := readBody(c); err != nil {
					return fiber.ErrRequestTimeout
				}
				return c.SendString("ok")
			})
		})
	tests := []struct {
		name, raw string
		want      []int
	}{
		{"silent", "", nil},
		{"idle after a request", get + "\r\n", []int{200}},
		{"stalled in a head", "GET / HT", []int{408}},
		{"stalled in a second head", get + "\r\n" + get, []int{200, 408}},
		{"stalled in a short body", post + "Content-Length: 5\r\n\r\nabc", []int{408}},
		{"stalled in a chunk", post + "Transfer-Encoding: chunked\r\n\r\n5\r\nabc", []int{408}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			c := dial(t, addr)
			c.Send(tt.raw)
			for i, want := range tt.want {
				a := answer(t, c)
				if a.Status != want || a.Close != (want == 408) {
					t.Errorf("answer %d: %+v, want %d", i, a, want)
				}
			}
			if err := c.Closed(); err != nil {
				t.Error(err)
			}
		})
	}
}

// Neither the head's time nor fasthttp's ReadTimeout, made of it, cuts an
// upload that goes on; BodyTimeout does, unless the handler has given it longer.
func TestBodyTimeout(t *testing.T) {
	var uploads sync.Map
	routes := func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error {
			if c.Query("long") != "" {
				_ = c.Context().SetReadDeadline(time.Now().Add(time.Minute))
			}
			_, err := readBody(c)
			uploads.Store("last", err)
			return err
		})
	}
	dribble := func(c *guardtest.Client, post string, pieces int, every time.Duration) {
		c.Send(post + fmt.Sprintf("Content-Length: %d\r\n\r\n", 10_000*pieces))
		tick := time.NewTicker(every)
		defer tick.Stop()
		for range pieces {
			<-tick.C
			c.Send(strings.Repeat("x", 10_000))
		}
	}
	const headTimeout = 150 * time.Millisecond

	addr := serve(t, Config{HeadTimeout: headTimeout}, httpguard.Config{HeadTimeout: headTimeout}, routes)
	c := dial(t, addr)
	dribble(c, post, 10, headTimeout/3)
	if a := answer(t, c); a.Status != 200 || a.Close {
		t.Errorf("slow upload: %+v", a)
	}

	addr = serve(t, Config{BodyTimeout: 100 * time.Millisecond}, httpguard.Config{}, routes)
	c = dial(t, addr)
	dribble(c, post, 20, 20*time.Millisecond)
	if a := answer(t, c); a.Status != 500 || !a.Close {
		t.Errorf("endless upload: %+v", a)
	}
	if err, _ := uploads.Load("last"); err == nil {
		t.Error("endless upload: the handler read it without an error")
	}
	c = dial(t, addr)
	dribble(c, strings.Replace(post, "/", "/?long=1", 1), 10, 20*time.Millisecond)
	if a := answer(t, c); a.Status != 200 || a.Close {
		t.Errorf("long upload: %+v", a)
	}
	// One that nobody has looked at yet is cut as well.
	c = dial(t, addr)
	c.Send(post + "Content-Length: 5000\r\n\r\nx")
	if a := answer(t, c); a.Status != 408 || !a.Close {
		t.Errorf("small body: %+v", a)
	}
}

// With Expect: 100-continue, a refusal comes before the body is called for.
func TestExpect(t *testing.T) {
	var seen sync.Map
	addr := serve(t, Config{ErrorHandler: teapot, Expect: func(c *fiber.Ctx) (bool, error) {
		switch c.Get("Cookie") {
		case "":
			return false, fiber.ErrUnauthorized
		case "panic":
			panic("at the door")
		case "answered":
			return false, c.Status(fiber.StatusGone).SendString("gone")
		}
		return true, nil
	}}, httpguard.Config{}, func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error {
			body, err := readBody(c)
			seen.Store(body, true)
			return err
		})
	})
	head := func(fields string) string {
		return post + fields + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n"
	}

	for cookie, want := range map[string]guardtest.Answer{
		"":                     {Status: 401, Body: `handled POST / ""`},
		"Cookie: answered\r\n": {Status: 410, Body: "gone"},
		"Cookie: panic\r\n":    {Status: 500, Body: `handled POST / "panic"`},
	} {
		c := dial(t, addr)
		c.Send(head(cookie))
		a := answer(t, c)
		if a.Status != want.Status || a.Body != want.Body || !a.Close {
			t.Errorf("%q: %+v, want %+v", cookie, a, want)
		}
		c.Send("early")
		if err := c.Closed(); err != nil {
			t.Errorf("%q: %v", cookie, err)
		}
	}

	c := dial(t, addr)
	c.Send(head("Cookie: good\r\n"))
	if a := answer(t, c); a.Status != 100 {
		t.Fatalf("accepted: %+v, want 100", a)
	}
	c.Send("hello")
	if a := answer(t, c); a.Status != 200 || a.Close {
		t.Errorf("accepted: %+v, want 200", a)
	}
	if _, ok := seen.Load("hello"); !ok {
		t.Error("the handler has not read the body")
	}
	if _, ok := seen.Load("early"); ok {
		t.Error("the handler has read a refused body")
	}
}

func TestMethods(t *testing.T) {
	addr := serve(t, Config{ErrorHandler: teapot}, httpguard.Config{}, func(app *fiber.App) {
		app.Use(func(c *fiber.Ctx) error { return c.SendString("routed") })
	})
	for _, method := range []string{"TRACE", "TRACK", "DEBUG", "PROPFIND", "X"} {
		c := dial(t, addr)
		c.Send(method + " / HTTP/1.1\r\n" + host + "\r\n" + get + "\r\n")
		if a := answer(t, c); a.Status != 501 || !a.Close || !strings.HasPrefix(a.Body, "handled") {
			t.Errorf("%s: %+v, want 501", method, a)
		}
		if err := c.Closed(); err != nil {
			t.Errorf("%s: %v", method, err)
		}
	}
	for _, method := range methods {
		c := dial(t, addr)
		c.Send(method + " / HTTP/1.1\r\n" + host + "Connection: close\r\n\r\n")
		if got, err := io.ReadAll(c); err != nil || !strings.HasPrefix(string(got), "HTTP/1.1 200 OK") {
			t.Errorf("%s: %q, %v", method, got, err)
		}
	}
}

// A panic ends its request, not the process, and is logged without its words.
func TestPanic(t *testing.T) {
	var book logbook
	addr := serve(t, Config{Logger: book.logger(), ErrorHandler: func(c *fiber.Ctx, err error) error {
		if c.Path() == "/twice" {
			panic("once more, swordfish")
		}
		return teapot(c, err)
	}}, httpguard.Config{}, func(app *fiber.App) {
		app.Get("/runtime", func(c *fiber.Ctx) error { return c.SendString([]string{}[len(c.Path())]) })
		app.Get("/words", func(c *fiber.Ctx) error { panic("token swordfish") })
		app.Get("/twice", func(c *fiber.Ctx) error { panic("token swordfish") })
		app.Get("/", func(c *fiber.Ctx) error { return c.SendString("alive") })
	})
	for _, path := range []string{"/runtime", "/words", "/twice"} {
		c := dial(t, addr)
		c.Send("GET " + path + " HTTP/1.1\r\n" + host + "\r\n")
		if a := answer(t, c); a.Status != 500 || !a.Close || strings.Contains(a.Body, "swordfish") {
			t.Errorf("%s: %+v", path, a)
		}
	}
	c := dial(t, addr)
	c.Send(get + "\r\n")
	if a := answer(t, c); a.Body != "alive" {
		t.Errorf("afterwards: %+v", a)
	}
	log := book.String()
	if !strings.Contains(log, "index out of range") || !strings.Contains(log, "fiberapp_test.go") {
		t.Errorf("the log does not show where it panicked:\n%s", log)
	}
	if strings.Contains(log, "swordfish") {
		t.Errorf("the log quotes a panic:\n%s", log)
	}
}

// A request answered before its body has come ends its connection; a body
// that has come is dropped, and the connection goes on.
func TestAnsweredEarly(t *testing.T) {
	addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) {
		app.Post("/", func(c *fiber.Ctx) error { return fiber.ErrUnauthorized })
		app.Get(guardtest.Poison, func(c *fiber.Ctx) error { return c.SendString("poisoned") })
	})
	poison := "GET " + guardtest.Poison + " HTTP/1.1\r\n" + host + "\r\n"
	for name, head := range map[string]string{
		"content length": post + "Content-Length: 20000\r\n\r\n" + strings.Repeat("\r\n", 5000) + poison,
		"chunks":         post + "Transfer-Encoding: chunked\r\n\r\nff00\r\n\r\n" + poison,
	} {
		c := dial(t, addr)
		c.Send(head)
		if a := answer(t, c); a.Status != 401 || !a.Close {
			t.Errorf("%s: %+v", name, a)
		}
		if err := c.Closed(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	c := dial(t, addr)
	for range 2 {
		c.Send(post + "Content-Length: 5\r\n\r\nhello")
		if a := answer(t, c); a.Status != 401 || a.Close {
			t.Errorf("whole body: %+v", a)
		}
	}
}

// A handler learns through the guard that its client has left.
func TestHandlerNoticesClient(t *testing.T) {
	gone := make(chan struct{})
	addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			guarded, ok := httpguard.Of(c.Context().Conn())
			if !ok {
				return errors.New("no guarded connection")
			}
			left := make(chan struct{})
			if !guarded.OnGone(func() { close(left) }) {
				return errors.New("gone at once")
			}
			defer guarded.ForgetGone()
			if _, err := c.Context().Conn().Write([]byte("HTTP/1.1 102 Processing\r\n\r\n")); err != nil {
				return err
			}
			select {
			case <-left:
				close(gone)
			case <-time.After(10 * time.Second):
			}
			return nil
		})
	})
	c := dial(t, addr)
	c.Send(get + "\r\n")
	if a := answer(t, c); a.Status != 102 { // the handler waits
		t.Fatalf("%+v", a)
	}
	c.Close()
	select {
	case <-gone:
	case <-time.After(10 * time.Second):
		t.Error("not noticed")
	}
}

// What follows a granted upgrade passes as it is, in both directions.
func TestTunnel(t *testing.T) {
	addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			guarded, _ := httpguard.Of(c.Context().Conn())
			if !guarded.AllowTunnel() {
				return fiber.ErrBadRequest
			}
			c.Status(fiber.StatusSwitchingProtocols)
			c.Set("Connection", "Upgrade")
			c.Set("Upgrade", "echo")
			c.Context().Hijack(func(conn net.Conn) { io.Copy(conn, conn) })
			return nil
		})
	})
	const first, second = "\x81\x05first\n\n\x00", "GET nonsense\n\n"
	c := dial(t, addr)
	c.Send(get + "Connection: Upgrade\r\nUpgrade: echo\r\n\r\n" + first)
	if a := answer(t, c); a.Status != 101 {
		t.Fatalf("%+v", a)
	}
	c.Send(second)
	c.CloseWrite()
	if got, err := io.ReadAll(c.Rest()); string(got) != first+second || err != nil {
		t.Errorf("echo %q, %v", got, err)
	}

	c = dial(t, addr)
	c.Send(get + "\r\n")
	if a := answer(t, c); a.Status != 400 {
		t.Errorf("no upgrade: %+v", a)
	}
}

// While the server shuts down, answers that are under way say so.
func TestShutdown(t *testing.T) {
	app := New(Config{Logger: slog.New(slog.DiscardHandler)})
	began, finish := make(chan struct{}), make(chan struct{})
	app.Get("/", func(c *fiber.Ctx) error {
		close(began)
		<-finish
		return c.SendString("done")
	})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	served, down := make(chan error, 1), make(chan error, 1)
	go func() { served <- app.Listener(httpguard.Listener(l, httpguard.Config{})) }()
	c := dial(t, l.Addr().String())
	idle := dial(t, l.Addr().String())
	idle.Send("GET /nothing HTTP/1.1\r\n" + host + "\r\n")
	answer(t, idle)
	c.Send(get + "\r\n")
	<-began
	go func() { down <- app.ShutdownWithTimeout(10 * time.Second) }()
	if err := <-served; err != nil {
		t.Errorf("serve: %v", err)
	}
	if err := idle.Closed(); err != nil {
		t.Errorf("idle connection: %v", err)
	}
	close(finish)
	if a := answer(t, c); a.Body != "done" || !a.Close {
		t.Errorf("answer under way: %+v", a)
	}
	if err := <-down; err != nil {
		t.Errorf("shut down: %v", err)
	}
}

// X-Forwarded-* fields count when they come from a trusted proxy.
func TestTrustedProxies(t *testing.T) {
	routes := func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error { return c.SendString(c.Protocol() + " " + c.Hostname() + " " + c.IP()) })
	}
	ask := func(cfg Config) string {
		c := dial(t, serve(t, cfg, httpguard.Config{}, routes))
		c.Send(get + "X-Forwarded-Proto: https\r\nX-Forwarded-Host: evil.test\r\nX-Forwarded-For: 9.9.9.9\r\n\r\n")
		return answer(t, c).Body
	}
	if got, want := ask(Config{}), "http app.test 127.0.0.1"; got != want {
		t.Errorf("nobody trusted: %q, want %q", got, want)
	}
	trusted := Config{TrustedProxies: []netip.Prefix{netip.MustParsePrefix("127.0.0.0/8")}}
	if got, want := ask(trusted), "https evil.test 127.0.0.1"; got != want {
		t.Errorf("loopback trusted: %q, want %q", got, want)
	}
}

// Strings of a request stay what they were when it is over.
func TestStringsOutliveRequests(t *testing.T) {
	var kept []string
	addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) {
		app.Get("/", func(c *fiber.Ctx) error {
			kept = append(kept, c.Cookies("id"))
			return c.SendString("ok")
		})
	})
	c := dial(t, addr)
	for i := range 50 {
		c.Send(get + fmt.Sprintf("Cookie: id=user%02d\r\n\r\n", i))
		answer(t, c)
	}
	for i, id := range kept {
		if want := fmt.Sprintf("user%02d", i); id != want {
			t.Errorf("kept string %d is now %q, want %q", i, id, want)
		}
	}
}
