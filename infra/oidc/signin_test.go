package oidc_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

const redirectURI = "https://app.example/auth/callback/test"

// provider returns the client of s, with changes to its settings.
func provider(t *testing.T, s *oidctest.Server, changes ...func(*oidc.Config)) *oidc.Provider {
	t.Helper()
	c := oidc.Config{
		Name: "test", Issuer: s.URL, ClientID: oidctest.ClientID, ClientSecret: domain.NewSecret(oidctest.ClientSecret),
		Timeout: 5 * time.Second,
	}
	for _, change := range changes {
		change(&c)
	}
	p, err := oidc.New(c)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.Close)
	return p
}

// patience is little where a test waits for its end.
func patience(little bool) func(*oidc.Config) {
	return func(c *oidc.Config) {
		if little {
			c.Timeout = 100 * time.Millisecond
		}
	}
}

// begin starts a sign-in and returns what the browser comes back with.
func begin(t *testing.T, s *oidctest.Server, p *oidc.Provider, r domain.AuthRequest) (url.Values, domain.Transaction) {
	t.Helper()
	r.RedirectURI = redirectURI
	address, tx, err := p.Begin(t.Context(), r)
	if err != nil {
		t.Fatal(err)
	}
	return s.Authorize(t, address), tx
}

// signIn goes through a whole sign-in.
func signIn(t *testing.T, s *oidctest.Server, p *oidc.Provider) (domain.Authentication, error) {
	t.Helper()
	back, tx := begin(t, s, p, domain.AuthRequest{})
	return finish(t, p, back, tx)
}

func finish(t *testing.T, p *oidc.Provider, back url.Values, tx domain.Transaction) (domain.Authentication, error) {
	t.Helper()
	callback, err := oidc.ParseCallback(back)
	if err != nil {
		return domain.Authentication{}, err
	}
	return p.Finish(t.Context(), callback, tx)
}

func reason(err error) domain.SignInReason {
	var failure *domain.SignInFailure
	if !errors.As(err, &failure) {
		return ""
	}
	return failure.Reason
}

func TestSignIn(t *testing.T) {
	s := oidctest.New(t)
	s.Answer(func(a map[string]any) { a["scope"] = "openid email" })
	s.Claims(func(c map[string]any) {
		c["roles"] = []any{"admin", "staff", 7, "admin"}
		c["acr"], c["amr"] = "gold", []string{"pwd", "otp"}
	})
	got, err := signIn(t, s, provider(t, s))
	if err != nil {
		t.Fatal(err)
	}
	if got.Issuer != s.URL || got.Identity.Subject != oidctest.Subject || got.Identity.Email != "ann@example.com" || !got.Identity.EmailVerified || got.Identity.Name != "Ann" {
		t.Errorf("signed in %s %+v", got.Issuer, got.Identity)
	}
	if !slices.Equal(got.Identity.Roles, []string{"admin", "staff"}) {
		t.Errorf("roles are %q", got.Identity.Roles)
	}
	if got.SID != "session-1" || got.ACR != "gold" || !slices.Equal(got.AMR, []string{"pwd", "otp"}) || time.Since(got.AuthTime) > time.Minute {
		t.Errorf("the session is %q, %q, %q, %v", got.SID, got.ACR, got.AMR, got.AuthTime)
	}
	g := got.Grant
	if !strings.HasPrefix(g.Access.Reveal(), "access-") || !strings.HasPrefix(g.Refresh.Reveal(), "refresh-") || g.ID.Empty() ||
		g.AccessLife != 5*time.Minute || g.RefreshLife != 30*time.Minute || g.TokenType != "Bearer" || g.Scope != "openid email" || !got.DPoPKey.Empty() {
		t.Errorf("the grant is %+v", g)
	}
}

