package main

import (
	"net/http"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
)

// outage is a way in which an auth server fails, and how it comes back.
type outage struct {
	name   string
	begin  func(w *world)
	end    func(w *world)
	rotate bool // it rotates while it fails, so that the reuse window is needed
}

// scripted is an outage in which every refresh is answered like this.
func scripted(name string, b authapitest.Behaviour) outage {
	return outage{
		name:  name,
		begin: func(w *world) { w.auth.Always(authapitest.RefreshPath, b) },
		end:   func(w *world) { w.auth.Always(authapitest.RefreshPath, nil) },
	}
}

func outages() []outage {
	half := scripted("half an answer", authapitest.Half)
	half.rotate = true
	lost := scripted("no answer after the rotation", authapitest.Lost)
	lost.rotate = true
	late := scripted("later than the timeout", slow(time.Hour))
	late.rotate = true
	silent := scripted("nothing at all", authapitest.NewGate().Before)
	for _, o := range []*outage{&late, &silent} {
		// Coming back, a server begins anew, and what waited for it is cut.
		end := o.end
		o.end = func(w *world) { end(w); w.wire.cut() }
	}
	return []outage{
		scripted("500", authapitest.Answer(500, "")),
		scripted("503 with Retry-After", authapitest.Unavailable("7")),
		scripted("429", authapitest.TooMany("7")),
		scripted("garbage", authapitest.Garbage),
		scripted("cut", authapitest.Cut),
		half, lost, late, silent,
		{
			name:  "connections refused",
			begin: func(w *world) { w.wire.refuse() },
			end:   func(w *world) { w.wire.listen() },
		},
	}
}

// TestR10_OutageSignsNobodyOut goes through the ways in which an auth server
// fails. The old token is used as long as it lives; then the answer is 503 with
// Retry-After, at once and not after a timeout for each; one call in a while
// probes, and within a second of the auth server's return everybody works again.
func TestR10_OutageSignsNobodyOut(t *testing.T) {
	t.Parallel()
	for _, o := range outages() {
		t.Run(o.name, func(t *testing.T) {
			t.Parallel()
			const devices = 20
			life := 3 * time.Second // of which 0.3 s are margin
			w := newWorld(t, sqlite(t), "--auth-timeout=1s", "--refresh-ahead=0s")
			if o.rotate {
				w.auth.Set(func(c *authapitest.Options) { c.ReuseWindow = time.Minute })
			}
			at := w.replicas(1)[0]
			tickets := make([]string, devices)
			var first, last time.Time // when they have signed in
			for ; ; life *= 2 {       // where that alone takes too much of it
				w.auth.Set(func(c *authapitest.Options) { c.AccessLife = life })
				first = time.Now()
				for i := range tickets {
					tickets[i] = at.signIn()
				}
				last = time.Now()
				if took := last.Sub(first); took <= life/2 {
					break
				} else if took > patience {
					t.Fatalf("%d sign-ins took %v", devices, took)
				}
			}
			o.begin(w)
			w.auth.Set(func(c *authapitest.Options) { c.AccessLife = longLife })

			// Alive, though inside the margin, where a refresh is tried first.
			<-time.After(time.Until(first.Add(life - 250*time.Millisecond)))
			a := at.get(tickets[0])
			if alive := time.Since(first) < life; a.status != http.StatusOK && alive {
				t.Errorf("with a token that lives: %v", a)
			}
			<-time.After(time.Until(last.Add(life)))
			atOnce(devices, func(i int) {
				a := at.want(tickets[i], http.StatusServiceUnavailable, "auth_server_unavailable")
				if a.header.Get("Retry-After") == "" || len(a.header.Values("Set-Cookie")) != 0 {
					t.Errorf("Retry-After %q, cookies %v", a.header.Get("Retry-After"), a.header.Values("Set-Cookie"))
				}
			})
			// The breaker is open by now. What is asked is a probe each pause,
			// not a call for each request.
			calls, begun := len(w.auth.Requests(authapitest.RefreshPath)), time.Now()
			for time.Since(begun) < time.Second {
				if a := at.get(tickets[1]); a.status != http.StatusServiceUnavailable {
					t.Fatalf("during the outage: %v", a)
				}
			}
			// Two calls for each probe whose answer is lost.
			if n := len(w.auth.Requests(authapitest.RefreshPath)) - calls; n > 8 {
				t.Errorf("%d calls of the auth server in %v of outage", n, time.Since(begun))
			}

			late := lateness(t)
			o.end(w)
			back := time.Now()
			atOnce(devices, func(i int) {
				for {
					a := at.get(tickets[i])
					if a.status == http.StatusOK {
						break
					}
					if a.status != http.StatusServiceUnavailable || time.Since(back) > patience {
						t.Errorf("after the outage: %v", a)
						break
					}
					<-time.After(20 * time.Millisecond)
				}
				if took := time.Since(back); took-late() > time.Second {
					t.Errorf("works again %v after the auth server's return, on a machine that took %v of it", took, late())
				}
			})
			w.noTheft()
			if n := w.granted(); n != devices {
				t.Errorf("%d refreshes for %d devices", n, devices)
			}
		})
	}
}
