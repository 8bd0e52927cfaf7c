package authapi

import (
	"encoding/base64"
	"encoding/json"
	"slices"
	"strings"
	"unicode"

	"cloakroom/domain"
)

// identity tells who signed in: by the claims of the access token if it is a
// JWT, else by the address that was typed.
//
// The token's signature is not checked. It came straight from the auth server
// that the settings name, over TLS or loopback, in answer to our own request;
// nobody else had it in hand, so its signature would prove nothing that the
// connection has not. OpenID Connect Core 1.0, section 3.1.3.7, item 6, allows
// the same for an ID token. Tokens that arrive any other way need the check.
//
// The email counts as verified if the token says so. If it says nothing, the
// address that was typed counts only if trusted says that the server's accounts
// all have addresses that it has verified. Another address in the token does not
// even then, nor does a user name. The subject falls back to the address in lower
// case, so that one account stays one owner however it is typed.
func identity(access domain.Secret, typed string, trusted bool) domain.Identity {
	typed = strings.ToLower(strings.TrimSpace(typed))
	c := claimsOf(access.Reveal())

	who := domain.Identity{
		Subject: c.subject(),
		Email:   strings.ToLower(c.text("email")),
		Name:    c.text("name"),
		Roles:   c.roles(),
	}
	if who.Subject == "" {
		who.Subject = typed
	}
	if who.Email == "" {
		who.Email = typed
	}
	verified, stated := c.flag("email_verified")
	if !stated {
		verified = trusted && who.Email == typed
	}
	who.EmailVerified = verified && strings.Contains(who.Email, "@")
	return who
}

// claims are the payload of a JWT. A claim that has control characters or
// another type than it should have counts as absent.
type claims map[string]json.RawMessage

func claimsOf(token string) claims {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var c claims
	if json.Unmarshal(payload, &c) != nil {
		return nil
	}
	return c
}

func (c claims) text(name string) string {
	s, _ := text(c[name])
	return printed(s)
}

// subject reads sub, which RFC 7519 makes a string and many servers the
// number of a row.
func (c claims) subject() string {
	if s := c.text("sub"); s != "" {
		return s
	}
	var n json.Number
	if json.Unmarshal(c["sub"], &n) != nil {
		return ""
	}
	return printed(n.String())
}

// flag reads a boolean, which some servers send as a string.
func (c claims) flag(name string) (value, stated bool) {
	if json.Unmarshal(c[name], &value) == nil && string(c[name]) != "null" {
		return value, true
	}
	switch c.text(name) {
	case "true":
		return true, true
	case "false":
		return false, true
	}
	return false, false
}

func (c claims) roles() []string {
	var roles []string
	for _, name := range []string{"role", "roles", "groups"} {
		several := []json.RawMessage{c[name]}
		if list := []json.RawMessage(nil); json.Unmarshal(c[name], &list) == nil {
			several = list
		}
		for _, raw := range several {
			role, _ := text(raw)
			if role = printed(role); role != "" && !slices.Contains(roles, role) {
				roles = append(roles, role)
			}
		}
	}
	return roles
}

func printed(s string) string {
	if strings.ContainsFunc(s, unicode.IsControl) {
		return ""
	}
	return s
}