// TestR2_TransactionIsFreshAndBound: PKCE with S256, state, nonce and verifier
// are new each time, and an answer is good for its own transaction alone.
// Authorize checks the request itself.
func TestR2_TransactionIsFreshAndBound(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	back, tx := begin(t, s, p, domain.AuthRequest{})
	_, other := begin(t, s, p, domain.AuthRequest{})
	for name, pair := range map[string][2]string{
		"state": {tx.State, other.State}, "nonce": {tx.Nonce, other.Nonce}, "verifier": {tx.Verifier, other.Verifier},
	} {
		if pair[0] == pair[1] || len(pair[0]) < 43 {
			t.Errorf("two transactions have the %s %q and %q", name, pair[0], pair[1])
		}
	}

	late := tx
	late.Started = tx.Started.Add(-oidc.TransactionLife - time.Second)
	swapped := other
	swapped.State = tx.State
	for name, c := range map[string]struct {
		tx   domain.Transaction
		back url.Values
		want domain.SignInReason
	}{
		"no transaction":           {domain.Transaction{}, back, domain.SignInMismatch},
		"another's transaction":    {other, back, domain.SignInMismatch},
		"no state":                 {tx, without(back, "state"), domain.SignInMismatch},
		"the state twice":          {tx, twice(back, "state"), domain.SignInMismatch},
		"no code":                  {tx, without(back, "code"), domain.SignInMismatch},
		"a huge code":              {tx, replaced(back, "code", strings.Repeat("c", 1<<20)), domain.SignInMismatch},
		"too late":                 {late, back, domain.SignInTooLate},
		"another's code verifier":  {swapped, back, domain.SignInTooLate},
		"an error, unasked for":    {other, url.Values{"error": {"access_denied"}, "state": {tx.State}, "iss": {s.URL}}, domain.SignInMismatch},
		"an error with our state":  {other, url.Values{"error": {"access_denied"}, "state": {other.State}, "iss": {s.URL}}, domain.SignInDeclined},
		"interaction with prompt=": {other, url.Values{"error": {"login_required"}, "state": {other.State}, "iss": {s.URL}}, domain.SignInInteraction},
		"the provider is busy":     {other, url.Values{"error": {"temporarily_unavailable"}, "state": {other.State}, "iss": {s.URL}}, domain.SignInUnavailable},
		"the broker's own mistake": {other, url.Values{"error": {"invalid_scope"}, "state": {other.State}, "iss": {s.URL}}, domain.SignInRefused},
		"an error of no standard":  {other, url.Values{"error": {"<script>"}, "state": {other.State}, "iss": {s.URL}}, domain.SignInRefused},
	} {
		before := len(s.Requests(oidctest.TokenPath))
		_, err := finish(t, p, c.back, c.tx)
		if got := reason(err); got != c.want {
			t.Errorf("%s: %v, want the reason %q", name, err, c.want)
		}
		if asked := len(s.Requests(oidctest.TokenPath)) - before; asked != 0 && name != "another's code verifier" {
			t.Errorf("%s: a code was handed over all the same", name)
		}
		if err != nil && strings.Contains(err.Error(), "<script>") {
			t.Errorf("%s: the error repeats the answer: %v", name, err)
		}
	}

	// Single use. "another's code verifier" has spent the first code.
	back, tx = begin(t, s, p, domain.AuthRequest{})
	if _, err := finish(t, p, back, tx); err != nil {
		t.Fatal(err)
	}
	if _, err := finish(t, p, back, tx); reason(err) != domain.SignInTooLate || !errors.Is(err, domain.ErrBadInput) || errors.Is(err, domain.ErrInvalidGrant) {
		t.Errorf("the same answer a second time: %v", err)
	}
}

func without(v url.Values, name string) url.Values { v = maps.Clone(v); delete(v, name); return v }
func replaced(v url.Values, name, value string) url.Values {
	v = maps.Clone(v)
	v[name] = []string{value}
	return v
}
func twice(v url.Values, name string) url.Values {
	return maps.Collect(func(yield func(string, []string) bool) {
		for n, values := range v {
			if n == name {
				values = append(slices.Clone(values), values...)
			}
			if !yield(n, values) {
				return
			}
		}
	})
}

