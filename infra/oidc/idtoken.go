package oidc

import (
	"context"
	"crypto/subtle"
	"encoding/base64"
	"encoding/json"
	"errors"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"cloakroom/domain"
)

const (
	// maxToken is the length of the longest ID or logout token, in bytes.
	maxToken = 64 << 10
	// maxName is the length of the longest subject (OpenID Connect Core 1.0,
	// section 2) and session id.
	maxName = 255
	// oldestToken is how long ago a token may have been issued when it arrives.
	// Google's button keeps one for as long as it lives, an hour.
	oldestToken = time.Hour
)

// idToken is an ID token that has passed the checks.
type idToken struct {
	verified *gooidc.IDToken
	claims   claims
	subject  string
	sid      string
	nonce    string
	authTime time.Time
}

// untrusted says which check a token did not pass. Of the token it tells at
// most what a good signature vouches for.
type untrusted struct{ what string }

func (e *untrusted) Error() string { return e.what }

// oneVerification is the key set of one token: it remembers what go-oidc's
// error does not tell, whether there were keys, and what they vouch for.
type oneVerification struct {
	keys    *keySet
	payload []byte
	err     error
}

func (o *oneVerification) VerifySignature(ctx context.Context, raw string) ([]byte, error) {
	o.payload, o.err = o.keys.verify(ctx, raw)
	return o.payload, o.err
}

// why makes an error of one of go-oidc's.
func (o *oneVerification) why(err error) error {
	switch {
	case errors.Is(o.err, errSignature):
		return &untrusted{errSignature.Error()}
	case o.err != nil:
		return o.err
	case o.payload == nil:
		return &untrusted{"it is no signed JWT, or signed by an algorithm that is not allowed"}
	}
	return &untrusted{err.Error()}
}

// verifier returns go-oidc's, with our keys and clock. It gives tokens the skew
// after their expiry.
func (p *Provider) verifier() (*gooidc.IDTokenVerifier, *oneVerification) {
	keys := &oneVerification{keys: p.keys}
	return gooidc.NewVerifier(p.cfg.Issuer, keys, &gooidc.Config{
		ClientID:             p.cfg.ClientID,
		SupportedSigningAlgs: p.algorithms,
		Now:                  func() time.Time { return p.cfg.Now().Add(-skew) },
	}), keys
}

// idToken checks an ID token (OpenID Connect Core 1.0, section 3.1.3.7), and
// what more the caller asks of it. It fails with *untrusted, or with why the
// keys cannot be had.
func (p *Provider) idToken(ctx context.Context, raw string, more func(*idToken) error) (*idToken, error) {
	kind, err := shape(raw)
	if err != nil {
		return nil, err
	}
	// Where providers say what a token is, one of another kind is none (RFC 8725,
	// section 3.11; RFC 9068, section 2.1).
	switch strings.TrimPrefix(kind, "application/") {
	case "logout+jwt":
		return nil, &untrusted{"it is a logout token"}
	case "at+jwt":
		return nil, &untrusted{"it is an access token"}
	}
	verifier, keys := p.verifier()
	verified, err := verifier.Verify(ctx, raw)
	if err != nil {
		return nil, keys.why(err)
	}
	t := &idToken{verified: verified}
	if json.Unmarshal(keys.payload, &t.claims) != nil {
		return nil, &untrusted{"it holds no object"}
	}
	t.subject, t.sid, t.nonce = t.claims.text("sub"), t.claims.text("sid"), t.claims.text("nonce")
	t.authTime, _ = t.claims.time("auth_time")
	if err := p.beyond(t); err != nil {
		return nil, err
	}
	if err := more(t); err != nil {
		return nil, err
	}
	return t, nil
}

// beyond makes the checks that go-oidc leaves out.
func (p *Provider) beyond(t *idToken) error {
	issued, ok := t.claims.time("iat")
	begins, _ := t.claims.time("nbf")
	now := p.cfg.Now()
	azp, hasParty := t.claims["azp"]
	switch {
	case !ok:
		return &untrusted{"it does not say when it was issued"}
	case issued.After(now.Add(skew)):
		return &untrusted{"it was issued in the future; is a clock wrong?"}
	case issued.Before(now.Add(-oldestToken - skew)):
		return &untrusted{"it was issued too long ago"}
	case begins.After(now.Add(skew)): // go-oidc has five minutes
		return &untrusted{"it is not valid yet"}
	case !name(t.subject):
		return &untrusted{"its subject is missing, too long or not printable"}
	case t.claims.has("sid") && !name(t.sid):
		return &untrusted{"its session id is empty, too long or not printable"}
	case t.claims.has("events"):
		return &untrusted{"it is about events, and no ID token"}
	case len(t.verified.Audience) > 1 && !hasParty:
		return &untrusted{"it is for several and does not say for whom it was made"}
	case hasParty && t.claims.text("azp") != p.cfg.ClientID:
		return &untrusted{"it was made for another client (azp " + string(azp[:min(len(azp), maxName)]) + ")"}
	}
	return nil
}

// forNonce checks that the token answers our own request and not another.
func (t *idToken) forNonce(nonce string) error {
	if nonce == "" || subtle.ConstantTimeCompare([]byte(t.nonce), []byte(nonce)) != 1 {
		return &untrusted{"its nonce is not the one that was asked with"}
	}
	return nil
}

// forAccess checks that the token came with this access token, if it says with
// which (OpenID Connect Core 1.0, section 3.1.3.8).
func (t *idToken) forAccess(access domain.Secret) error {
	if t.claims.has("at_hash") && t.verified.VerifyAccessToken(access.Reveal()) != nil {
		return &untrusted{"its at_hash is that of another access token"}
	}
	return nil
}

// youngerThan checks that the person proved who they are not longer than age
// ago, if age is not 0.
func (t *idToken) youngerThan(age time.Duration, now time.Time) error {
	switch {
	case age <= 0:
		return nil
	case t.authTime.IsZero():
		return &untrusted{"the provider does not say when the person signed in"}
	case now.Sub(t.authTime) > age+skew:
		return &untrusted{"the person signed in too long ago"}
	}
	return nil
}

// shape refuses what cannot be a token of bearable size, before anything is
// done with it, and returns its type in lower case. go-jose reads JSON and
// compact tokens alike; only the latter are meant here.
func shape(raw string) (kind string, err error) {
	if len(raw) > maxToken || strings.Count(raw, ".") != 2 {
		return "", &untrusted{"it is no JWT, or too long"}
	}
	parts := strings.Split(raw, ".")
	header, ok := decodeObject(parts[0])
	for _, part := range parts {
		ok = ok && canonical(part)
	}
	if !ok {
		return "", &untrusted{"it is no JWT"}
	}
	return strings.ToLower(header.text("typ")), nil
}

// canonical reports whether part is the one text of its bytes, so that a token
// cannot be written in two ways.
func canonical(part string) bool {
	_, err := base64.RawURLEncoding.Strict().DecodeString(part)
	return err == nil && !strings.ContainsAny(part, "\r\n") // which package base64 skips
}

// name reports whether s can name somebody or something for good.
func name(s string) bool { return s != "" && len(s) <= maxName }

// UnverifiedIssuer returns the issuer that a token claims, to find out which
// provider is to check it. It means nothing beyond that.
func UnverifiedIssuer(raw string) string { return unverified(raw).text("iss") }

// unverified returns what a token claims, whoever made it, or nothing.
func unverified(raw string) claims {
	if len(raw) > maxToken || strings.Count(raw, ".") != 2 {
		return nil
	}
	payload, _ := decodeObject(strings.Split(raw, ".")[1])
	return payload
}
