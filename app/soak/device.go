package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// Headers by which a device and the upstream understand each other past the
// broker.
const (
	headerSent   = "X-Soak-Sent"   // when the client sent the request, in Unix nanoseconds
	headerDevice = "X-Soak-Device" // the number of the device
)

const deviceEmail = "device-%d@soak.test"

// signOutSeen is how long another replica may take to know of a sign-out.
const signOutSeen = time.Second

// mostGap is how long a device may be without any answer from the upstream
// before that is a finding: the longest outage, a lease that a killed replica
// has left, and the time in which a busy machine gets to all of it.
const mostGap = 30 * time.Second

// upstream judges every call that gets through.
func (r *run) upstream(w http.ResponseWriter, req *http.Request) {
	nanos, _ := strconv.ParseInt(req.Header.Get(headerSent), 10, 64)
	sent := time.Unix(0, nanos)
	number, _ := strconv.Atoi(req.Header.Get(headerDevice))
	token, _ := strings.CutPrefix(req.Header.Get("Authorization"), "Bearer ")
	v, ok := r.authority.look(token)
	switch {
	case !ok:
		r.count.note(&r.count.Stale, "device %d: the upstream got a token that was never issued", number)
	case v.email != fmt.Sprintf(deviceEmail, number):
		r.count.note(&r.count.Mixed, "device %d: the upstream got a token of %s", number, v.email)
	case v.expires.Before(sent):
		r.count.note(&r.count.Stale, "device %d: a request was sent %v after its token's end", number, sent.Sub(v.expires))
	case r.devices[number].signedOutBefore(v.family, sent):
		r.count.note(&r.count.Zombies, "device %d: served after its sign-out", number)
	}
	if !ok || v.dead || !time.Now().Before(v.expires) {
		w.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = fmt.Fprint(w, v.family)
}

// device is one browser. One goroutine drives it, and sends several requests at
// once.
type device struct {
	r      *run
	number int
	rand   *rand.Rand

	ticket string // "" while signed out

	mu     sync.Mutex
	family int               // of the session, 0 as long as it is not known
	ending bool              // a sign-out was sent, so that any answer is right
	over   map[int]time.Time // families that were signed out, and when
	last   time.Time         // an answer of the upstream, or the sign-in
}

func (d *device) email() string { return fmt.Sprintf(deviceEmail, d.number) }

// signedOutBefore reports whether a family was signed out so long before sent
// that every replica has to know.
func (d *device) signedOutBefore(family int, sent time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	at, over := d.over[family]
	return over && sent.Sub(at) > signOutSeen
}

// drive uses the device until ctx ends. Every request that it has sent is
// answered or given up when it returns.
func (d *device) drive(ctx context.Context) {
	for ctx.Err() == nil {
		switch {
		case d.ticket == "":
			d.signIn(ctx)
		case d.rand.IntN(150) == 0:
			d.burst(ctx, 1+d.rand.IntN(4), true)
		default:
			d.burst(ctx, 1+d.rand.IntN(4), false)
		}
		pause := 50*time.Millisecond + time.Duration(d.rand.IntN(350))*time.Millisecond
		if d.rand.IntN(40) == 0 {
			pause = time.Duration(d.rand.IntN(2 * int(life))) // idle, until its token is over perhaps
			d.touch()
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
		}
		if pause > time.Second {
			d.touch()
		}
	}
}

// touch begins the time anew in which an answer has to come.
func (d *device) touch() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last = time.Now()
}

// burst sends requests at once, and a sign-out into the middle of them if out is
// set.
func (d *device) burst(ctx context.Context, n int, out bool) {
	var all sync.WaitGroup
	ends := make(chan string, n)
	if out {
		d.mu.Lock()
		d.ending = true
		d.mu.Unlock()
	}
	for range n {
		hangUp := time.Duration(0)
		if d.rand.IntN(25) == 0 {
			hangUp = time.Duration(1+d.rand.IntN(300)) * time.Millisecond
		}
		replica := d.rand.IntN(len(d.r.replicas))
		all.Go(func() {
			if code := d.request(ctx, replica, hangUp); code != "" {
				ends <- code
			}
		})
	}
	if out {
		d.signOut(ctx)
	}
	all.Wait()
	if out {
		d.ticket = ""
		return
	}
	select {
	case code := <-ends:
		d.judge(code)
		d.ticket = ""
	default:
	}
}