// TestR5_AnswerOfAnotherProvider is RFC 9207's mix-up defence.
func TestR5_AnswerOfAnotherProvider(t *testing.T) {
	for name, c := range map[string]struct {
		iss, issuer string
		sends       any
		want        domain.SignInReason
	}{
		"it says so":                         {iss: "https://evil.example", sends: true, want: domain.SignInMismatch},
		"it says so, unannounced":            {iss: "https://evil.example", sends: false, want: domain.SignInMismatch},
		"it says nothing, though it would":   {sends: true, want: domain.SignInMismatch},
		"it says nothing, as it always does": {sends: false},
	} {
		s := oidctest.New(t)
		s.Document(func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = c.sends })
		p := provider(t, s)
		back, tx := begin(t, s, p, domain.AuthRequest{})
		back = without(back, "iss")
		if c.iss != "" {
			back.Set("iss", c.iss)
		}
		if _, err := finish(t, p, back, tx); reason(err) != c.want || c.want == "" && err != nil {
			t.Errorf("%s: %v, want the reason %q", name, err, c.want)
		}
		if n := len(s.Requests(oidctest.TokenPath)); c.want != "" && n != 0 {
			t.Errorf("%s: a code was handed over all the same", name)
		}
	}

	one, two := oidctest.New(t), oidctest.New(t)
	two.Document(func(d map[string]any) { d["authorization_response_iss_parameter_supported"] = false })
	first := provider(t, one, func(c *oidc.Config) { c.Name = "one" })
	second := provider(t, two, func(c *oidc.Config) { c.Name = "two" })
	back, tx := begin(t, one, first, domain.AuthRequest{})
	if _, err := finish(t, second, without(back, "iss"), tx); reason(err) != domain.SignInMismatch {
		t.Errorf("an answer to one provider's transaction at another's callback: %v", err)
	}
	if n := len(two.Requests(oidctest.TokenPath)); n != 0 {
		t.Error("one provider's code was handed to another")
	}
	if _, err := oidc.ParseCallback(url.Values{"code": {"c"}, "state": {"s"}, "iss": {one.URL, two.URL}}); reason(err) != domain.SignInMismatch {
		t.Errorf("an answer of two providers: %v", err)
	}
}

// TestR6_EmailIsAnAttribute: whom a provider signs in is told by issuer and
// subject, and an email that it does not vouch for is not verified.
func TestR6_EmailIsAnAttribute(t *testing.T) {
	for name, c := range map[string]struct {
		change   func(map[string]any)
		config   func(*oidc.Config)
		email    string
		verified bool
	}{
		"it says verified":           {email: "ann@example.com", verified: true},
		"it says so in a string":     {change: func(c map[string]any) { c["email_verified"] = "true" }, email: "ann@example.com", verified: true},
		"it says not":                {change: func(c map[string]any) { c["email_verified"] = false }, email: "ann@example.com"},
		"it says nothing":            {change: func(c map[string]any) { delete(c, "email_verified") }, email: "ann@example.com"},
		"it says something else":     {change: func(c map[string]any) { c["email_verified"] = []any{true} }, email: "ann@example.com"},
		"it is trusted with emails":  {change: func(c map[string]any) { delete(c, "email_verified") }, config: func(c *oidc.Config) { c.TrustEmail = true }, email: "ann@example.com", verified: true},
		"no email":                   {change: func(c map[string]any) { delete(c, "email") }},
		"no email, trusted":          {change: func(c map[string]any) { delete(c, "email") }, config: func(c *oidc.Config) { c.TrustEmail = true }},
		"an email that is none":      {change: func(c map[string]any) { c["email"] = "root" }},
		"an email with a line break": {change: func(c map[string]any) { c["email"] = "a@example.com\nb@example.com" }},
		"a huge email":               {change: func(c map[string]any) { c["email"] = strings.Repeat("a", 300) + "@example.com" }},
		"Entra's own claim": {
			change: func(c map[string]any) { c["xms_edov"] = "1"; delete(c, "email_verified") },
			config: func(c *oidc.Config) { preset, _ := oidc.Preset("entra"); c.Claims = preset.Claims }, email: "ann@example.com", verified: true,
		},
	} {
		s := oidctest.New(t)
		if c.change != nil {
			s.Claims(c.change)
		}
		if c.config == nil {
			c.config = func(*oidc.Config) {}
		}
		got, err := signIn(t, s, provider(t, s, c.config))
		if err != nil || got.Identity.Email != c.email || got.Identity.EmailVerified != c.verified {
			t.Errorf("%s: %q, verified %v, %v", name, got.Identity.Email, got.Identity.EmailVerified, err)
		}
		if got.Issuer != s.URL || got.Identity.Subject != oidctest.Subject {
			t.Errorf("%s: the owner is %s %s", name, got.Issuer, got.Identity.Subject)
		}
	}
}

