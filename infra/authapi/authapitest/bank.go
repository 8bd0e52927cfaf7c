package authapitest

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"time"
)

// bank holds the accounts and tokens. The server's lock guards it.
type bank struct {
	accounts    map[string]*account // by email in lower case
	refresh     map[string]*refreshToken
	access      map[string]accessToken
	issued      []string
	revocations []Revocation
	thefts      int
}

type account struct {
	subject, email, password string
	roles                    []string
	disabled                 bool
}

// family is all tokens that come from one sign-in.
type family struct {
	account *account
	dead    bool
}

type refreshToken struct {
	family  *family
	expires time.Time // zero: never
	spent   time.Time // zero: not yet
	answer  Reply     // the successor, once it is spent
}

type accessToken struct {
	family  *family
	expires time.Time
}

func newBank() bank {
	return bank{
		accounts: map[string]*account{},
		refresh:  map[string]*refreshToken{},
		access:   map[string]accessToken{},
	}
}

func (b *bank) open(email, password string, roles []string) *account {
	a := &account{
		subject:  fmt.Sprintf("subject-%d", len(b.accounts)+1),
		email:    strings.ToLower(email),
		password: password,
		roles:    roles,
	}
	b.accounts[a.email] = a
	return a
}

func (b *bank) disable(email string) {
	if a := b.accounts[strings.ToLower(email)]; a != nil {
		a.disabled = true
	}
}

func (b *bank) register(email, password string) Reply {
	switch {
	case email == "" || password == "":
		return refusal(http.StatusUnprocessableEntity, "", "Email and password are required")
	case b.accounts[strings.ToLower(email)] != nil:
		return refusal(http.StatusConflict, "", "Email is registered already")
	}
	b.open(email, password, nil)
	return reply(http.StatusCreated, map[string]any{"message": "Registered"})
}

func (b *bank) signIn(o Options, email, password string) (r Reply, granted bool) {
	a := b.accounts[strings.ToLower(email)]
	switch {
	case a == nil || a.password != password:
		return refusal(http.StatusUnauthorized, "", "Wrong email or password"), false
	case a.disabled:
		return refusal(http.StatusForbidden, "", "This account is disabled"), false
	}
	return b.grant(o, &family{account: a}, true), true
}

func (b *bank) renew(o Options, token string) (r Reply, granted bool) {
	now := o.Now()
	old := b.refresh[token]
	switch {
	case old == nil, old.family.over(), !old.expires.IsZero() && !now.Before(old.expires):
		return deadToken(), false
	case old.spent.IsZero():
		if o.KeepRefresh {
			return b.grant(o, old.family, false), true
		}
		old.spent, old.answer = now, b.grant(o, old.family, true)
		return old.answer, true
	case now.Before(old.spent.Add(o.ReuseWindow)):
		return old.answer, false
	}
	// Somebody has a copy: who of the two is honest cannot be known.
	old.family.dead = true
	b.thefts++
	return deadToken(), false
}

// revoke answers 200 for a token that is none, too (RFC 7009, section 2.2).
func (b *bank) revoke(refresh, access string) Reply {
	b.revocations = append(b.revocations, Revocation{Refresh: refresh, Access: access})
	if t := b.refresh[refresh]; t != nil {
		t.family.dead = true
	}
	return reply(http.StatusOK, map[string]any{"message": "Logged out"})
}

func (b *bank) valid(token string, now time.Time) bool {
	t, known := b.access[token]
	return known && !t.family.over() && now.Before(t.expires)
}

func (f *family) over() bool { return f.dead || f.account.disabled }

func (b *bank) grant(o Options, f *family, withRefresh bool) Reply {
	now := o.Now()
	access := newAccessToken(o, f.account, now)
	b.access[access] = accessToken{family: f, expires: now.Add(o.AccessLife)}
	b.issued = append(b.issued, access)

	answer := map[string]any{"access_token": access, "token_type": "bearer"}
	var stated any = o.AccessLife.Seconds()
	if o.ExpiresIn != nil {
		stated = o.ExpiresIn(o.AccessLife)
	}
	if stated != nil {
		answer["expires_in"] = stated
	}
	if withRefresh {
		token := "refresh-" + rand.Text()
		t := &refreshToken{family: f}
		if o.RefreshLife != 0 {
			t.expires = now.Add(o.RefreshLife)
			answer["refresh_expires_in"] = o.RefreshLife.Seconds()
		}
		b.refresh[token] = t
		b.issued = append(b.issued, token)
		answer["refresh_token"] = token
	}
	return reply(http.StatusOK, answer)
}

func newAccessToken(o Options, a *account, now time.Time) string {
	if o.Opaque {
		return "access-" + rand.Text()
	}
	claims := map[string]any{
		"sub":   a.subject,
		"email": a.email,
		"iat":   numericDate(now),
		"exp":   numericDate(now.Add(o.AccessLife)),
		"jti":   rand.Text(),
	}
	if len(a.roles) > 0 {
		claims["roles"] = a.roles
	}
	maps.Copy(claims, o.Claims)
	return JWT(claims)
}

// numericDate keeps the milliseconds, for tokens that live less than a second.
func numericDate(t time.Time) float64 { return float64(t.UnixMilli()) / 1000 }

// JWT makes a token of claims, signed with a key that nobody needs to know.
func JWT(claims map[string]any) string {
	encode := base64.RawURLEncoding.EncodeToString
	text := encode([]byte(`{"alg":"HS256","typ":"JWT"}`)) + "." + encode(marshal(claims))
	mac := hmac.New(sha256.New, []byte("the tests' key"))
	mac.Write([]byte(text))
	return text + "." + encode(mac.Sum(nil))
}

func marshal(v any) []byte {
	text, err := json.Marshal(v)
	if err != nil {
		panic(err) // a test has put something into its options that JSON cannot say
	}
	return text
}

func bearer(r *http.Request) string {
	token, _ := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	return token
}
