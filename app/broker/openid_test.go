package broker_test

import (
	"crypto/rand"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/oidc/oidctest"
	"cloakroom/infra/settings"
)

// houses is a whole broker between two providers and an upstream that takes
// what either of them issues.
type houses struct {
	*stack
	house, other *oidctest.Server
	seen         *seenTokens
}

// seenTokens is what the upstream was shown.
type seenTokens struct {
	mu  sync.Mutex
	all []http.Header
}

func (s *seenTokens) last() http.Header {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.all) == 0 {
		return http.Header{}
	}
	return s.all[len(s.all)-1]
}

func (s *seenTokens) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	s.all = append(s.all, r.Header.Clone())
	s.mu.Unlock()
	_, _ = io.WriteString(w, "ok")
}

func providerAt(name string, s *oidctest.Server) settings.Provider {
	return settings.Provider{Name: name, Title: "The " + name, Issuer: s.URL, ClientID: oidctest.ClientID, ClientSecret: domain.NewSecret(oidctest.ClientSecret)}
}

// newHouses starts a broker without a JSON auth server. change may be nil.
func newHouses(t *testing.T, change func(*settings.Settings)) *houses {
	t.Helper()
	h := &houses{house: oidctest.New(t), other: oidctest.New(t), seen: &seenTokens{}}
	upstream := httptest.NewServer(h.seen)
	t.Cleanup(upstream.Close)
	h.stack = newStack(t, func(s *settings.Settings) {
		s.AuthURL = nil
		s.Routes = []settings.Route{{Prefix: "/", Upstreams: upstreamsAt(t, upstream.URL)}}
		s.Providers = []settings.Provider{providerAt("house", h.house), providerAt("other", h.other)}
		if change != nil {
			change(s)
		}
	})
	return h
}

func must[T any](v T, err error) T {
	if err != nil {
		panic(err)
	}
	return v
}

var errTooLate = errors.New("too late")

const (
	typed     = "Sec-Fetch-Site: none"
	fromThere = "Sec-Fetch-Site: cross-site"
)

// begin clicks a provider's button and returns where that leads.
func (b *browser) begin(provider, returnTo string) string {
	b.s.Helper()
	a := b.do("POST", "/auth/login/"+provider, url.Values{"return_to": {returnTo}}.Encode(), asForm, fromUs, navigate)
	_, address, found := strings.Cut(a.Header.Get("Refresh"), "0; url=")
	if a.StatusCode != http.StatusOK || !found {
		b.s.Fatalf("the button of %s = %d %v %s", provider, a.StatusCode, a.Header, a.body)
	}
	return address
}

// back returns from a provider with an answer to an address.
func (b *browser) back(provider string, answer url.Values) answer {
	b.s.Helper()
	return b.get("/auth/callback/"+provider+"?"+answer.Encode(), navigate, fromThere)
}

// signInAt goes the whole way.
func (b *browser) signInAt(name string, p *oidctest.Server, returnTo string) answer {
	b.s.Helper()
	a := b.back(name, p.Authorize(b.s, b.begin(name, returnTo)))
	if a.StatusCode != http.StatusSeeOther {
		b.s.Fatalf("signing in at %s = %d %s", name, a.StatusCode, a.body)
	}
	return a
}

func (b *browser) deviceIDs() []string {
	b.s.Helper()
	var list struct {
		Devices []struct{ ID string }
	}
	b.get("/auth/devices").json(b.s.T, &list)
	var ids []string
	for _, d := range list.Devices {
		ids = append(ids, d.ID)
	}
	return ids
}

