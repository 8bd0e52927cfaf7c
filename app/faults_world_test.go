package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/redisstore/redistest"
)

// world is what the tests of the refresh put replicas of the built binary into:
// an auth server that rotates, takes reuse for theft and misbehaves as it is
// told, an upstream that knows which tokens work, and one store for all. Wires
// lead through taps, where the test can watch, cut and refuse.
type world struct {
	*testing.T
	auth  *authapitest.Server
	wire  *tap // to the auth server
	store string
	flags []string
	stale atomic.Int64 // calls of the upstream with a token that does not work
	http  *http.Client
}

// longLife is that of tokens which are not to expire during a test.
const longLife = 10 * time.Minute

func newWorld(t *testing.T, storeURL string, flags ...string) *world {
	t.Helper()
	w := &world{T: t, store: storeURL, auth: authapitest.New(t)}
	w.auth.AddAccount(somebody, herWords)
	w.wire = newTap(t, strings.TrimPrefix(w.auth.URL, "http://"))
	api := httptest.NewServer(http.HandlerFunc(w.serveUpstream))
	t.Cleanup(api.Close)
	keys := start(t, "keys", "generate")
	if status := keys.status(); status != exitOK {
		t.Fatalf("keys generate ends with status %d", status)
	}
	key := filepath.Join(t.TempDir(), "seal.key")
	if err := os.WriteFile(key, []byte(keys.stdout.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	w.flags = append([]string{
		"serve", "--listen=127.0.0.1:0", "--metrics-listen=127.0.0.1:0", "--auth-url=http://" + w.wire.address,
		"--route=/=" + api.URL, "--seal-key-file=" + key,
	}, flags...)
	transport := &http.Transport{MaxIdleConnsPerHost: 2000, DisableCompression: true}
	t.Cleanup(transport.CloseIdleConnections)
	w.http = &http.Client{Transport: transport, Timeout: time.Minute, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}
	return w
}

// serveUpstream takes a call only with a token that works.
func (w *world) serveUpstream(res http.ResponseWriter, r *http.Request) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !w.auth.Valid(token) {
		w.stale.Add(1)
		res.WriteHeader(http.StatusUnauthorized)
		return
	}
	_, _ = io.WriteString(res, token)
}

// stores are those that several replicas can share, each with its address.
func stores(t *testing.T) map[string]func(*testing.T) string {
	return map[string]func(*testing.T) string{
		"redis":   func(t *testing.T) string { return redistest.Any(t).URL },
		"mongodb": func(t *testing.T) string { return mongotest.NewDatabase(t, mongotest.Server(t)) },
	}
}

// sqlite is the address of a new file.
func sqlite(t *testing.T) string { return "sqlite://" + filepath.Join(t.TempDir(), "cloakroom.db") }

// replica is one run of cloakroom serve.
type replica struct {
	*program
	w   *world
	url string
}

func (w *world) replica() *replica { return w.replicaOn(w.store) }

// replicaOn starts a replica that has another way to the store.
func (w *world) replicaOn(store string) *replica {
	w.Helper()
	p := start(w.T, append(slices.Clone(w.flags), "--store="+store)...)
	return &replica{program: p, w: w, url: "http://" + p.stderr.find(w.T, `"broker listens" address=(\S+)`)}
}

func (w *world) replicas(n int) []*replica {
	w.Helper()
	list := make([]*replica, n)
	for i := range list {
		list[i] = w.replica()
	}
	return list
}

// kill ends the process as kill -9 does. It may be called more than once.
func (r *replica) kill() {
	_ = r.cmd.Process.Kill()
	<-r.ended
}

// metric reads one of the replica's series.
func (r *replica) metric(series string) float64 {
	r.w.Helper()
	address := r.stderr.find(r.w.T, `"metrics are shown" address=(\S+)`)
	res, err := r.w.http.Get("http://" + address + "/metrics")
	if err != nil {
		r.w.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		r.w.Fatal(err)
	}
	found := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(series) + ` (\S+)$`).FindSubmatch(body)
	if found == nil {
		r.w.Fatalf("there is no %s", series)
	}
	value, err := strconv.ParseFloat(string(found[1]), 64)
	if err != nil {
		r.w.Fatal(err)
	}
	return value
}

// reply is an answer that was read whole.
type reply struct {
	status int
	code   string // of an error
	body   string
	header http.Header
	took   time.Duration
}

func (a reply) String() string { return fmt.Sprintf("%d %s", a.status, a.body) }

