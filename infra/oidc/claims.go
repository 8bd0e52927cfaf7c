package oidc

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"maps"
	"math"
	"slices"
	"strings"
	"time"
	"unicode"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"cloakroom/domain"
)

const (
	longestEmail = 254 // RFC 5321, section 4.5.3.1.3, less the brackets
	maxRoles     = 100 // of a person; more are left out, the last first
	maxList      = 16  // of other lists
)

// claims are what a token says, by the exact names. A claim that has control
// characters or another type than it should have counts as absent.
type claims map[string]json.RawMessage

// decodeObject reads one part of a JWT.
func decodeObject(part string) (claims, bool) {
	raw, err := base64.RawURLEncoding.DecodeString(part)
	if err != nil {
		return nil, false
	}
	var c claims
	return c, json.Unmarshal(raw, &c) == nil && c != nil
}

func (c claims) has(name string) bool { _, ok := c[name]; return ok }

// at returns the claim of that name, or else what is at that path.
func (c claims) at(path string) json.RawMessage {
	if raw, ok := c[path]; ok {
		return raw
	}
	for i := range path {
		var inner claims // whose name may have dots as well
		if path[i] == '.' && json.Unmarshal(c[path[:i]], &inner) == nil {
			if raw := inner.at(path[i+1:]); raw != nil {
				return raw
			}
		}
	}
	return nil
}

func (c claims) text(path string) string {
	s, _ := text(c.at(path))
	return s
}

func text(raw json.RawMessage) (string, bool) {
	var s string
	if json.Unmarshal(raw, &s) != nil || strings.ContainsFunc(s, unicode.IsControl) {
		return "", false
	}
	return s, true
}

// short is the text of a claim that is kept, unless it is too long for that.
func (c claims) short(name string) string {
	if s := c.text(name); len(s) <= maxName {
		return s
	}
	return ""
}

// list reads a list of texts.
func (c claims) list(name string) []string {
	var items []json.RawMessage
	if json.Unmarshal(c.at(name), &items) != nil {
		return nil
	}
	return texts(nil, items, maxList)
}

// texts appends the items that are bearable texts and not there yet.
func texts(list []string, items []json.RawMessage, most int) []string {
	for _, raw := range items {
		if s, _ := text(raw); s != "" && len(s) <= maxName && len(list) < most && !slices.Contains(list, s) {
			list = append(list, s)
		}
	}
	return list
}

// time reads a NumericDate (RFC 7519, section 2).
func (c claims) time(name string) (time.Time, bool) {
	var seconds float64
	if !c.has(name) || string(c[name]) == "null" || json.Unmarshal(c[name], &seconds) != nil || seconds <= 0 || seconds > math.MaxInt32*16 {
		return time.Time{}, false
	}
	return time.UnixMilli(int64(seconds * 1000)).UTC(), true
}

// flag reads a boolean, which some providers send as a string or number.
func (c claims) flag(path string) bool {
	switch string(c.at(path)) {
	case `true`, `"true"`, `1`, `"1"`:
		return true
	}
	return false
}

// with returns the claims with those of another source over them.
func (c claims) with(more claims) claims {
	all := maps.Clone(c)
	maps.Copy(all, more)
	return all
}

// identity makes a person of what a provider says. An email counts as verified
// only if the provider says so of this one (OpenID Connect Core 1.0, section
// 5.7), or is known to let nobody choose one.
func (p *Provider) identity(subject string, said claims) domain.Identity {
	names := p.cfg.Claims
	who := domain.Identity{
		Subject: subject,
		Email:   strings.ToLower(said.text(names.Email)),
		Name:    said.text(names.Name),
	}
	if local, host, ok := strings.Cut(who.Email, "@"); !ok || local == "" || host == "" || len(who.Email) > longestEmail || strings.ContainsFunc(who.Email, unicode.IsSpace) {
		who.Email = ""
	}
	who.EmailVerified = who.Email != "" && (p.cfg.TrustEmail || said.flag(names.EmailVerified))
	for _, path := range names.Roles {
		raw := said.at(path)
		items := []json.RawMessage{raw}
		if json.Unmarshal(raw, &items) != nil {
			items = []json.RawMessage{raw}
		}
		who.Roles = texts(who.Roles, items, maxRoles)
	}
	return who
}

// userInfo asks the provider what it knows of the person beyond the ID token.
// An answer about anybody else is no answer (OpenID Connect Core 1.0, section
// 5.3.2).
func (p *Provider) userInfo(ctx context.Context, m *metadata, t *oauth2.Token, subject string) (claims, error) {
	const op = "userinfo"
	info, err := m.provider.UserInfo(gooidc.ClientContext(ctx, p.userInfoClient), oauth2.StaticTokenSource(t))
	if err != nil {
		return nil, p.noted(documentFailed(ctx, op, err))
	}
	var said claims
	if info.Claims(&said) != nil || said.text("sub") != subject {
		return nil, p.noted(misconfigured(op, Untrusted, "the answer is about somebody else"))
	}
	if said.at(p.cfg.Claims.Email) != nil && said.at(p.cfg.Claims.EmailVerified) == nil {
		// What the ID token says of its own email says nothing of this one.
		said[p.cfg.Claims.EmailVerified] = json.RawMessage("false")
	}
	return said, p.noted(nil)
}