func TestSignInAtAProvider(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	page := b.get("/auth/login?return_to=/deep", navigate)
	if !strings.Contains(page.body, "Continue with The house") || strings.Contains(page.body, `name="password"`) {
		t.Errorf("the login page has no button, or a form for a password that nobody takes:\n%s", page.body)
	}
	b.do("POST", "/auth/login", `{"email":"a","password":"b"}`, asJSON, asScript).want(t, 405, "method_not_allowed")
	b.get("/auth/register", navigate).want(t, 404, "")

	a := b.signInAt("house", h.house, "/deep?x=1")
	if to := a.Header.Get("Location"); to != "/deep?x=1" {
		t.Errorf("signing in leads to %q", to)
	}
	var who struct {
		Issuer, Subject, Email, Name, Provider string
		EmailVerified                          bool `json:"email_verified"`
	}
	b.get("/auth/session").json(t, &who)
	if who.Issuer != h.house.URL || who.Name != "Ann" || who.Subject != oidctest.Subject || who.Email != "ann@example.com" || !who.EmailVerified || who.Provider != "house" {
		t.Errorf("the session is %+v", who)
	}
	if a := b.get("/deep"); a.body != "ok" || !strings.HasPrefix(h.seen.last().Get("Authorization"), "Bearer access-") {
		t.Errorf("the upstream = %d, shown %q", a.StatusCode, h.seen.last().Get("Authorization"))
	}
	if cookies := h.seen.last().Get("Cookie"); cookies != "" {
		t.Errorf("the upstream is shown cookies: %s", cookies)
	}
	if n := len(b.client.Jar.Cookies(h.parse(b.url))); n != 1 {
		t.Errorf("the browser has %d cookies, want the device's alone", n)
	}
	noTokens(t, h)
}

// noTokens looks through all that was answered and logged.
func noTokens(t *testing.T, h *houses) {
	t.Helper()
	if found := regexp.MustCompile(`access-\d+|refresh-\d+|eyJ[\w-]+\.eyJ[\w-]+|` + regexp.QuoteMeta(oidctest.ClientSecret)).FindString(h.said.String()); found != "" {
		t.Errorf("a token or secret was answered or logged: %.20s", found)
	}
}

// TestR2_AnswerBelongsToTheBrowserThatAsked also holds that it is used once.
func TestR2_AnswerBelongsToTheBrowserThatAsked(t *testing.T) {
	h := newHouses(t, nil)
	mine, thief := h.browser(), h.browser()
	back := h.house.Authorize(t, mine.begin("house", ""))
	thief.begin("house", "") // has a sign-in of its own under way
	refused := func(what string, got answer, code string) {
		t.Helper()
		got.want(t, 400, code)
		if strings.Contains(strings.Join(got.Header["Set-Cookie"], ""), "device_id=") {
			t.Errorf("%s: signed in", what)
		}
	}
	path := "/auth/callback/house?" + back.Encode()
	refused("another browser", thief.get(path), "sign_in_mismatch")
	refused("no state", mine.get("/auth/callback/house?code="+back.Get("code")), "sign_in_mismatch")
	refused("another provider's callback", mine.get("/auth/callback/other?"+back.Encode()), "sign_in_mismatch")

	back = h.house.Authorize(t, mine.begin("house", ""))
	path = "/auth/callback/house?" + back.Encode()
	copied := h.browser()
	copied.client.Jar.SetCookies(h.parse(h.url), mine.client.Jar.Cookies(h.parse(h.url)))
	if a := mine.get(path); a.StatusCode != http.StatusSeeOther {
		t.Fatalf("the right browser = %d %s", a.StatusCode, a.body)
	}
	refused("the same answer again", mine.get(path), "sign_in_mismatch")
	refused("the same answer with a copy of the cookie", copied.get(path), "sign_in_too_late")
	if n := len(h.house.Requests(oidctest.TokenPath)); n != 1 {
		t.Errorf("codes were exchanged %d times, want once", n)
	}
}

// TestAnswersThatAreNoneSpendNothing: what is used up is remembered in the store,
// and everybody can begin sign-ins and send any answer to them.
func TestAnswersThatAreNoneSpendNothing(t *testing.T) {
	h := newHouses(t, nil)
	for name, change := range map[string]func(url.Values){
		"an error":         func(q url.Values) { q.Set("error", "access_denied") },
		"no code":          func(q url.Values) { q.Del("code") },
		"another provider": func(q url.Values) { q.Set("iss", "https://evil.example") },
	} {
		b, copied := h.browser(), h.browser()
		good := h.house.Authorize(t, b.begin("house", ""))
		copied.client.Jar.SetCookies(h.parse(h.url), b.client.Jar.Cookies(h.parse(h.url)))
		bad := url.Values{"code": good["code"], "state": good["state"], "iss": good["iss"]}
		change(bad)
		if a := b.back("house", bad); a.StatusCode/100 != 4 {
			t.Errorf("%s = %d", name, a.StatusCode)
		}
		if a := copied.back("house", good); a.StatusCode != http.StatusSeeOther {
			t.Errorf("%s has used up the sign-in: %d %s", name, a.StatusCode, a.body)
		}
	}
}