// cleared reports whether the answer takes the cookie away.
func (a reply) cleared() bool {
	return slices.ContainsFunc(a.header.Values("Set-Cookie"), func(c string) bool { return strings.HasPrefix(c, "device_id=;") })
}

// send sends a request with a ticket, or "".
func (r *replica) send(method, path, ticket, body string) (reply, error) {
	req, err := http.NewRequestWithContext(r.w.Context(), method, r.url+path, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	req.Header.Set("X-CSRF", "1")
	if body != "" {
		req.Header.Set("Content-Type", "application/json")
	}
	if ticket != "" {
		req.Header.Set("Cookie", "device_id="+ticket)
	}
	begun := time.Now()
	res, err := r.w.http.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	a := reply{status: res.StatusCode, body: string(text), header: res.Header, took: time.Since(begun)}
	var said struct{ Error string }
	if json.NewDecoder(bytes.NewReader(text)).Decode(&said) == nil {
		a.code = said.Error
	}
	return a, err
}

// get asks the upstream through the replica and fails the test if there is no
// answer at all.
func (r *replica) get(ticket string) reply {
	r.w.Helper()
	a, err := r.send("GET", "/thing", ticket, "")
	if err != nil {
		r.w.Errorf("no answer: %v", err)
	}
	return a
}

// want is get for an answer that has to be this one.
func (r *replica) want(ticket string, status int, code string) reply {
	r.w.Helper()
	a := r.get(ticket)
	if a.status != status || code != "" && a.code != code {
		r.w.Errorf("answered %v, want %d %s", a, status, code)
	}
	return a
}

// signIn makes a device and returns its ticket.
func (r *replica) signIn() string {
	r.w.Helper()
	a, err := r.send("POST", "/auth/login", "", `{"email":"`+somebody+`","password":"`+herWords+`"}`)
	if err != nil || a.status != http.StatusOK {
		r.w.Fatalf("sign in: %v %v", a, err)
	}
	for _, c := range a.header.Values("Set-Cookie") {
		if rest, ok := strings.CutPrefix(c, "device_id="); ok {
			ticket, _, _ := strings.Cut(rest, ";")
			return ticket
		}
	}
	r.w.Fatal("signed in without a cookie")
	return ""
}

// expired makes devices whose access token is over, and whose next one lives for
// long.
func (r *replica) expired(n int) []string {
	r.w.Helper()
	const short = 50 * time.Millisecond
	r.w.auth.Set(func(o *authapitest.Options) { o.AccessLife = short })
	tickets := make([]string, n)
	for i := range tickets {
		tickets[i] = r.signIn()
	}
	<-time.After(short)
	r.w.auth.Set(func(o *authapitest.Options) { o.AccessLife = longLife })
	return tickets
}

// granted counts the refreshes that the auth server has done.
func (w *world) granted() int { return w.auth.Granted(authapitest.RefreshPath) }

// noTheft checks what must never happen: a refresh token that came again, and a
// token upstream that does not work.
func (w *world) noTheft() {
	w.Helper()
	if n := w.auth.Thefts(); n != 0 {
		w.Errorf("the auth server saw %d spent refresh tokens", n)
	}
	if n := w.stale.Load(); n != 0 {
		w.Errorf("the upstream saw %d tokens that do not work", n)
	}
}

// slow is an auth server that takes its time after it has rotated.
func slow(d time.Duration) authapitest.Behaviour {
	return func(w http.ResponseWriter, r *http.Request, work func() authapitest.Reply) {
		p := work()
		select {
		case <-time.After(d):
			p.Send(w)
		case <-r.Context().Done():
		}
	}
}

// long reports whether the tests are to take the time that they need for every
// number in the requirements.
func long() bool { return os.Getenv("CLOAKROOM_TEST_LONG") != "" }

// lateness begins to measure for how long the machine, busy with something else,
// keeps everybody here waiting: by how much short pauses are far too long.
func lateness(t *testing.T) (soFar func() time.Duration) {
	const pause = 5 * time.Millisecond
	var late atomic.Int64
	over := make(chan struct{})
	var measuring sync.WaitGroup
	measuring.Go(func() {
		for begun := time.Now(); ; begun = time.Now() {
			select {
			case <-time.After(pause):
				late.Add(int64(max(time.Since(begun)-2*pause, 0)))
			case <-over:
				return
			}
		}
	})
	t.Cleanup(func() { close(over); measuring.Wait() })
	return func() time.Duration { return time.Duration(late.Load()) }
}