func TestClaimsAreFoundByNameOrPath(t *testing.T) {
	s := oidctest.New(t)
	s.Claims(func(c map[string]any) {
		c["realm_access"] = map[string]any{"roles": []string{"a", "b"}}
		c["https://app.example/roles"] = "c"
		c["resource_access"] = map[string]any{"my.app": map[string]any{"roles": []string{"d"}}}
		c["upn"] = "Bob@example.org"
		c["name"] = "Bob"
		c["huge"] = slices.Repeat([]string{"x"}, 1000)
	})
	got, err := signIn(t, s, provider(t, s, func(c *oidc.Config) {
		c.Claims = oidc.Claims{Email: "upn", Roles: []string{"realm_access.roles", "https://app.example/roles", "resource_access.my.app.roles", "huge", "absent.path", "name.x"}}
	}))
	if err != nil {
		t.Fatal(err)
	}
	if got.Identity.Email != "bob@example.org" || !slices.Equal(got.Identity.Roles, []string{"a", "b", "c", "d", "x"}) || got.Identity.Name != "Bob" {
		t.Errorf("signed in %+v", got.Identity)
	}
}

func TestUserInfo(t *testing.T) {
	s := oidctest.New(t)
	s.Claims(func(c map[string]any) { delete(c, "email"); c["email_verified"] = true })
	asking := func(c *oidc.Config) { c.UserInfo = true }
	got, err := signIn(t, s, provider(t, s, asking))
	if err != nil || got.Identity.Email != "ann@example.com" || !got.Identity.EmailVerified || !slices.Equal(got.Identity.Roles, []string{"staff"}) || got.Identity.Name != "Ann" {
		t.Errorf("signed in %+v, %v", got.Identity, err)
	}
	if asked := s.Requests(oidctest.UserInfoPath); len(asked) != 1 || asked[0].Header.Get("Authorization") != "Bearer "+got.Grant.Access.Reveal() {
		t.Errorf("userinfo was asked %d times", len(asked))
	}

	known := 0 // revocations
	for name, c := range map[string]struct {
		answer http.HandlerFunc
		want   domain.SignInReason
	}{
		"somebody else": {func(w http.ResponseWriter, _ *http.Request) { oidctest.Reply(w, 200, map[string]any{"sub": "user-2"}) }, domain.SignInRefused},
		"nobody":        {func(w http.ResponseWriter, _ *http.Request) { oidctest.Reply(w, 200, map[string]any{}) }, domain.SignInRefused},
		"a page":        {func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<html>") }, domain.SignInRefused},
		"out of order":  {func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(503) }, domain.SignInUnavailable},
		"somewhere else": {func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/userinfo", http.StatusTemporaryRedirect)
		}, domain.SignInRefused},
		"an unvouched for": {func(w http.ResponseWriter, _ *http.Request) {
			oidctest.Reply(w, 200, map[string]any{"sub": oidctest.Subject, "email": "x@example.com"})
		}, ""},
	} {
		s.Handle(oidctest.UserInfoPath, c.answer)
		got, err := signIn(t, s, provider(t, s, asking))
		if reason(err) != c.want || got.Identity.EmailVerified {
			t.Errorf("%s: %+v, %v, want the reason %q", name, got.Identity, err, c.want)
		}
		// Tokens that nobody will use do not live on, unless the person may go on by
		// the same grant.
		revoked := s.Requests(oidctest.RevokePath)[known:]
		known += len(revoked)
		if (len(revoked) == 1) != (c.want == domain.SignInRefused) || len(revoked) == 1 && !strings.HasPrefix(revoked[0].Form.Get("token"), "refresh-") {
			t.Errorf("%s: %d tokens were revoked", name, len(revoked))
		}
	}
}

// TestUserInfoVouchesForItsOwnEmail also where the address is inside an object.
func TestUserInfoVouchesForItsOwnEmail(t *testing.T) {
	s := oidctest.New(t)
	s.Handle(oidctest.UserInfoPath, func(w http.ResponseWriter, _ *http.Request) {
		oidctest.Reply(w, 200, map[string]any{"sub": oidctest.Subject, "contact": map[string]any{"email": "victim@example.com"}})
	})
	got, err := signIn(t, s, provider(t, s, func(c *oidc.Config) { c.UserInfo, c.Claims.Email = true, "contact.email" }))
	if err != nil || got.Identity.Email != "victim@example.com" || got.Identity.EmailVerified {
		t.Errorf("signed in %+v, %v; want an address that nobody vouches for", got.Identity, err)
	}
}