func TestR2_PlantedTransactionIsRefused(t *testing.T) {
	h := newHouses(t, nil)
	victim, attacker := h.browser(), h.browser()
	h.house.Authorize(t, attacker.begin("house", ""))
	own := attacker.client.Jar.Cookies(h.parse(h.url))[0]
	second := h.house.Authorize(t, attacker.begin("house", ""))
	var name string
	for _, c := range attacker.client.Jar.Cookies(h.parse(h.url)) {
		if c.Name != own.Name {
			name = c.Name
		}
	}
	for what, value := range map[string]string{"made up": "AAAA", "of another state": own.Value} {
		victim.client.Jar.SetCookies(h.parse(h.url), []*http.Cookie{{Name: name, Value: value, Path: "/"}})
		if a := victim.back("house", second); a.StatusCode != http.StatusBadRequest || victim.ticket() != "" {
			t.Errorf("a transaction that is %s = %d", what, a.StatusCode)
		}
	}
}

func TestSeveralTabsSignInAtOnce(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	one, two := h.house.Authorize(t, b.begin("house", "/one")), h.house.Authorize(t, b.begin("house", "/two"))
	for _, tab := range []struct {
		answer url.Values
		want   string
	}{{two, "/two"}, {one, "/one"}} {
		if a := b.back("house", tab.answer); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != tab.want {
			t.Errorf("the tab = %d to %q, want %s", a.StatusCode, a.Header.Get("Location"), tab.want)
		}
	}
	if ids := b.deviceIDs(); len(ids) != 1 {
		t.Errorf("two tabs of one browser are %d devices", len(ids))
	}
	for range 9 {
		b.begin("house", "")
	}
	if n := len(b.client.Jar.Cookies(h.parse(b.url))); n > 5 {
		t.Errorf("nine sign-ins under way leave %d cookies", n)
	}
}

func TestProviderErrorsArePages(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	for code, want := range map[string]struct {
		status int
		says   string
	}{
		"access_denied":           {403, "cancelled"},
		"login_required":          {400, "Sign in again"},
		"temporarily_unavailable": {503, "cannot be reached"},
		"unauthorized_client":     {502, "does not accept this service"},
		"<script>":                {502, "does not accept this service"},
	} {
		state := must(url.Parse(b.begin("house", "/x"))).Query().Get("state")
		a := b.back("house", url.Values{"error": {code}, "error_description": {"hunter2 <script>"}, "state": {state}, "iss": {h.house.URL}})
		if a.StatusCode != want.status || !strings.Contains(a.body, want.says) || !strings.Contains(a.body, "/auth/login?return_to=%2Fx") {
			t.Errorf("%s: %d, want %d with %q and a way on:\n%s", code, a.StatusCode, want.status, want.says, a.body)
		}
		if strings.Contains(a.body, "hunter2") {
			t.Errorf("%s: the page repeats what stands in its address", code)
		}
	}
}

// TestR38_NobodyIsSignedInByAPlantedLink clicks links on other sites.
func TestR38_NobodyIsSignedInByAPlantedLink(t *testing.T) {
	h := newHouses(t, nil)
	for _, from := range [][]string{
		{fromThere}, {"Sec-Fetch-Site: same-site"}, {typed}, {"Referer: https://evil.example/"}, nil,
		{fromUs, "Sec-Fetch-Dest: image"}, {fromUs, "Sec-Fetch-Dest: iframe"}, // what somebody has put into one of our pages
	} {
		b := h.browser()
		a := b.get("/auth/login/house?return_to=/x", append(from, navigate)...)
		if a.StatusCode != http.StatusOK || !strings.Contains(a.body, "Continue with The house") || !strings.Contains(a.body, `action="/auth/login/house"`) || len(a.Header["Set-Cookie"]) != 0 {
			t.Errorf("a link from %v = %d %v, want a page with a button", from, a.StatusCode, a.Header)
		}
	}
	for _, from := range [][]string{{fromUs}, {fromUs, "Sec-Fetch-Dest: document"}, {"Referer: " + h.url + "/app"}} {
		a := h.browser().get("/auth/login/house", append(from, navigate)...)
		if to := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || !strings.HasPrefix(to, h.house.URL+"/authorize?") {
			t.Errorf("a link of our own (%s) = %d to %q, want the provider", from, a.StatusCode, to)
		}
	}
	h.browser().do("POST", "/auth/login/house", "return_to=", asForm, "Origin: https://evil.example").want(t, 403, "foreign_origin")
}

