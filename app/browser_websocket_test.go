package main

import (
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"testing"

	"github.com/chromedp/chromedp"
	"github.com/coder/websocket"
)

// TestR20_WebSocketInABrowser lets a real browser open one from a page of ours
// and one from a neighbour's, whose requests carry the cookie as well.
func TestR20_WebSocketInABrowser(t *testing.T) {
	t.Parallel()
	path := chromium(t)
	s := surround(t)
	s.upstream = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/socket" {
			w.Header().Set("Content-Type", "text/html")
			_, _ = io.WriteString(w, "<!doctype html><title>page</title><link rel=icon href=data:,><main>page</main>")
			return
		}
		ws, err := websocket.Accept(w, r, &websocket.AcceptOptions{InsecureSkipVerify: true})
		for err == nil {
			var kind websocket.MessageType
			var message []byte
			if kind, message, err = ws.Read(r.Context()); err == nil {
				err = ws.Write(r.Context(), kind, message)
			}
		}
	}))
	t.Cleanup(s.upstream.Close)
	_, url := s.broker(t)
	b := openBrowser(t, path, "tab")
	b.lands("/auth/register", chromedp.Navigate(url+"/auth/register"))
	b.fill(somebody, herWords)
	b.until(`document.title == "page"`)

	// open opens one, says hello and tells what comes back, or "refused".
	const open = `const open = address => new Promise(done => {
		const ws = new WebSocket(address)
		ws.onopen = () => ws.send("hello")
		ws.onmessage = e => done([e.data, ws])
		ws.onerror = () => done(["refused"])
	});`
	address := "ws" + url[len("http"):] + "/socket"
	if got := evaluate[string](b, fmt.Sprintf(`(async () => { %s return (await open(%q))[0] })()`, open, address)); got != "hello" {
		t.Errorf("a page of ours: %s", got)
	}
	took := evaluate[float64](b, fmt.Sprintf(`(async () => { %s
		const [_, ws] = await open(%q)
		const over = new Promise(done => ws.onclose = done)
		await fetch("/auth/logout", {method: "POST", headers: {"X-CSRF": "1"}})
		const begun = performance.now()
		await over
		return performance.now() - begun
	})()`, open, address))
	if took > 1000 {
		t.Errorf("it was open for %v ms after the sign-out", took)
	}

	b.lands("/auth/login", chromedp.Navigate(url+"/auth/login"))
	b.fill(somebody, herWords)
	b.until(`document.title == "page"`)
	b.lands("/page", chromedp.Navigate(s.upstream.URL+"/page"))
	if got := evaluate[string](b, fmt.Sprintf(`(async () => { %s return (await open(%q))[0] })()`, open, address)); got != "refused" {
		t.Errorf("a neighbour's page: %s", got)
	}
}
