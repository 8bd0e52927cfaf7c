package broker_test

import (
	"bufio"
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/coder/websocket"

	"cloakroom/domain"
	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/settings"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/mongostore/mongowire"
	"cloakroom/repo/redisstore/redistest"
)

// onRedis makes a stack keep its devices in Redis.
func onRedis(r *redistest.Server) func(*settings.Settings) {
	return func(s *settings.Settings) {
		s.Store = settings.Store{Kind: settings.Redis, URL: domain.NewSecret(r.URL)}
	}
}

// onMongo makes a stack keep its devices in MongoDB.
func onMongo(t *testing.T) func(*settings.Settings) {
	address := mongotest.NewDatabase(t, mongotest.Server(t))
	return func(s *settings.Settings) {
		s.Store = settings.Store{Kind: settings.MongoDB, URL: domain.NewSecret(address)}
	}
}

// onEach runs the test on each kind of store that replicas can share.
func onEach(t *testing.T, test func(*testing.T, func(*settings.Settings))) {
	t.Run("redis", func(t *testing.T) { test(t, onRedis(redistest.Any(t))) })
	t.Run("mongodb", func(t *testing.T) { test(t, onMongo(t)) })
	t.Run("sqlite", func(t *testing.T) { test(t, nil) })
}

// at returns the same browser, cookies and all, talking to another replica.
func (b *browser) at(url string) *browser {
	b.s.Helper()
	other := *b
	jar := b.client.Jar
	jar.SetCookies(b.s.parse(url), jar.Cookies(b.s.parse(b.url)))
	other.url = url
	return &other
}

// TestR32_SignOutHoldsOnEveryReplicaAtOnce signs a device out at one replica
// while the other has it in its cache.
func TestR32_SignOutHoldsOnEveryReplicaAtOnce(t *testing.T) {
	onEach(t, func(t *testing.T, change func(*settings.Settings)) {
		s := newStack(t, change)
		s.auth.Always(authapitest.RevokePath, authapitest.Answer(500, ""))
		second, _ := s.replica()
		laptop, phone := s.browser(), s.browser()
		laptop.signIn(email)
		phone.signIn(email)
		for range 5 {
			phone.at(second).get("/api/thing").want(t, 200, "")
		}
		var id string
		for _, d := range laptop.devices(t).Devices {
			if !d.Current {
				id = d.ID
			}
		}
		laptop.do("DELETE", "/auth/devices/"+id, "", asScript).want(t, 204, "")
		answered := time.Now()
		// Not the upstream's 401, which would follow from the revocation.
		for !strings.Contains(phone.at(second).get("/api/thing").body, "sign_in_required") {
			if time.Since(answered) > time.Second {
				t.Fatal("a second after the sign-out the other replica still serves the device")
			}
		}
		phone.get("/api/thing").want(t, 401, "sign_in_required")
	})
}

// TestOpenStreamEndsWithTheDevice: a stream that goes on at one replica is cut
// when the device is signed out at the other.
func TestOpenStreamEndsWithTheDevice(t *testing.T) {
	onEach(t, func(t *testing.T, change func(*settings.Settings)) {
		s := newStack(t, change)
		second, _ := s.replica()
		b := s.browser()
		b.signIn(email)
		req, err := http.NewRequestWithContext(t.Context(), "GET", second+"/stream", nil)
		if err != nil {
			t.Fatal(err)
		}
		res, err := b.at(second).client.Do(req)
		if err != nil || res.StatusCode != 200 {
			t.Fatalf("the stream does not begin: %v %v", res, err)
		}
		defer res.Body.Close()
		lines := bufio.NewReader(res.Body)
		if _, err := lines.ReadString('\n'); err != nil {
			t.Fatal(err)
		}
		b.do("POST", "/auth/logout", "", asScript).want(t, 204, "")
		answered := time.Now()
		for err == nil {
			_, err = lines.ReadString('\n')
		}
		if err == io.EOF {
			t.Error("the stream ended as if it were complete")
		}
		if took := time.Since(answered); took > time.Second {
			t.Errorf("the stream went on for %v after the sign-out", took)
		}
	})
}

// TestWebSocketEndsWithTheDevice: so is a WebSocket, and one of a device that
// ends by time.
func TestWebSocketEndsWithTheDevice(t *testing.T) {
	const lifetime = 3 * time.Second
	for name, change := range map[string]func(*settings.Settings){
		"redis":  onRedis(redistest.Any(t)),
		"sqlite": func(*settings.Settings) {},
	} {
		t.Run(name, func(t *testing.T) {
			s := newStack(t, change)
			second, _ := s.replica()
			b := s.browser()
			b.signIn(email)
			ended := b.at(second).openSocket(t)
			b.do("POST", "/auth/logout", "", asScript).want(t, 204, "")
			if took := ended(); took > time.Second {
				t.Errorf("it went on for %v after the sign-out", took)
			}
		})
		t.Run(name+", by time", func(t *testing.T) {
			s := newStack(t, func(s *settings.Settings) {
				change(s)
				s.IdleTimeout, s.AbsoluteLifetime, s.TouchInterval = lifetime, lifetime, time.Second
			})
			b := s.browser()
			b.signIn(email)
			signedIn := time.Now()
			b.openSocket(t)()
			if lived := time.Since(signedIn); lived < lifetime-100*time.Millisecond || lived > lifetime+time.Second {
				t.Errorf("it ended %v after the sign-in, want %v", lived, lifetime)
			}
		})
	}
}