func TestAuthorizationRequest(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s, func(c *oidc.Config) {
		c.Scopes, c.Prompt, c.AuthParams = []string{"email"}, "consent", map[string]string{"audience": "api"}
	})
	address, tx, err := p.Begin(t.Context(), domain.AuthRequest{RedirectURI: redirectURI, Prompt: "login", MaxAge: 1500 * time.Millisecond, LoginHint: "ann@example.com"})
	if err != nil {
		t.Fatal(err)
	}
	s.Authorize(t, address)
	u, _ := url.Parse(address)
	for name, want := range map[string]string{
		"scope": "openid email", "prompt": "login", "audience": "api", "max_age": "2", "login_hint": "ann@example.com", "redirect_uri": redirectURI,
	} {
		if got := u.Query().Get(name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	for _, secret := range []string{tx.Verifier} {
		if strings.Contains(address, secret) {
			t.Error("the address holds the verifier")
		}
	}
}

func TestMaxAge(t *testing.T) {
	for name, c := range map[string]struct {
		change func(map[string]any)
		age    time.Duration
		want   domain.SignInReason
	}{
		"just now":           {func(map[string]any) {}, time.Minute, ""},
		"long ago, unasked":  {func(c map[string]any) { c["auth_time"] = time.Now().Add(-time.Hour).Unix() }, 0, ""},
		"long ago":           {func(c map[string]any) { c["auth_time"] = time.Now().Add(-time.Hour).Unix() }, time.Minute, domain.SignInTooOld},
		"it does not say":    {func(c map[string]any) { delete(c, "auth_time") }, time.Minute, domain.SignInTooOld},
		"it says it oddly":   {func(c map[string]any) { c["auth_time"] = "now" }, time.Minute, domain.SignInTooOld},
		"it says it hugely":  {func(c map[string]any) { c["auth_time"] = 1e300 }, time.Minute, domain.SignInTooOld},
		"unasked and unsaid": {func(c map[string]any) { delete(c, "auth_time") }, 0, ""},
	} {
		s := oidctest.New(t)
		s.Claims(c.change)
		p := provider(t, s)
		back, tx := begin(t, s, p, domain.AuthRequest{MaxAge: c.age})
		if _, err := finish(t, p, back, tx); reason(err) != c.want {
			t.Errorf("%s: %v, want the reason %q", name, err, c.want)
		}
		// The person may go on by the same grant.
		if n := len(s.Requests(oidctest.RevokePath)); n > 0 {
			t.Errorf("%s: %d tokens were revoked", name, n)
		}
	}
}

// TestR8_NothingIsPrinted: a transaction, and the error of a provider that
// repeats what it was sent, show no secret.
func TestR8_NothingIsPrinted(t *testing.T) {
	s := oidctest.New(t)
	p := provider(t, s)
	_, tx := begin(t, s, p, domain.AuthRequest{})
	var out strings.Builder
	fmt.Fprintf(&out, "%v %+v %#v %s %q %x", tx, tx, tx, tx, &tx, []any{tx})
	slog.New(slog.NewJSONHandler(&out, nil)).Info("m", "tx", tx)

	for _, body := range []string{`{"error":"invalid_grant","error_description":"no refresh-leak"}`, `{"error":"refresh-leak"}`, "refresh-leak", `{"access_token": 7, "x": "refresh-leak"}`} {
		for _, status := range []int{200, 400, 401, 500} {
			s.Handle(oidctest.TokenPath, func(w http.ResponseWriter, r *http.Request) {
				w.Header().Set("Content-Type", "application/json")
				w.WriteHeader(status)
				fmt.Fprint(w, body)
			})
			_, err := p.Refresh(t.Context(), domain.Renewal{Refresh: domain.NewSecret("refresh-leak")})
			if err == nil {
				t.Errorf("%d %s is taken for a grant", status, body)
			}
			fmt.Fprintf(&out, "%v %+v", err, err)
		}
	}
	for _, leak := range []string{"refresh-leak", tx.State, tx.Nonce, tx.Verifier, oidctest.ClientSecret} {
		if strings.Contains(out.String(), leak) {
			t.Errorf("%q was printed", leak)
		}
	}
	sealed, err := json.Marshal(tx)
	var back domain.Transaction
	if err != nil || json.Unmarshal(sealed, &back) != nil || back != tx {
		t.Errorf("a transaction does not survive JSON: %v", err)
	}
}
