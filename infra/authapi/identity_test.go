package authapi_test

import (
	"encoding/base64"
	"fmt"
	"reflect"
	"testing"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/authapi/authapitest"
)

func TestIdentity(t *testing.T) {
	type claims = map[string]any
	byEmail := domain.Identity{Subject: "ann@example.com", Email: "ann@example.com", EmailVerified: true}
	for name, tc := range map[string]struct {
		token string
		want  domain.Identity
	}{
		"all claims": {
			authapitest.JWT(claims{"sub": "42-Ä", "email": "Ann@example.COM", "email_verified": true, "name": "Ann Ä",
				"role": "admin", "roles": []string{"staff", "admin"}, "groups": []any{"ops", 7, ""}}),
			domain.Identity{Subject: "42-Ä", Email: "ann@example.com", EmailVerified: true, Name: "Ann Ä", Roles: []string{"admin", "staff", "ops"}},
		},
		"sub alone":               {authapitest.JWT(claims{"sub": "s"}), domain.Identity{Subject: "s", Email: "ann@example.com", EmailVerified: true}},
		"sub is a number":         {authapitest.JWT(claims{"sub": 12345678}), domain.Identity{Subject: "12345678", Email: "ann@example.com", EmailVerified: true}},
		"same email":              {authapitest.JWT(claims{"sub": "s", "email": "ANN@example.com"}), domain.Identity{Subject: "s", Email: "ann@example.com", EmailVerified: true}},
		"other email":             {authapitest.JWT(claims{"sub": "s", "email": "bob@example.com"}), domain.Identity{Subject: "s", Email: "bob@example.com"}},
		"other email, verified":   {authapitest.JWT(claims{"sub": "s", "email": "bob@example.com", "email_verified": "true"}), domain.Identity{Subject: "s", Email: "bob@example.com", EmailVerified: true}},
		"same email, unverified":  {authapitest.JWT(claims{"sub": "s", "email": "ann@example.com", "email_verified": false}), domain.Identity{Subject: "s", Email: "ann@example.com"}},
		"unverified, as a string": {authapitest.JWT(claims{"sub": "s", "email_verified": "false"}), domain.Identity{Subject: "s", Email: "ann@example.com"}},
		"verified is null":        {authapitest.JWT(claims{"sub": "s", "email_verified": nil}), domain.Identity{Subject: "s", Email: "ann@example.com", EmailVerified: true}},
		"roles is a string":       {authapitest.JWT(claims{"sub": "s", "roles": "admin"}), domain.Identity{Subject: "s", Email: "ann@example.com", EmailVerified: true, Roles: []string{"admin"}}},
		"no claims":               {authapitest.JWT(claims{}), byEmail},
		"wrong types":             {authapitest.JWT(claims{"sub": []int{1}, "email": 1, "name": true, "roles": claims{}, "email_verified": 1}), byEmail},
		"control characters":      {authapitest.JWT(claims{"sub": "a\nb", "name": "x\x1b[2J", "role": "a\r\nb"}), byEmail},
		"opaque":                  {"opaque-token", byEmail},
		"three parts, no base64":  {"a.*.c", byEmail},
		"three parts, no JSON":    {"a." + base64.RawURLEncoding.EncodeToString([]byte("no")) + ".c", byEmail},
	} {
		t.Run(name, func(t *testing.T) {
			s := newServer(t)
			s.Always(authapitest.LoginPath, authapitest.Answer(200, fmt.Sprintf(`{"access_token":%q}`, tc.token)))
			who, _, err := newClient(t, s.URL, trustEmail).SignIn(t.Context(), person)
			if err != nil || !reflect.DeepEqual(who, tc.want) {
				t.Errorf("got %+v, %v, want %+v", who, err, tc.want)
			}
		})
	}
}

func trustEmail(c *authapi.Config) { c.TrustEmail = true }

// R6: unless the settings vouch for the auth server, an address counts only where
// the token says that it was verified.
func TestR6_TypedEmailIsNotVerified(t *testing.T) {
	s := newServer(t)
	for token, want := range map[string]bool{
		"opaque": false,
		authapitest.JWT(map[string]any{"sub": "42"}):                         false,
		authapitest.JWT(map[string]any{"sub": "42", "email_verified": true}): true,
	} {
		s.Always(authapitest.LoginPath, authapitest.Answer(200, fmt.Sprintf(`{"access_token":%q}`, token)))
		who, _, err := newClient(t, s.URL).SignIn(t.Context(), person)
		if err != nil || who.Email != "ann@example.com" || who.EmailVerified != want {
			t.Errorf("with a token of %d bytes: %+v, %v, want verified %v", len(token), who, err, want)
		}
	}
}

// R6: a user name is no email address, and no address that only the person
// claims is one to go by.
func TestR6_UserNameIsNoVerifiedEmail(t *testing.T) {
	s := newServer(t)
	s.Always(authapitest.LoginPath, authapitest.Answer(200, `{"access_token":"opaque"}`))
	who, _, err := newClient(t, s.URL, trustEmail).SignIn(t.Context(), domain.Credentials{Email: " John_Doe ", Password: domain.NewSecret("p")})
	want := domain.Identity{Subject: "john_doe", Email: "john_doe"}
	if err != nil || !reflect.DeepEqual(who, want) {
		t.Errorf("got %+v, %v, want %+v", who, err, want)
	}
}