// openSocket opens a WebSocket and sees that it works. ended waits for its end
// and returns how long that took.
func (b *browser) openSocket(t *testing.T) (ended func() time.Duration) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	t.Cleanup(cancel)
	origin := b.url
	if u := b.s.settings.PublicURL; u != nil {
		origin = u.String()
	}
	ws, _, err := websocket.Dial(ctx, b.url+"/socket", &websocket.DialOptions{HTTPClient: b.client, HTTPHeader: http.Header{"Origin": {origin}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ws.CloseNow() })
	if err := ws.Write(ctx, websocket.MessageText, []byte("hello")); err != nil {
		t.Fatal(err)
	}
	if _, message, err := ws.Read(ctx); err != nil || string(message) != "hello" {
		t.Fatalf("%q, %v", message, err)
	}
	return func() time.Duration {
		begun := time.Now()
		if _, _, err := ws.Read(ctx); err == nil || ctx.Err() != nil {
			t.Errorf("it does not end: %v", err)
		}
		return time.Since(begun)
	}
}

// TestR9_ReplicasRefreshOnce lets requests over three replicas find the same
// expired token.
func TestR9_ReplicasRefreshOnce(t *testing.T) {
	onEach(t, func(t *testing.T, change func(*settings.Settings)) {
		s := newStack(t, change)
		s.auth.Set(func(o *authapitest.Options) { o.AccessLife = time.Second })
		b := s.browser()
		b.signIn(email)
		var at []*browser
		for range 3 {
			url, _ := s.replica()
			at = append(at, b.at(url))
		}
		expired := make(chan struct{})
		time.AfterFunc(1100*time.Millisecond, func() { close(expired) })
		<-expired
		gate := authapitest.NewGate()
		s.auth.Set(func(o *authapitest.Options) { o.AccessLife = time.Minute })
		s.auth.Always(authapitest.RefreshPath, gate.Before)
		var callers sync.WaitGroup
		for i := range 100 {
			callers.Go(func() { at[i%3].get("/api/thing").want(t, 200, "") })
		}
		<-gate.Arrived
		gate.Open()
		callers.Wait()
		if n := len(s.auth.Requests(authapitest.RefreshPath)); n != 1 {
			t.Errorf("%d refreshes, want 1", n)
		}
		if n := s.auth.Thefts(); n != 0 {
			t.Errorf("the auth server saw %d refresh tokens twice", n)
		}
	})
}

// TestStoreThatGoesAwayAndComesBack: nobody is signed out, and no restart is
// needed.
func TestStoreThatGoesAwayAndComesBack(t *testing.T) {
	t.Run("redis", func(t *testing.T) {
		r := redistest.Standalone(t, "--appendonly", "yes", "--appendfsync", "always")
		goesAwayAndComesBack(t, onRedis(r), r.Nodes[0].Kill, func() { r.Nodes[0].Start(t) })
	})
	t.Run("mongodb", func(t *testing.T) {
		// The double: a genuine server that is only lent cannot be stopped.
		server := mongotest.Double(t, mongowire.Options{})
		change := func(s *settings.Settings) {
			s.Store = settings.Store{Kind: settings.MongoDB, URL: domain.NewSecret(server.URI() + "/?serverSelectionTimeoutMS=500")}
		}
		goesAwayAndComesBack(t, change, server.Stop, func() {
			if err := server.Restart(); err != nil {
				t.Fatal(err)
			}
		})
	})
}

func goesAwayAndComesBack(t *testing.T, change func(*settings.Settings), stop, start func()) {
	s := newStack(t, change)
	b := s.browser()
	b.signIn(email)
	stop()
	eventually(t, "the outage is seen", func() bool { return b.get("/api/thing").StatusCode != 200 })
	a := b.get("/api/thing")
	a.want(t, 503, "store_unavailable")
	if a.Header.Get("Retry-After") == "" || len(a.Cookies()) != 0 {
		t.Errorf("an outage answered with Retry-After %q and cookies %v", a.Header.Get("Retry-After"), a.Cookies())
	}
	b.get("/health/ready").want(t, 503, "")
	b.get("/health/live").want(t, 200, "")
	b.do("POST", "/auth/logout", "", asScript).want(t, 503, "store_unavailable")
	start()
	eventually(t, "the store is used again", func() bool {
		a = b.get("/api/thing")
		if a.StatusCode == 401 {
			t.Fatalf("the store is back without the device: %s", a.body)
		}
		return a.StatusCode == 200
	})
	b.get("/health/ready").want(t, 200, "")
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !ok(); {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain until %s", what)
		}
	}
}
