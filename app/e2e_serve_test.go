package main

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

const (
	somebody = "ada@example.com"
	herWords = "engines of analysis"
)

// TestServeNamesEveryProblem gives wrong settings in every way there is.
func TestServeNamesEveryProblem(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	yaml := filepath.Join(dir, "c.yaml")
	if err := os.WriteFile(yaml, []byte("idle-timeout: soon\nauht-url: https://auth.example\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	env := filepath.Join(dir, "env")
	if err := os.WriteFile(env, []byte("CLOAKROOM_SEAL_KEY=k1:c2hvcnQ\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	said := start(t, "serve", "--config="+yaml, "--env-file="+env, "--listen=everywhere", "--route=api", "--store=paper:", "--frobnicate").failed()
	problems := []string{"--frobnicate", "--listen", "--route", "--store", "CLOAKROOM_SEAL_KEY", "auht-url", "auth-url", "idle-timeout"}
	if !strings.HasPrefix(said, fmt.Sprintf("cloakroom: %d problems with the settings:\n", len(problems))) || strings.Count(said, "\n") != len(problems)+1 {
		t.Errorf("serve says, want %d problems, a line for each:\n%s", len(problems), said)
	}
	for _, name := range problems {
		if !strings.Contains(said, "  - "+name) && !strings.Contains(said, ": "+name+": ") {
			t.Errorf("serve does not say what is wrong with %s:\n%s", name, said)
		}
	}
}

// surroundings is what serve is put between: the bundled auth server, as a
// program of its own, and an upstream.
type surroundings struct {
	auth     string // the auth server's base URL
	upstream *httptest.Server
	key      string // the path of a key file
	store    string // the path of the store's file
	arrived  chan struct{}
	release  chan struct{}
}

// surround starts both. The auth server's tokens live two seconds, and it
// forgives nobody who uses a refresh token twice.
func surround(t *testing.T) *surroundings {
	t.Helper()
	dir := t.TempDir()
	s := &surroundings{
		key: filepath.Join(dir, "seal.key"), store: filepath.Join(dir, "cloakroom.db"),
		arrived: make(chan struct{}), release: make(chan struct{}),
	}
	keys := start(t, "keys", "generate")
	if status := keys.status(); status != exitOK {
		t.Fatalf("keys generate ends with status %d", status)
	}
	if err := os.WriteFile(s.key, []byte(keys.stdout.String()), 0o600); err != nil {
		t.Fatal(err)
	}
	auth := start(t, "auth-server", "--listen=127.0.0.1:0", "--database="+filepath.Join(dir, "auth.db"),
		"--access-token-lifetime=2s", "--reuse-window=0s")
	s.auth = "http://" + auth.stderr.find(t, `"auth server listens" address=(\S+)`) + "/api/v1"
	s.upstream = httptest.NewServer(http.HandlerFunc(s.serve))
	t.Cleanup(s.upstream.Close)
	return s
}

// serve is the upstream. It says whether it got a token and a cookie, and which
// token; /slow says the second half when it is released.
func (s *surroundings) serve(w http.ResponseWriter, r *http.Request) {
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || len(r.Cookies()) != 0 {
		w.WriteHeader(http.StatusTeapot)
		return
	}
	if r.URL.Path != "/slow" {
		fmt.Fprintf(w, "%q", token)
		return
	}
	_, _ = io.WriteString(w, `"first half,`)
	_ = http.NewResponseController(w).Flush()
	s.arrived <- struct{}{}
	<-s.release
	_, _ = io.WriteString(w, ` second half"`)
}

func (s *surroundings) flags() []string {
	return []string{
		"--listen=127.0.0.1:0", "--auth-url=" + s.auth, "--route=/=" + s.upstream.URL,
		"--seal-key-file=" + s.key, "--store=sqlite://" + s.store,
	}
}

// broker starts serve and returns its address.
func (s *surroundings) broker(t *testing.T, more ...string) (*program, string) {
	t.Helper()
	p := start(t, slices.Concat([]string{"serve"}, s.flags(), more)...)
	return p, "http://" + p.stderr.find(t, `"broker listens" address=(\S+)`)
}

// TestServeFinishesWhatIsUnderWay stops serve in the middle of a request.
func TestServeFinishesWhatIsUnderWay(t *testing.T) {
	t.Parallel()
	s := surround(t)
	check := start(t, append([]string{"config", "check"}, s.flags()...)...)
	if status, out := check.status(), check.stdout.String(); status != exitOK || out != "ok\n" {
		t.Errorf("config check = %d %q, want 0 and ok", status, out)
	}
	p, address := s.broker(t)
	v := newVisitor(t)
	v.do("POST", address+"/auth/register", map[string]string{"email": somebody, "password": herWords}, nil, http.StatusOK)

	type answer struct {
		status int
		text   string
		err    error
	}
	answered := make(chan answer, 1)
	go func() {
		var a answer
		a.status, a.err = v.try("GET", address+"/slow", nil, &a.text)
		answered <- a
	}()
	select {
	case <-s.arrived:
	case a := <-answered:
		t.Fatalf("the slow request is answered with %+v before it was slow", a)
	}
	if err := p.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := eventually(t.Context(), func() (bool, error) {
		c, err := net.Dial("tcp", strings.TrimPrefix(address, "http://"))
		if err == nil {
			c.Close()
		}
		return err != nil, nil
	}); err != nil {
		t.Errorf("serve takes new connections after SIGTERM: %v", err)
	}
	close(s.release)
	if a := <-answered; a.err != nil || a.status != http.StatusOK || a.text != "first half, second half" {
		t.Errorf("the request that was under way = %+v, want it finished", a)
	}
	if status := p.status(); status != exitOK {
		t.Errorf("serve ends with status %d, want 0", status)
	}
}

// longestLate is how long a sign-out may take to be known to a broker that keeps
// records at hand and did not do it itself.
const longestLate = time.Second

// TestSeveralBrokersOnOneFile lets processes work on one SQLite file: a sign-out
// through one holds in the others, and they do not both use a refresh token,
// which the auth server would answer with the end of the sign-in.
func TestSeveralBrokersOnOneFile(t *testing.T) {
	t.Parallel()
	s := surround(t)
	_, one := s.broker(t)
	_, two := s.broker(t)
	_, asking := s.broker(t, "--cache-ttl=0s")
	laptop, phone := newVisitor(t), newVisitor(t)
	laptop.do("POST", one+"/auth/register", map[string]string{"email": somebody, "password": herWords}, nil, http.StatusOK)
	lost := phone.signIn(two, somebody, herWords)
	for _, address := range []string{one, two, asking} {
		phone.do("GET", address+"/", nil, nil, http.StatusOK)
	}

	laptop.do("DELETE", one+"/auth/devices/"+lost, nil, nil, http.StatusNoContent)
	ended := time.Now()
	phone.do("GET", one+"/", nil, nil, http.StatusUnauthorized)
	phone.do("GET", asking+"/", nil, nil, http.StatusUnauthorized)
	for calls := 1; ; calls++ {
		asked := time.Since(ended)
		status, err := phone.try("GET", two+"/", nil, nil)
		if err != nil || status != http.StatusOK && status != http.StatusUnauthorized || status == http.StatusOK && asked > longestLate {
			t.Fatalf("%v after the sign-out the other broker answers %d, %v", asked, status, err)
		}
		if status == http.StatusUnauthorized {
			t.Logf("the other broker refused call %d, %v after the sign-out", calls, asked)
			break
		}
	}

	var both sync.WaitGroup
	for _, address := range []string{one, two} {
		both.Go(func() {
			tokens := map[string]bool{}
			err := eventually(t.Context(), func() (bool, error) {
				var token string
				status, err := laptop.try("GET", address+"/", nil, &token)
				if err != nil || status != http.StatusOK {
					return false, errors.Join(err, fmt.Errorf("status %d after %d tokens", status, len(tokens)))
				}
				tokens[token] = true
				return len(tokens) > 3, nil
			})
			if err != nil {
				t.Errorf("calls through %s: %v", address, err)
			}
		})
	}
	both.Wait()
}