func TestProviderThatIsDownAtStart(t *testing.T) {
	h := newHouses(t, nil)
	h.house.Handle(oidctest.DiscoveryPath, func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) })
	b := h.browser()
	a := b.do("POST", "/auth/login/house", "return_to=", asForm, fromUs, navigate)
	if a.StatusCode != http.StatusServiceUnavailable || a.Header.Get("Retry-After") == "" || !strings.Contains(a.body, "cannot be reached") {
		t.Errorf("with the provider down its button = %d %s", a.StatusCode, a.body)
	}
	b.signInAt("other", h.other, "")
}

// TestR6_VictimsEmailAtAnotherProviderShowsNothing is the same as a person sees
// it.
func TestR6_VictimsEmailAtAnotherProviderShowsNothing(t *testing.T) {
	h := newHouses(t, nil)
	victim, attacker := h.browser(), h.browser()
	victim.signInAt("house", h.house, "")
	attacker.signInAt("other", h.other, "")
	device := victim.deviceIDs()[0]
	if ids := attacker.deviceIDs(); len(ids) != 1 || ids[0] == device {
		t.Errorf("the second provider's person sees %v", ids)
	}
	attacker.do("DELETE", "/auth/devices/"+device, "", asScript).want(t, 404, "not_found")
	attacker.do("DELETE", "/auth/devices", "", asScript).want(t, 200, "")
	if ids := victim.deviceIDs(); len(ids) != 1 {
		t.Errorf("the victim has %d devices, want 1", len(ids))
	}
}

func (h *houses) logout(claims map[string]any, header ...string) answer {
	h.Helper()
	return h.browser().do("POST", "/auth/backchannel-logout", url.Values{"logout_token": {h.house.LogoutToken(claims)}}.Encode(), append([]string{asForm}, header...)...)
}

// TestR40_LogoutTokensThatDoNotPass is about what the surface adds to the checks
// of infra/oidc: who is asked, what is answered, and that no token works twice.
func TestR40_LogoutTokensThatDoNotPass(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	b.signInAt("house", h.house, "")
	claims := h.house.LogoutClaims()
	claims["sid"] = "another-session"
	a := h.logout(claims)
	if a.StatusCode != http.StatusOK || a.Header.Get("Cache-Control") != "no-store" {
		t.Fatalf("a good token = %d %s %v", a.StatusCode, a.body, a.Header)
	}
	h.other.Keys(oidctest.NewKey(t, "key-1"))
	plain := func(token string) answer {
		return h.browser().do("POST", "/auth/backchannel-logout", url.Values{"logout_token": {token}}.Encode(), asForm)
	}
	elsewhere := h.browser()
	elsewhere.url, _ = h.replica()
	foreign := h.house.LogoutClaims()
	foreign["iss"] = "https://evil.example"
	for name, a := range map[string]answer{
		"the same again":       h.logout(claims),
		"... at a replica":     elsewhere.do("POST", "/auth/backchannel-logout", url.Values{"logout_token": {h.house.LogoutToken(claims)}}.Encode(), asForm),
		"an issuer of nobody":  plain(h.house.LogoutToken(foreign)),
		"signed by another":    plain(h.other.LogoutToken(h.house.LogoutClaims())),
		"the type of others":   plain(h.house.Sign(nil, h.house.LogoutClaims())),
		"no token":             h.browser().do("POST", "/auth/backchannel-logout", "", asForm),
		"two tokens":           h.browser().do("POST", "/auth/backchannel-logout", "logout_token=a&logout_token=b", asForm),
		"JSON":                 h.browser().do("POST", "/auth/backchannel-logout", "{}", asJSON),
		"a body without bound": h.browser().do("POST", "/auth/backchannel-logout", "logout_token="+strings.Repeat("a", 1<<20), asForm),
	} {
		var e struct {
			Error       string
			Description string `json:"error_description"`
		}
		if a.StatusCode != http.StatusBadRequest || a.Header.Get("Cache-Control") != "no-store" || json.Unmarshal([]byte(a.body), &e) != nil || e.Error != "invalid_request" || e.Description == "" {
			t.Errorf("%s = %d %s", name, a.StatusCode, a.body)
		}
	}
	if a := b.get("/auth/session"); a.StatusCode != http.StatusOK {
		t.Errorf("the device ended by a token that is not about it: %d", a.StatusCode)
	}
}

