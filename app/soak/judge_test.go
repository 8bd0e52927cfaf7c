package soak

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"testing"
	"time"
)

// judge is a run without processes.
func judge() *run {
	r := &run{clock: &history{}, count: &counts{start: time.Now(), progress: io.Discard}}
	r.count.Faults = map[string]int{}
	r.authority = newAuthority(r.clock, r.count)
	for i := range 8 {
		r.devices = append(r.devices, &device{r: r, number: i, over: map[int]time.Time{}})
	}
	return r
}

const (
	lenientDevice = 1
	strictDevice  = 4
)

// signIn returns the refresh and the access token of a new session whose access
// token is over, so that it is time to refresh.
func (r *run) signIn(t *testing.T, number int) (refresh, access string) {
	t.Helper()
	answer := r.authority.signIn(r.devices[number].email())
	refresh, access = answer["refresh_token"].(string), answer["access_token"].(string)
	r.authority.access[access].expires = time.Now()
	return refresh, access
}

// renew has a token exchanged that has to be taken.
func (r *run) renew(t *testing.T, token string, replica int) (refresh, access string) {
	t.Helper()
	status, answer := r.authority.renew(token, replica)
	if status != http.StatusOK {
		t.Fatalf("renew = %d %v", status, answer)
	}
	return answer["refresh_token"].(string), answer["access_token"].(string)
}

// call is a call of the upstream.
func (r *run) call(number int, token string, sent time.Time) {
	req := httptest.NewRequest(http.MethodGet, "/", nil)
	req.Header.Set("Authorization", "Bearer "+token)
	req.Header.Set(headerSent, strconv.FormatInt(sent.UnixNano(), 10))
	req.Header.Set(headerDevice, strconv.Itoa(number))
	r.upstream(httptest.NewRecorder(), req)
}

// found checks what a run has come to, by the figures that are not zero.
func (r *run) found(t *testing.T, want Report) {
	t.Helper()
	have := r.count.report()
	for _, c := range []struct {
		name       string
		have, want int
	}{
		{"needless", have.Needless, want.Needless}, {"lost", have.Lost, want.Lost}, {"stale", have.Stale, want.Stale},
		{"zombies", have.Zombies, want.Zombies}, {"mixed", have.Mixed, want.Mixed}, {"by rule", have.EndedByRule, want.EndedByRule},
		{"replays", have.Replays, want.Replays},
	} {
		if c.have != c.want {
			t.Errorf("%s: %d, want %d; %v", c.name, c.have, c.want, have.Findings)
		}
	}
}

// TestJudgeOfRefreshes shows the judge what a broker may do and what it may not.
func TestJudgeOfRefreshes(t *testing.T) {
	for name, c := range map[string]struct {
		do   func(t *testing.T, r *run)
		want Report
	}{
		"in time": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			r.renew(t, refresh, 0)
		}, Report{}},
		"too early": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			next, _ := r.renew(t, refresh, 0)
			r.renew(t, next, 0)
		}, Report{Needless: 1}},
		"twice, and nothing has happened": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			r.renew(t, refresh, 0)
			r.renew(t, refresh, 1)
		}, Report{Needless: 1, Replays: 1}},
		"twice, and the answer was lost": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			r.renew(t, refresh, 0)
			r.authority.lose(refresh)
			r.renew(t, refresh, 0)
		}, Report{Replays: 1}},
		"twice, and whoever had the pair was killed": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			r.renew(t, refresh, 0)
			r.clock.begin(0)
			r.renew(t, refresh, 1)
		}, Report{Replays: 1}},
		"twice, and somebody else was killed": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			r.renew(t, refresh, 0)
			r.clock.begin(2)
			r.renew(t, refresh, 1)
		}, Report{Needless: 1, Replays: 1}},
		"twice, and the pair had been stored before the kill": {func(t *testing.T, r *run) {
			refresh, _ := r.signIn(t, lenientDevice)
			_, access := r.renew(t, refresh, 0)
			r.call(lenientDevice, access, time.Now())
			r.clock.begin(0)
			r.renew(t, refresh, 1)
		}, Report{Needless: 1, Replays: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := judge()
			c.do(t, r)
			r.found(t, c.want)
		})
	}
}

// TestJudgeOfEndings: a session may end only if the auth server's rules ended it
// after a fault, and only where there is no reuse window.
func TestJudgeOfEndings(t *testing.T) {
	for name, c := range map[string]struct {
		device int
		do     func(t *testing.T, r *run, refresh string)
		want   Report
	}{
		"alive": {lenientDevice, func(*testing.T, *run, string) {}, Report{Lost: 1}},
		"revoked by the broker": {lenientDevice, func(_ *testing.T, r *run, refresh string) {
			r.authority.revoke(refresh)
		}, Report{Lost: 1}},
		"no window, a kill took the pair": {strictDevice, func(t *testing.T, r *run, refresh string) {
			r.renew(t, refresh, 0)
			r.clock.begin(0)
			r.authority.renew(refresh, 1)
		}, Report{EndedByRule: 1}},
		"no window, and nothing has happened": {strictDevice, func(t *testing.T, r *run, refresh string) {
			r.renew(t, refresh, 0)
			r.authority.renew(refresh, 1)
		}, Report{Lost: 1, Needless: 1}},
		"a kill took the pair, and the window was missed": {lenientDevice, func(t *testing.T, r *run, refresh string) {
			r.renew(t, refresh, 0)
			r.clock.begin(0)
			r.authority.refresh[refresh].spent = time.Now().Add(-2 * reuseWindow)
			r.authority.renew(refresh, 1)
		}, Report{Lost: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			r := judge()
			refresh, _ := r.signIn(t, c.device)
			c.do(t, r, refresh)
			r.devices[c.device].judge("signed_out")
			r.found(t, c.want)
		})
	}
}

// TestJudgeOfCalls is about what reaches the upstream.
func TestJudgeOfCalls(t *testing.T) {
	r := judge()
	_, old := r.signIn(t, 1)
	r.call(1, old, time.Now().Add(-time.Second)) // it was good when the client sent its request
	r.found(t, Report{})
	r.call(1, old, time.Now().Add(time.Second))
	r.found(t, Report{Stale: 1})
	r.call(1, "made up", time.Now())
	r.found(t, Report{Stale: 2})

	refresh, _ := r.signIn(t, 2)
	_, good := r.renew(t, refresh, 0)
	r.call(3, good, time.Now())
	r.found(t, Report{Stale: 2, Mixed: 1})
	family := r.authority.latest[r.devices[2].email()].id
	r.devices[2].over[family] = time.Now().Add(-signOutSeen / 2)
	r.call(2, good, time.Now())
	r.found(t, Report{Stale: 2, Mixed: 1})
	r.devices[2].over[family] = time.Now().Add(-2 * signOutSeen)
	r.call(2, good, time.Now())
	r.found(t, Report{Stale: 2, Mixed: 1, Zombies: 1})
}
