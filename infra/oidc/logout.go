package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// LogoutRequest is how a browser is sent to the provider to sign out there
// (OpenID Connect RP-Initiated Logout 1.0). All fields may be empty.
type LogoutRequest struct {
	IDToken domain.Secret // of the session, so that the provider knows which and asks nothing
	// SignsIn: ID tokens of this provider sign people in where they are shown. IDToken
	// is left out then until it is over.
	SignsIn     bool
	LogoutHint  string // whom it is about, where an ID token is not to be in an address
	RedirectURI string // where to come back to; has to be registered there
	State       string // comes back with RedirectURI
}

// longestAddress is how long the address of a logout may be, in bytes. Request
// lines of 8000 are what everybody should take (RFC 9112, section 3), and many
// take no longer ones.
const longestAddress = 7 << 10

// LogoutURL returns the address at the provider that signs the person out
// there, or nothing if the provider has none. It fails while the provider's
// metadata cannot be had, which it may wait for; signing out here should not.
//
// With an IDToken the address holds it, as the standard has it: it goes into a
// redirect and nowhere else. One that would make the address longer than servers
// take is left out, and the provider asks the person.
func (p *Provider) LogoutURL(ctx context.Context, r LogoutRequest) (domain.Secret, error) {
	m, err := p.found.get(ctx)
	if err != nil || m.EndSession == "" {
		return domain.Secret{}, err
	}
	u, err := url.Parse(m.EndSession)
	if err != nil {
		return domain.Secret{}, misconfigured("logout", authcall.BrokenAnswer, "its end_session_endpoint is no URL")
	}
	query := u.Query()
	query.Set("client_id", p.cfg.ClientID)
	if ends, ok := unverified(r.IDToken.Reveal()).time("exp"); r.SignsIn && (!ok || !p.cfg.Now().After(ends.Add(skew))) {
		r.IDToken = domain.Secret{}
	}
	for name, value := range map[string]string{
		"id_token_hint": r.IDToken.Reveal(), "logout_hint": r.LogoutHint, "post_logout_redirect_uri": r.RedirectURI, "state": r.State,
	} {
		if value != "" {
			query.Set(name, value)
		}
	}
	if u.RawQuery = query.Encode(); len(u.String()) > longestAddress {
		query.Del("id_token_hint")
		u.RawQuery = query.Encode()
	}
	return domain.NewSecret(u.String()), nil
}

// oldestLogout is how long after its issue a logout token is taken, whatever it
// says itself, so that nobody has to remember its id for longer. The standard
// recommends two minutes.
const oldestLogout = time.Hour

// LogoutToken checks a token that the provider has posted (OpenID Connect
// Back-Channel Logout 1.0, section 2.6). Whether its id was seen before is the
// caller's to say. It fails with domain.ErrBadInput if the token does not pass,
// else with why the keys cannot be had. Both are also an *authcall.Error.
func (p *Provider) LogoutToken(ctx context.Context, raw domain.Secret) (domain.LogoutNotice, error) {
	notice, err := p.logoutToken(ctx, raw.Reveal())
	var bad *untrusted
	if errors.As(err, &bad) {
		return domain.LogoutNotice{}, &authcall.Error{Kind: Untrusted, Op: "logout token", What: bad.Error(), Outcome: domain.ErrBadInput}
	}
	return notice, err
}

func (p *Provider) logoutToken(ctx context.Context, raw string) (domain.LogoutNotice, error) {
	kind, err := shape(raw)
	if err != nil {
		return domain.LogoutNotice{}, err
	}
	// The type keeps other tokens of the provider from being taken for one
	// (RFC 8725, section 3.11). Many providers do not set it.
	switch kind {
	case "logout+jwt", "application/logout+jwt":
	case "", "jwt", "application/jwt":
		if !p.cfg.LooseLogoutType {
			return domain.LogoutNotice{}, &untrusted{"its type is not logout+jwt; there is a setting for providers that do not say so"}
		}
	default:
		return domain.LogoutNotice{}, &untrusted{"its type is not logout+jwt"}
	}
	verifier, keys := p.verifier()
	verified, err := verifier.VerifyLogout(ctx, raw)
	if err != nil {
		return domain.LogoutNotice{}, keys.why(err)
	}
	var said claims
	var events map[string]json.RawMessage
	var event map[string]json.RawMessage
	if json.Unmarshal(keys.payload, &said) != nil ||
		json.Unmarshal(said["events"], &events) != nil ||
		json.Unmarshal(events["http://schemas.openid.net/event/backchannel-logout"], &event) != nil || event == nil {
		return domain.LogoutNotice{}, &untrusted{"its events are not those of a logout"}
	}
	issued, ok := said.time("iat")
	now := p.cfg.Now()
	until := verified.Expiry
	if last := issued.Add(oldestLogout); last.Before(until) {
		until = last
	}
	until = until.Add(skew)
	n := domain.LogoutNotice{
		Issuer: p.cfg.Issuer, Subject: said.text("sub"), SID: said.text("sid"), ID: said.text("jti"), Until: domain.Now(func() time.Time { return until }),
	}
	switch {
	case !ok:
		return domain.LogoutNotice{}, &untrusted{"it does not say when it was issued"}
	case issued.After(now.Add(skew)):
		return domain.LogoutNotice{}, &untrusted{"it was issued in the future; is a clock wrong?"}
	case !now.Before(until):
		return domain.LogoutNotice{}, &untrusted{"it was issued too long ago"}
	case said.has("nonce"):
		return domain.LogoutNotice{}, &untrusted{"it has a nonce"}
	case !name(n.ID):
		return domain.LogoutNotice{}, &untrusted{"its id is missing, too long or not printable"}
	}
	for claim, value := range map[string]string{"sub": n.Subject, "sid": n.SID} {
		if said.has(claim) && !name(value) {
			return domain.LogoutNotice{}, &untrusted{fmt.Sprintf("its %s is empty, too long or not printable", claim)}
		}
	}
	if n.Subject == "" && n.SID == "" {
		return domain.LogoutNotice{}, &untrusted{"it says neither who nor which session"}
	}
	return n, nil
}