// TestR41_LogoutTokensEndWhatTheyName signs one person in on three devices, two
// of them in one session of the provider, at two replicas.
func TestR41_LogoutTokensEndWhatTheyName(t *testing.T) {
	h := newHouses(t, nil)
	elsewhere, _ := h.replica()
	sid := "session-1"
	h.house.Claims(func(c map[string]any) { c["sid"] = sid })
	var devices []*browser
	for i, session := range []string{"session-1", "session-2", "session-2"} {
		sid = session
		b := h.browser()
		if i == 2 {
			b.url = elsewhere
		}
		b.signInAt("house", h.house, "")
		devices = append(devices, b)
	}
	stays := h.browser()
	stays.signInAt("other", h.other, "")
	want := func(what string, status ...int) {
		t.Helper()
		begun := time.Now()
		for i, b := range devices {
			if err := within(time.Second-time.Since(begun), func() bool { return b.get("/deep").StatusCode == status[i] }); err != nil {
				t.Errorf("%s: device %d does not answer %d within a second", what, i+1, status[i])
			}
		}
	}
	want("before", 200, 200, 200)
	claims := h.house.LogoutClaims()
	claims["sid"] = "session-1"
	h.logout(claims)
	want("after the first session", 401, 200, 200)
	claims = h.house.LogoutClaims()
	delete(claims, "sid")
	h.logout(claims)
	want("after the person", 401, 401, 401)
	if a := stays.get("/deep"); a.StatusCode != http.StatusOK {
		t.Errorf("another provider's device = %d", a.StatusCode)
	}
}

// within waits for a condition, for so long at most.
func within(d time.Duration, ok func() bool) error {
	deadline := time.Now().Add(max(d, 0))
	for !ok() {
		if time.Now().After(deadline) {
			return errTooLate
		}
		<-time.After(5 * time.Millisecond)
	}
	return nil
}

func TestLogoutAtTheProvider(t *testing.T) {
	h := newHouses(t, nil)
	b := h.browser()
	b.signInAt("house", h.house, "")
	if a := b.get("/auth/logout", navigate, fromThere); a.StatusCode != http.StatusOK || !strings.Contains(a.body, `action="/auth/logout"`) {
		t.Errorf("GET logout = %d %s", a.StatusCode, a.body)
	}
	if a := b.get("/auth/session"); a.StatusCode != http.StatusOK {
		t.Fatalf("a GET has signed out: %d", a.StatusCode)
	}
	a := b.do("POST", "/auth/logout", "", asForm, fromUs, navigate)
	_, address, _ := strings.Cut(a.Header.Get("Refresh"), "0; url=")
	to := must(url.Parse(address))
	q := to.Query()
	if a.StatusCode != http.StatusOK || to.Path != oidctest.EndSessionPath || q.Get("ui") != "1" || q.Get("id_token_hint") == "" || q.Get("state") == "" ||
		q.Get("post_logout_redirect_uri") != h.url+"/auth/logout/done" || q.Get("client_id") != oidctest.ClientID {
		t.Errorf("logging out leads to %q", address)
	}
	if strings.Contains(a.body, q.Get("id_token_hint")) {
		t.Error("the ID token stands in the page")
	}
	b.get("/deep").want(t, 401, "sign_in_required")
	if a := h.browser().get("/auth/logout/done?state="+q.Get("state"), navigate); strings.Contains(a.body, "The house") {
		t.Error("another browser is told that it was signed out at the provider")
	}
	if a := b.get("/auth/logout/done?state="+q.Get("state"), navigate, fromThere); a.StatusCode != http.StatusOK || !strings.Contains(a.body, "signed out here and at The house") {
		t.Errorf("back from the provider = %d %s", a.StatusCode, a.body)
	}
	if err := within(5*time.Second, func() bool { return len(h.house.Requests(oidctest.RevokePath)) == 1 }); err != nil {
		t.Error("the refresh token was not revoked")
	}

	b.signInAt("house", h.house, "")
	if a := b.do("POST", "/auth/logout", "", asScript); a.StatusCode != http.StatusNoContent {
		t.Errorf("a script's logout = %d", a.StatusCode)
	}
}