// request sends one request and returns the code of the answer if that says that
// the device is not signed in.
func (d *device) request(ctx context.Context, replica int, hangUp time.Duration) (ended string) {
	if hangUp > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, hangUp)
		defer cancel()
	}
	d.r.count.add(&d.r.count.Requests)
	sent := time.Now()
	status, body, err := d.send(ctx, replica, http.MethodGet, "/thing", sent, nil)
	switch {
	case err != nil && ctx.Err() != nil:
		d.r.count.add(&d.r.count.HungUp)
	case err != nil:
		if !d.r.clock.struck(replica, sent, time.Now()) {
			d.r.count.note(&d.r.count.Unexpected, "device %d: replica %d cuts off without having been killed: %v", d.number, replica, err)
		}
		d.r.count.add(&d.r.count.Broken)
	case status == http.StatusOK:
		d.r.count.add(&d.r.count.Served)
		family, _ := strconv.Atoi(body)
		d.answered(family)
	case status == http.StatusUnauthorized:
		if code := codeOf(body); code != "" {
			return code
		}
		// The upstream's own: the token ended on its way, and was not exchanged
		// because it is so young; or the family is over.
	case status == http.StatusBadGateway || status == http.StatusServiceUnavailable || status == http.StatusGatewayTimeout:
		d.r.count.add(&d.r.count.Unavailable)
		d.mu.Lock()
		gap := time.Since(d.last)
		d.mu.Unlock()
		d.r.count.waited(gap)
		if gap > mostGap {
			d.r.count.note(&d.r.count.Wedged, "device %d: no answer for %v, now %d %s", d.number, gap, status, body)
			d.touch()
		}
	default:
		d.r.count.note(&d.r.count.Unexpected, "device %d: answered %d %s", d.number, status, body)
	}
	return ""
}

func (d *device) answered(family int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.r.count.waited(time.Since(d.last))
	d.family, d.last = family, time.Now()
}

func codeOf(body string) string {
	var said struct{ Error string }
	_ = json.Unmarshal([]byte(body), &said) // no JSON is no code
	return said.Error
}

// judge decides whether a session that is over had to end.
func (d *device) judge(code string) {
	d.mu.Lock()
	family := d.family
	d.mu.Unlock()
	switch why := d.r.authority.fate(family, d.email()); why {
	case byRule:
		d.r.count.add(&d.r.count.EndedByRule)
	default:
		said := string(why)
		if why == alive {
			said = "alive"
		}
		d.r.count.note(&d.r.count.Lost, "device %d: %s, and the auth server has its session as %s", d.number, code, said)
	}
}

// signIn tries to sign in.
func (d *device) signIn(ctx context.Context) {
	body, _ := json.Marshal(map[string]string{"email": d.email(), "password": "soak"})
	req, err := d.newRequest(ctx, d.rand.IntN(len(d.r.replicas)), http.MethodPost, "/auth/login", time.Now(), bytes.NewReader(body))
	if err != nil {
		return
	}
	req.Header.Set("Content-Type", "application/json")
	res, err := d.r.client.Do(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	_, _ = io.Copy(io.Discard, res.Body)
	for _, c := range res.Cookies() {
		if c.Name == "device_id" && res.StatusCode == http.StatusOK {
			d.ticket = c.Value
			d.r.count.add(&d.r.count.SignIns)
			d.mu.Lock()
			d.family, d.ending, d.last = 0, false, time.Now()
			d.mu.Unlock()
		}
	}
}

// signOut ends the session, however often it has to be asked for.
func (d *device) signOut(ctx context.Context) {
	for ctx.Err() == nil {
		status, body, err := d.send(ctx, d.rand.IntN(len(d.r.replicas)), http.MethodPost, "/auth/logout", time.Now(), nil)
		switch {
		case err != nil || status == http.StatusServiceUnavailable || status == http.StatusBadGateway:
		case status == http.StatusNoContent:
			d.r.count.add(&d.r.count.SignOuts)
			d.mu.Lock()
			if d.family != 0 {
				d.over[d.family] = time.Now()
			}
			d.mu.Unlock()
			return
		default:
			d.r.count.note(&d.r.count.Unexpected, "device %d: its sign-out is answered %d %s", d.number, status, body)
			return
		}
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
		}
	}
}

func (d *device) send(ctx context.Context, replica int, method, path string, sent time.Time, body io.Reader) (status int, answer string, err error) {
	req, err := d.newRequest(ctx, replica, method, path, sent, body)
	if err != nil {
		return 0, "", err
	}
	res, err := d.r.client.Do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(io.LimitReader(res.Body, 1<<16))
	return res.StatusCode, string(text), err
}

func (d *device) newRequest(ctx context.Context, replica int, method, path string, sent time.Time, body io.Reader) (*http.Request, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://"+d.r.replicas[replica].address+path, body)
	if err != nil {
		return nil, err
	}
	req.Header.Set("X-CSRF", "1")
	req.Header.Set(headerSent, strconv.FormatInt(sent.UnixNano(), 10))
	req.Header.Set(headerDevice, strconv.Itoa(d.number))
	if d.ticket != "" {
		req.Header.Set("Cookie", "device_id="+d.ticket)
	}
	return req, nil
}

// settle asks until the device works, now that all is well.
func (d *device) settle(ctx context.Context) error {
	for ctx.Err() == nil {
		if d.ticket == "" {
			d.signIn(ctx)
		} else {
			before := d.ticket
			d.touch()
			status, body, err := d.send(ctx, d.rand.IntN(len(d.r.replicas)), http.MethodGet, "/thing", time.Now(), nil)
			switch {
			case err == nil && status == http.StatusOK:
				return nil
			case err == nil && status == http.StatusUnauthorized && codeOf(body) != "":
				d.judge(codeOf(body))
				d.ticket = ""
			}
			if before == d.ticket && ctx.Err() == nil {
				select {
				case <-time.After(100 * time.Millisecond):
				case <-ctx.Done():
				}
			}
		}
	}
	return errors.New("it does not work")
}
