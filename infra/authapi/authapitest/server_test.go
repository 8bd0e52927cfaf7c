package authapitest

import (
	"encoding/json"
	"io"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// exchanged is what came back from the server; status 0 if nothing did.
type exchanged struct {
	status          int
	Access          string `json:"access_token"`
	Refresh         string `json:"refresh_token"`
	ExpiresIn       any    `json:"expires_in"`
	RefreshLifetime any    `json:"refresh_expires_in"`
	Error           string `json:"error"`
}

func ask(t *testing.T, s *Server, path, kind, body string) exchanged {
	t.Helper()
	client := &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Post(s.URL+path, kind, strings.NewReader(body))
	if err != nil {
		return exchanged{}
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return exchanged{}
	}
	var e exchanged
	_ = json.Unmarshal(text, &e) // a page leaves it empty
	e.status = resp.StatusCode
	return e
}

func signIn(t *testing.T, s *Server) exchanged {
	t.Helper()
	e := ask(t, s, LoginPath, "application/json", `{"email":"ann@example.com","password":"a long one"}`)
	if e.status != http.StatusOK || e.Access == "" || e.Refresh == "" {
		t.Fatalf("sign-in: %+v", e)
	}
	return e
}

func refresh(t *testing.T, s *Server, token string) exchanged {
	t.Helper()
	return ask(t, s, RefreshPath, "application/json", `{"refresh_token":"`+token+`"}`)
}

func withAccount(t *testing.T) *Server {
	s := New(t)
	s.AddAccount("ann@example.com", "a long one", "admin")
	return s
}

func TestRegisterThenSignInByForm(t *testing.T) {
	s := New(t)
	const body = `{"email":"bob@example.com","password":"secret words"}`
	if got := ask(t, s, RegisterPath, "application/json", body).status; got != http.StatusCreated {
		t.Fatalf("register: %d, want 201", got)
	}
	if got := ask(t, s, RegisterPath, "application/json", body).status; got != http.StatusConflict {
		t.Errorf("register again: %d, want 409", got)
	}
	const form = "application/x-www-form-urlencoded"
	if got := ask(t, s, LoginPath, form, "username=bob%40example.com&password=secret+words").status; got != http.StatusOK {
		t.Errorf("sign-in by form: %d, want 200", got)
	}
	if got := ask(t, s, LoginPath, form, "username=bob%40example.com&password=wrong").status; got != http.StatusUnauthorized {
		t.Errorf("wrong password: %d, want 401", got)
	}
}

func TestRotationSpendsTheToken(t *testing.T) {
	s := withAccount(t)
	first := signIn(t, s)
	second := refresh(t, s, first.Refresh)
	if second.status != http.StatusOK || second.Refresh == first.Refresh || second.Access == first.Access {
		t.Fatalf("refresh: %+v after %+v", second, first)
	}
	if got := s.Granted(RefreshPath); got != 1 {
		t.Errorf("grants: %d, want 1", got)
	}
	want := []string{first.Access, first.Refresh, second.Access, second.Refresh}
	if got := s.Issued(); !slices.Equal(got, want) {
		t.Errorf("issued %q, want %q", got, want)
	}
}

func TestReuseIsTheft(t *testing.T) {
	s := withAccount(t)
	first, other := signIn(t, s), signIn(t, s)
	second := refresh(t, s, first.Refresh)
	if got := refresh(t, s, first.Refresh); got.Error != "invalid_grant" || got.status != http.StatusBadRequest {
		t.Errorf("reuse: %+v, want invalid_grant", got)
	}
	if got := refresh(t, s, second.Refresh); got.Error != "invalid_grant" {
		t.Errorf("the successor after a theft: %+v, want invalid_grant", got)
	}
	if s.Valid(second.Access) {
		t.Error("an access token of the family is still valid")
	}
	if !s.Valid(other.Access) {
		t.Error("another sign-in of the same account has ended too")
	}
	if got := s.Thefts(); got != 1 {
		t.Errorf("thefts: %d, want 1", got)
	}
}

func TestReuseWindowGivesTheSameSuccessor(t *testing.T) {
	s := withAccount(t)
	now := time.Now()
	s.Set(func(o *Options) { o.ReuseWindow, o.Now = 10*time.Second, func() time.Time { return now } })
	first := signIn(t, s)
	second := refresh(t, s, first.Refresh)
	if got := refresh(t, s, first.Refresh); got != second {
		t.Errorf("inside the window: %+v, want %+v", got, second)
	}
	s.Set(func(o *Options) { o.Now = func() time.Time { return now.Add(10 * time.Second) } })
	if got := refresh(t, s, first.Refresh); got.Error != "invalid_grant" {
		t.Errorf("after the window: %+v, want invalid_grant", got)
	}
	if got := s.Granted(RefreshPath); got != 1 {
		t.Errorf("grants: %d, want 1", got)
	}
}

func TestOptionsShapeTheAnswer(t *testing.T) {
	s := withAccount(t)
	s.Set(func(o *Options) {
		o.ExpiresIn = func(time.Duration) any { return nil }
		o.RefreshLife = time.Hour
		o.KeepRefresh = true
		o.Opaque = true
	})
	first := signIn(t, s)
	if first.ExpiresIn != nil || first.RefreshLifetime != 3600.0 || strings.Contains(first.Access, ".") {
		t.Errorf("sign-in: %+v", first)
	}
	if got := refresh(t, s, first.Refresh); got.status != http.StatusOK || got.Refresh != "" {
		t.Errorf("refresh without rotation: %+v", got)
	}
}

func TestValidEndsWithTimeRevocationAndAccount(t *testing.T) {
	s := withAccount(t)
	now := time.Now()
	s.Set(func(o *Options) { o.AccessLife, o.Now = time.Minute, func() time.Time { return now } })
	expired := signIn(t, s)
	now = now.Add(time.Minute)
	revoked, disabled := signIn(t, s), signIn(t, s)
	ask(t, s, RevokePath, "application/json", `{"refresh_token":"`+revoked.Refresh+`"}`)
	if s.Valid(expired.Access) || s.Valid(revoked.Access) || s.Valid("another") {
		t.Error("a token that ended is valid")
	}
	if !s.Valid(disabled.Access) {
		t.Error("a token that did not end is not valid")
	}
	s.Disable("Ann@example.com")
	if s.Valid(disabled.Access) || refresh(t, s, disabled.Refresh).Error != "invalid_grant" {
		t.Error("a disabled account goes on")
	}
	if got := s.Revocations(); len(got) != 1 || got[0].Refresh != revoked.Refresh {
		t.Errorf("revocations: %v", got)
	}
}

func TestScriptsRunInOrder(t *testing.T) {
	s := withAccount(t)
	s.Next(RefreshPath, Unavailable("2"), Garbage, Refuse("invalid_client"), Cut)
	s.Always(RefreshPath, TooMany(""))
	var got []int
	for range 5 {
		got = append(got, refresh(t, s, "any").status)
	}
	s.Always(RefreshPath, nil)
	got = append(got, refresh(t, s, signIn(t, s).Refresh).status)
	if want := []int{503, 200, 400, 0, 429, 200}; !slices.Equal(got, want) {
		t.Errorf("statuses %v, want %v", got, want)
	}
}

func TestLostAndHalfAnswersRotate(t *testing.T) {
	for name, behaviour := range map[string]Behaviour{"lost": Lost, "half": Half} {
		s := withAccount(t)
		token := signIn(t, s).Refresh
		s.Next(RefreshPath, behaviour)
		if got := refresh(t, s, token); got.status != 0 {
			t.Errorf("%s: %+v, want no answer", name, got)
		}
		if s.Granted(RefreshPath) != 1 || len(s.Issued()) != 4 {
			t.Errorf("%s: %d grants, %d tokens, want 1 and 4", name, s.Granted(RefreshPath), len(s.Issued()))
		}
	}
}

func TestGateHoldsAndCounts(t *testing.T) {
	s := withAccount(t)
	tokens := []string{signIn(t, s).Refresh, signIn(t, s).Refresh, signIn(t, s).Refresh}
	gate := NewGate()
	s.Always(RefreshPath, gate.Before)
	var wg sync.WaitGroup
	for _, token := range tokens {
		wg.Go(func() {
			if got := refresh(t, s, token); got.status != http.StatusOK {
				t.Errorf("through the gate: %+v", got)
			}
		})
	}
	for range tokens {
		<-gate.Arrived
	}
	if got := s.Granted(RefreshPath); got != 0 {
		t.Errorf("%d grants before the gate is open", got)
	}
	gate.Open()
	wg.Wait()
	if s.Peak(RefreshPath) != 3 || s.Granted(RefreshPath) != 3 || len(s.Requests(RefreshPath)) != 3 {
		t.Errorf("peak %d, grants %d, requests %d, want 3 of each",
			s.Peak(RefreshPath), s.Granted(RefreshPath), len(s.Requests(RefreshPath)))
	}
}

func TestCloseCutsWhatIsHeld(t *testing.T) {
	s := withAccount(t)
	gate := NewGate()
	s.Next(LoginPath, gate.Before)
	done := make(chan exchanged)
	go func() { done <- ask(t, s, LoginPath, "application/json", `{}`) }()
	<-gate.Arrived
	s.Close()
	if got := <-done; got.status != 0 {
		t.Errorf("held request: %+v, want none", got)
	}
}