// TestR37_OthersAreEndedByProofAlone lets the sign-in grow old.
func TestR37_OthersAreEndedByProofAlone(t *testing.T) {
	h := newHouses(t, nil)
	b, other := h.browser(), h.browser()
	long := time.Now().Add(-time.Hour).Unix()
	h.house.Claims(func(c map[string]any) { c["auth_time"] = long })
	other.signInAt("house", h.house, "")
	b.signInAt("house", h.house, "")
	device := b.deviceIDs()[1]

	a := b.do("DELETE", "/auth/devices/"+device, "", asScript)
	a.want(t, 403, "reauthentication_required")
	var e struct {
		URL string `json:"reauthenticate_url"`
	}
	a.json(t, &e)
	if e.URL != "/auth/reauthenticate?return_to=%2Fauth%2Fdevices" {
		t.Errorf("a script is sent to %q", e.URL)
	}
	b.do("DELETE", "/auth/devices?others=true", "", asScript).want(t, 403, "reauthentication_required")

	form := "/auth/devices/" + device + "/sign-out"
	a = b.do("POST", form, "", asForm, fromUs, navigate)
	if to := a.Header.Get("Location"); a.StatusCode != http.StatusSeeOther || to != "/auth/reauthenticate?return_to="+url.QueryEscape(form) {
		t.Fatalf("the form leads to %d %q", a.StatusCode, to)
	}
	if a := b.get(a.Header.Get("Location"), navigate); !strings.Contains(a.body, "Continue with The house") {
		t.Errorf("the page asks for no proof:\n%s", a.body)
	}
	prove := func() url.Values {
		t.Helper()
		a := b.do("POST", "/auth/reauthenticate", url.Values{"return_to": {form}}.Encode(), asForm, fromUs, navigate)
		_, address, _ := strings.Cut(a.Header.Get("Refresh"), "0; url=")
		q := must(url.Parse(address)).Query()
		if q.Get("prompt") != "login" || q.Get("max_age") == "" {
			t.Fatalf("the provider is asked by %q", address)
		}
		return h.house.Authorize(t, address)
	}
	if a := b.back("house", prove()); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "did not ask you") {
		t.Errorf("a provider that asks nobody = %d %s", a.StatusCode, a.body)
	}
	h.house.Claims(func(c map[string]any) { c["sub"] = "somebody-else" })
	if a := b.back("house", prove()); a.StatusCode != http.StatusForbidden || !strings.Contains(a.body, "somebody else") || len(b.deviceIDs()) != 2 {
		t.Errorf("somebody else's proof = %d %s", a.StatusCode, a.body)
	}
	h.house.Claims(func(map[string]any) {})
	a = b.back("house", prove())
	if a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != form {
		t.Fatalf("the proof leads to %d %q", a.StatusCode, a.Header.Get("Location"))
	}
	if a := b.get(form, navigate); !strings.Contains(a.body, `action="`+form+`"`) {
		t.Errorf("there is no button to go on with:\n%s", a.body)
	}
	if a := b.do("POST", form, "", asForm, fromUs, navigate); a.StatusCode != http.StatusSeeOther {
		t.Errorf("after the proof = %d", a.StatusCode)
	}
	other.get("/deep").want(t, 401, "sign_in_required")

	h.house.Claims(func(c map[string]any) { c["auth_time"] = long })
	b.signInAt("house", h.house, "")
	b.do("DELETE", "/auth/devices/"+b.deviceIDs()[0], "", asScript).want(t, 204, "") // one's own needs none
}

