package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// counted is an upstream that says its name and counts what it is asked and how
// many connections it has.
type counted struct {
	*httptest.Server
	asked, conns atomic.Int64
	begun        chan struct{} // a request for /slow is there
	finish       chan struct{} // closed to let those go on
}

func newCounted(t *testing.T, name string) *counted {
	c := &counted{begun: make(chan struct{}, 10), finish: make(chan struct{})}
	c.Server = httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.asked.Add(1)
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path == "/slow" {
			_, _ = io.WriteString(w, name)
			_ = http.NewResponseController(w).Flush()
			c.begun <- struct{}{}
			<-c.finish
		}
		fmt.Fprintf(w, "%s%s", name, body)
	}))
	c.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		switch s {
		case http.StateNew:
			c.conns.Add(1)
		case http.StateClosed, http.StateHijacked:
			c.conns.Add(-1)
		}
	}
	c.Start()
	t.Cleanup(c.Close)
	return c
}

// TestReloadDropsNoRequest changes the routes of a broker under load, and gives it
// settings that cannot be used in between.
func TestReloadDropsNoRequest(t *testing.T) {
	t.Parallel()
	s := surround(t)
	one, two := newCounted(t, "one"), newCounted(t, "two")
	file := filepath.Join(t.TempDir(), "c.yaml")
	write := func(text string) {
		if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	routesTo := func(c *counted) string {
		return fmt.Sprintf("route:\n  - {prefix: /, upstream: %q, auth: optional}\n", c.URL)
	}
	write(routesTo(one))
	p := start(t, "serve", "--config="+file, "--listen=127.0.0.1:0", "--auth-url="+s.auth, "--seal-key-file="+s.key, "--store=sqlite://"+s.store)
	address := "http://" + p.stderr.find(t, `"broker listens" address=(\S+)`)
	signedIn := newVisitor(t)
	signedIn.do("POST", address+"/auth/register", map[string]string{"email": somebody, "password": herWords}, nil, http.StatusOK)

	// hangUp asks for a reload and waits for the n-th of a line.
	hangUp := func(line string, n int) {
		t.Helper()
		if err := p.cmd.Process.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		if err := eventually(t.Context(), func() (bool, error) { return strings.Count(p.stderr.String(), line) >= n, nil }); err != nil {
			t.Fatalf("%d times %q: %v", n, line, err)
		}
	}

	slow := make(chan string, 1)
	go func() {
		res, err := http.Get(address + "/slow")
		if err != nil {
			slow <- err.Error()
			return
		}
		defer res.Body.Close()
		body, err := io.ReadAll(res.Body)
		slow <- fmt.Sprint(string(body), err)
	}()
	<-one.begun

	var load sync.WaitGroup
	var answered, failed atomic.Int64
	stop := make(chan struct{})
	for i := range 4 {
		client := signedIn.http
		if i%2 == 1 {
			client = &http.Client{Timeout: patience, Transport: &http.Transport{}}
		}
		load.Go(func() {
			for {
				select {
				case <-stop:
					return
				default:
				}
				body := strings.Repeat("x", 100*i)
				req, err := http.NewRequestWithContext(t.Context(), "POST", address+"/x", strings.NewReader(body))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("X-CSRF", "1")
				res, err := client.Do(req)
				if err != nil {
					failed.Add(1)
					t.Errorf("request %d: %v", answered.Load(), err)
					continue
				}
				text, err := io.ReadAll(res.Body)
				res.Body.Close()
				if answered.Add(1); err != nil || res.StatusCode != http.StatusOK || string(text) != "one"+body && string(text) != "two"+body {
					failed.Add(1)
					t.Errorf("request %d: %d %.80q, %v", answered.Load(), res.StatusCode, text, err)
				}
			}
		})
	}
	const reloads = 10
	for n := range reloads {
		if n == reloads/2 {
			write("route:\n  - {prefix: /, upstream: 'ftp://x'}\nidle-timeout: soon\n")
			hangUp("the new settings are not taken over", 1)
			for _, problem := range []string{`problem with the new settings" problem="upstream of route in `, `problem with the new settings" problem="idle-timeout in `} {
				if !strings.Contains(p.stderr.String(), problem) {
					t.Errorf("the log does not say %s", problem)
				}
			}
		}
		to := []*counted{two, one}[n%2]
		before := to.asked.Load()
		text := routesTo(to)
		if n == reloads-1 {
			text += "cookie-same-site: strict\n"
		}
		write(text)
		hangUp("the settings are read once more", n+1)
		// The new routes are in force from now on.
		if err := eventually(t.Context(), func() (bool, error) { return to.asked.Load() > before+10, nil }); err != nil {
			t.Fatalf("after reload %d: %v", n+1, err)
		}
	}
	close(stop)
	load.Wait()
	t.Logf("%d requests over %d reloads, %d failed", answered.Load(), reloads, failed.Load())
	if !strings.Contains(p.stderr.String(), `"a setting has changed that needs a restart" setting=cookie-same-site`) {
		t.Error("the log does not say what needs a restart")
	}
	close(one.finish)
	if got := <-slow; got != "oneone<nil>" {
		t.Errorf("the request that began before all of that = %s", got)
	}
	// Nothing is left of the upstream that is there no more.
	if err := eventually(t.Context(), func() (bool, error) { return two.conns.Load() == 0, nil }); err != nil {
		t.Errorf("%d connections to an upstream that has no route: %v", two.conns.Load(), err)
	}
	if failed.Load() != 0 || answered.Load() < 10*reloads {
		t.Errorf("%d of %d requests failed", failed.Load(), answered.Load())
	}
	if begun := time.Now(); p.cmd.Process.Signal(syscall.SIGTERM) != nil || p.status() != exitOK || time.Since(begun) > 10*time.Second {
		t.Error("serve does not stop in good order")
	}
}
