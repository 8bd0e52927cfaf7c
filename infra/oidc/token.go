package oidc

import (
	"context"
	"encoding/json"
	"io"
	"math"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"golang.org/x/oauth2"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/dpop"
)

// Refresh exchanges a refresh token. A grant without a refresh or ID token says
// that the old one stays; IDDoubt says why if there was an ID token that is not
// taken. It fails as authapi.Client's does: with domain.ErrInvalidGrant if the
// provider refuses the token for good, with domain.ErrAuthMisconfigured if it
// does not take the broker, or answers with tokens of somebody else or with
// unbound ones, and with *domain.Unavailable in all other cases, an answer that
// cannot be read among them. All are also an *authcall.Error.
func (p *Provider) Refresh(ctx context.Context, r domain.Renewal) (domain.Grant, error) {
	const op = "refresh"
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	m, err := p.found.get(ctx)
	if err != nil {
		return domain.Grant{}, err
	}
	withClient := context.WithValue(dpop.WithKey(ctx, r.DPoPKey), oauth2.HTTPClient, p.tokensClient)
	answer, err := p.oauth(m, "").TokenSource(withClient, &oauth2.Token{RefreshToken: r.Refresh.Reveal()}).Token()
	if err != nil {
		return domain.Grant{}, p.noted(p.tokenFailed(ctx, op, err))
	}
	grant, err := p.grant(op, answer)
	if err == nil && p.cfg.DPoP && !r.DPoPKey.Empty() && grant.TokenType != "" && !strings.EqualFold(grant.TokenType, dpop.TokenType) {
		err = notBound(op)
	}
	if err == nil {
		grant, err = p.samePerson(ctx, op, grant, r.Subject)
	}
	if err != nil {
		return domain.Grant{}, p.noted(err)
	}
	return grant, p.noted(nil)
}

// samePerson checks the ID token of a refresh (OpenID Connect Core 1.0, section
// 12.2) and takes it out of the grant if it does not pass, or cannot be checked
// now: the old one serves on. The rest is the only pair that there is, for the
// provider may have spent the old refresh token, and has given it over a
// connection that vouches for itself. Only tokens of somebody else are refused,
// and who they are about is believed without a signature too.
func (p *Provider) samePerson(ctx context.Context, op string, g domain.Grant, subject string) (domain.Grant, error) {
	if g.ID.Empty() {
		return g, nil
	}
	raw := g.ID.Reveal()
	if said := unverified(raw).text("sub"); subject != "" && said != "" && said != subject {
		return domain.Grant{}, misconfigured(op, Untrusted, "the ID token is about somebody else")
	}
	if _, err := p.idToken(ctx, raw, func(t *idToken) error { return t.forAccess(g.Access) }); err != nil {
		g.ID, g.IDDoubt = domain.Secret{}, err
	}
	return g, nil
}

// grant reads the tokens of a good answer. It fails without an access token
// that can stand in a header, or if there is a refresh token that cannot be
// read: going on with the old one would lose the device later.
func (p *Provider) grant(op string, t *oauth2.Token) (domain.Grant, error) {
	refresh, rok := extra(t, "refresh_token")
	id, iok := extra(t, "id_token")
	scope, _ := extra(t, "scope")
	if t.AccessToken == "" || strings.ContainsFunc(t.AccessToken, notVisible) || !rok || !iok {
		return domain.Grant{}, lost(op, authcall.BrokenAnswer, "answered without usable tokens")
	}
	return domain.Grant{
		TokenType:   t.TokenType,
		Scope:       scope,
		Access:      domain.NewSecret(t.AccessToken),
		AccessLife:  life(t.Extra("expires_in")),
		Refresh:     domain.NewSecret(refresh), // oauth2 would put the old one here
		RefreshLife: life(first(t.Extra("refresh_expires_in"), t.Extra("refresh_token_expires_in"))),
		ID:          domain.NewSecret(id),
	}, nil
}

// extra reads a text of the answer. Absent and null are empty; anything else is
// not ok.
func extra(t *oauth2.Token, name string) (string, bool) {
	switch v := t.Extra(name).(type) {
	case nil:
		return "", true
	case string:
		return v, true
	}
	return "", false
}

func first(values ...any) any {
	for _, v := range values {
		if v != nil {
			return v
		}
	}
	return nil
}

func notVisible(r rune) bool { return r <= ' ' || r > '~' }

// longestLife keeps seconds within a Duration. The policy's own limit, which is
// shorter, is package domain's.
const longestLife = 100 * 365 * 24 * time.Hour

// life reads a number of seconds, which some providers send as a string. What
// is not above zero or cannot be read is 0, unknown.
func life(v any) time.Duration {
	var seconds float64
	switch v := v.(type) {
	case float64:
		seconds = v
	case int64: // of an answer that is a form
		seconds = float64(v)
	case string:
		seconds, _ = strconv.ParseFloat(strings.TrimSpace(v), 64)
	}
	if !(seconds > 0) || math.IsInf(seconds, 0) {
		return 0
	}
	return time.Duration(min(seconds, longestLife.Seconds()) * float64(time.Second))
}

// Revoke asks the provider to forget a refresh token (RFC 7009), or the access
// token if there is no other. Without an endpoint for that, or with nothing to
// revoke, it does nothing. It fails like Refresh; domain.ErrInvalidGrant says
// that the token is refused or of a kind that the provider does not revoke, so
// that trying again is of no use.
func (p *Provider) Revoke(ctx context.Context, refresh, access domain.Secret) error {
	const op = "revoke"
	token, hint := refresh, "refresh_token"
	if token.Empty() {
		token, hint = access, "access_token"
	}
	if token.Empty() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	m, err := p.found.get(ctx)
	if err != nil || m.Revocation == "" {
		return err
	}
	form := url.Values{"token": {token.Reveal()}, "token_type_hint": {hint}}
	method := p.authMethod(m)
	if method != SecretBasic {
		form.Set("client_id", p.cfg.ClientID)
	}
	if method == SecretPost {
		form.Set("client_secret", p.cfg.ClientSecret.Reveal())
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, m.Revocation, strings.NewReader(form.Encode()))
	if err != nil {
		return p.noted(misconfigured(op, authcall.ClientError, "no request can be made of its revocation_endpoint"))
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	req.Header.Set("Accept", "application/json")
	if method == SecretBasic {
		req.SetBasicAuth(url.QueryEscape(p.cfg.ClientID), url.QueryEscape(p.cfg.ClientSecret.Reveal()))
	}
	resp, err := p.tokensClient.Do(req)
	if err != nil {
		return p.noted(authcall.Unreachable(ctx, op, err))
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if resp.StatusCode >= 200 && resp.StatusCode < 300 {
		return p.noted(nil) // section 2.2: the body does not matter
	}
	if err != nil {
		return p.noted(authcall.Unreachable(ctx, op, err))
	}
	var answer struct {
		Error string `json:"error"`
	}
	_ = json.Unmarshal(body, &answer) // without a code the status decides
	switch answer.Error {
	case "unsupported_token_type", "invalid_token": // which is Google's word
		answer.Error = "invalid_grant"
	}
	return p.noted(p.answered(op, resp.StatusCode, resp.Header, answer.Error))
}