// TestGooglesButton posts what Google Identity Services posts.
func TestGooglesButton(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) { s.Providers[0].Credential = "true" })
	token := func() string { c := h.house.IDClaims(""); c["jti"] = rand.Text(); return h.house.Sign(nil, c) }
	const path = "/auth/login/house/credential"
	h.browser().do("POST", "/auth/login/other/credential", url.Values{"credential": {token()}}.Encode(), asForm, fromUs).want(t, 404, "")

	b := h.browser()
	used := token()
	body := func(token string) string {
		return string(must(json.Marshal(map[string]string{"credential": token, "return_to": "/x"})))
	}
	b.do("POST", path, body(used), asJSON).want(t, 403, "origin_missing")
	b.do("POST", path, body(used), asJSON, "Origin: "+h.house.URL).want(t, 403, "foreign_origin")
	a := b.do("POST", path, body(used), asJSON, asScript)
	var in struct {
		ReturnTo string `json:"return_to"`
	}
	if a.json(t, &in); a.StatusCode != http.StatusOK || in.ReturnTo != "/x" {
		t.Errorf("a good credential as JSON = %d %s", a.StatusCode, a.body)
	}
	if a := b.get("/deep"); a.StatusCode != http.StatusOK || h.seen.last().Get("Authorization") != "Bearer "+used {
		t.Errorf("the upstream = %d", a.StatusCode)
	}
	b.do("POST", path, body(used), asJSON, asScript).want(t, 400, "sign_in_too_late")
	b.do("POST", path, body(token()+"x"), asJSON, asScript).want(t, 400, "sign_in_untrusted")

	form := func(proof, cookie string, header ...string) answer {
		b := h.browser()
		if cookie != "" {
			header = append(header, "Cookie: "+cookie)
		}
		return b.do("POST", path+"?return_to=/x", url.Values{"credential": {token()}, "g_csrf_token": {proof}}.Encode(), append(header, asForm)...)
	}
	google := "Origin: " + h.house.URL
	for name, a := range map[string]answer{
		"no cookie":         form("p", "", google),
		"another proof":     form("p", "g_csrf_token=q", google),
		"no proof":          form("", "g_csrf_token=", google),
		"two cookies":       form("p", "g_csrf_token=p; g_csrf_token=q", google),
		"from another site": form("p", "g_csrf_token=p", "Origin: https://evil.example"),
	} {
		if a.StatusCode != http.StatusForbidden {
			t.Errorf("%s = %d %s, want 403", name, a.StatusCode, a.body)
		}
	}
	if a := form("p", "g_csrf_token=p", google, navigate); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/x" {
		t.Errorf("a good form = %d to %q %s", a.StatusCode, a.Header.Get("Location"), a.body)
	}
	noAccess := regexp.MustCompile(`eyJ[\w-]+\.eyJ[\w-]+`).FindString(h.said.String())
	if noAccess != "" {
		t.Error("a credential was answered or logged")
	}
}

func TestStrictCookieAfterAProvider(t *testing.T) {
	h := newHouses(t, func(s *settings.Settings) { s.CookieSameSite = "strict" })
	b := h.browser()
	b.signInAtStrict("house", h.house)
	first := b.deviceIDs()
	b.signInAtStrict("house", h.house)
	if again := b.deviceIDs(); len(again) != 1 || again[0] != first[0] {
		t.Errorf("the device is %v, was %v", again, first)
	}
}

// signInAtStrict goes the way of a browser that has SameSite=Strict cookies: the
// first answer to the return is a page that leads on.
func (b *browser) signInAtStrict(name string, p *oidctest.Server) {
	b.s.Helper()
	answer := p.Authorize(b.s, b.begin(name, "/x"))
	a := b.back(name, answer)
	_, address, _ := strings.Cut(a.Header.Get("Refresh"), "0; url=")
	if a.StatusCode != http.StatusOK || !strings.HasPrefix(address, "/auth/callback/"+name) {
		b.s.Fatalf("the return = %d %v", a.StatusCode, a.Header)
	}
	if a = b.get(address, navigate, fromUs); a.StatusCode != http.StatusSeeOther || a.Header.Get("Location") != "/x" {
		b.s.Fatalf("the second half of the return = %d %s", a.StatusCode, a.body)
	}
}
