package fiberapp

import (
	"fmt"
	"reflect"
	"sync"
	"testing"

	"github.com/gofiber/fiber/v2"

	"cloakroom/infra/httpguard"
	"cloakroom/infra/httpguard/guardtest"
)

// recorder is a handler that remembers which requests reached it whole.
type recorder struct {
	mu    sync.Mutex
	begun []string
	whole []guardtest.Request
}

func (r *recorder) handle(c *fiber.Ctx) error {
	target := c.OriginalURL()
	r.mu.Lock()
	r.begun = append(r.begun, target)
	r.mu.Unlock()
	body, err := readBody(c)
	if err != nil {
		return fiber.ErrBadRequest
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.whole = append(r.whole, guardtest.Request{Method: c.Method(), Target: target, Body: body})
	return c.SendString(fmt.Sprintf("request %d", len(r.whole)))
}

// take returns what reached the handler since it was last asked.
func (r *recorder) take() (begun []string, whole []guardtest.Request) {
	r.mu.Lock()
	defer r.mu.Unlock()
	begun, whole = r.begun, r.whole
	r.begun, r.whole = nil, nil
	return begun, whole
}

var sendings = map[string]func(c *guardtest.Client, s string){
	"whole":    func(c *guardtest.Client, s string) { c.Send(s) },
	"halves":   func(c *guardtest.Client, s string) { c.Send(s[:len(s)/2], s[len(s)/2:]) },
	"bytewise": func(c *guardtest.Client, s string) { c.SendBytewise(s) },
}

// Every malformed or ambiguous request is refused with its status and its
// connection closed. None reaches a handler whole, nor does what stands behind
// it; the requests ahead of it do, and so does the next client's.
func TestCorpusIsRefused(t *testing.T) {
	cases := guardtest.Cases()
	if len(cases) < 60 {
		t.Fatalf("only %d cases", len(cases))
	}
	for how, send := range sendings {
		t.Run(how, func(t *testing.T) {
			var r recorder
			addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) { app.Use(r.handle) })
			for _, c := range cases {
				if how == "bytewise" && len(c.Raw) > 2<<10 {
					continue
				}
				t.Run(c.Name, func(t *testing.T) { refuse(t, addr, &r, c, send, how == "whole") })
			}
		})
	}
}

func refuse(t *testing.T, addr string, r *recorder, c guardtest.Case, send func(*guardtest.Client, string), whole bool) {
	client := dial(t, addr)
	defer client.Close()
	send(client, c.Ahead+c.Raw)
	for i := range c.Served {
		if a := answer(t, client); a.Status != 200 {
			t.Errorf("request %d ahead: %+v", i, a)
		}
	}
	a, err := client.Answer()
	if err != nil {
		t.Fatal(err)
	}
	if a.Status != c.Status || !a.Close {
		t.Errorf("answer %+v, want %d and close", a, c.Status)
	}
	if err := client.Closed(); err != nil {
		t.Errorf("after the answer: %v", err)
	}
	begun, seen := r.take()
	if len(seen) != c.Served {
		t.Errorf("the handler saw %v, want %d requests", seen, c.Served)
	}
	mayBegin := c.Served
	if c.InBody && !whole {
		mayBegin++
	}
	if len(begun) > mayBegin {
		t.Errorf("the handler began with %q, want at most %d requests", begun, mayBegin)
	}

	probe := dial(t, addr)
	defer probe.Close()
	probe.Send("GET /probe HTTP/1.1\r\n" + host + "\r\n")
	if a := answer(t, probe); a.Status != 200 || a.Body != "request 1" {
		t.Errorf("probe: %+v", a)
	}
	if _, seen := r.take(); !reflect.DeepEqual(seen, []guardtest.Request{{Method: "GET", Target: "/probe"}}) {
		t.Errorf("probe: the handler saw %v", seen)
	}
}

// Sound requests reach the handler as they were sent.
func TestControlsAreServed(t *testing.T) {
	for how, send := range sendings {
		t.Run(how, func(t *testing.T) {
			var r recorder
			addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) { app.Use(r.handle) })
			for _, c := range guardtest.Controls() {
				if how == "bytewise" && len(c.Raw) > 2<<10 {
					continue
				}
				t.Run(c.Name, func(t *testing.T) {
					client := dial(t, addr)
					defer client.Close()
					send(client, c.Raw)
					for i := range c.Want {
						if a := answer(t, client); a.Status != 200 {
							t.Errorf("answer %d: %+v", i, a)
						}
					}
					if _, seen := r.take(); !reflect.DeepEqual(seen, c.Want) {
						t.Errorf("the handler saw %v, want %v", seen, c.Want)
					}
				})
			}
		})
	}
}

// An upload that is cut reaches no handler as a whole one, wherever it is cut.
func TestCutUploads(t *testing.T) {
	var r recorder
	addr := serve(t, Config{}, httpguard.Config{}, func(app *fiber.App) { app.Use(r.handle) })
	for name, raw := range map[string]string{
		"content length": post + "Content-Length: 12\r\n\r\nhello, world",
		"chunks":         post + "Transfer-Encoding: chunked\r\nTrailer: X\r\n\r\n7\r\nhello, \r\n5;a=b\r\nworld\r\n0\r\nX: y\r\n\r\n",
	} {
		for end, leave := range map[string]func(*guardtest.Client){
			"half-closed": func(c *guardtest.Client) { c.CloseWrite() },
			"reset":       func(c *guardtest.Client) { c.SetLinger(0); c.Close() },
		} {
			for cut := len(post); cut < len(raw); cut++ {
				c := dial(t, addr)
				c.Send(raw[:cut])
				leave(c)
				if end == "half-closed" {
					if a := answer(t, c); a.Status != 400 || !a.Close {
						t.Errorf("%s, %s after %d bytes: %+v", name, end, cut, a)
					}
				}
				c.Close()
				if _, whole := r.take(); len(whole) > 0 {
					t.Errorf("%s, %s after %d bytes: the handler saw %v", name, end, cut, whole)
				}
			}
		}
	}
	if _, whole := r.take(); len(whole) > 0 {
		t.Errorf("the handler saw %v", whole)
	}
}
