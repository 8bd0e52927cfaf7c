package oidc

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"net/url"
	"strconv"
	"strings"
	"time"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"golang.org/x/oauth2"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
	"cloakroom/infra/dpop"
)

// TransactionLife is how long somebody may take to sign in at the provider. The
// cookie that holds the transaction need not live longer.
const TransactionLife = 10 * time.Minute

// Begin starts a sign-in: the address at the provider to send the browser to,
// and the transaction to keep for its return. PKCE is always S256; state, nonce
// and verifier are new each time. It fails with *domain.SignInFailure, which
// unwraps to domain.ErrAuthUnavailable or domain.ErrAuthMisconfigured, while
// the provider's metadata cannot be had.
func (p *Provider) Begin(ctx context.Context, r domain.AuthRequest) (address string, tx domain.Transaction, err error) {
	m, err := p.found.get(ctx)
	if err != nil {
		return "", tx, signInFailed(err)
	}
	tx = domain.Transaction{
		Provider: p.cfg.Name, RedirectURI: r.RedirectURI, MaxAge: r.MaxAge, Started: domain.Now(p.cfg.Now),
	}
	for _, text := range []*string{&tx.State, &tx.Nonce, &tx.Verifier} {
		if *text, err = p.random(); err != nil {
			return "", domain.Transaction{}, err
		}
	}
	options := []oauth2.AuthCodeOption{oauth2.S256ChallengeOption(tx.Verifier), gooidc.Nonce(tx.Nonce)}
	add := func(name, value string) {
		if value != "" {
			options = append(options, oauth2.SetAuthURLParam(name, value))
		}
	}
	for name, value := range p.cfg.AuthParams {
		add(name, value)
	}
	add("prompt", p.cfg.Prompt)
	add("prompt", r.Prompt)
	add("login_hint", r.LoginHint)
	if r.MaxAge > 0 {
		add("max_age", strconv.FormatInt(int64((r.MaxAge+time.Second-1)/time.Second), 10))
	}
	return p.oauth(m, r.RedirectURI).AuthCodeURL(tx.State, options...), tx, nil
}

// longestParam is the length of the longest parameter of a callback, in bytes.
const longestParam = 8 << 10

// ParseCallback reads the parameters of the address that the browser came back
// to. A parameter that is there twice, or has no bearable length, makes all of
// them worthless (RFC 6749, section 3.1): *domain.SignInFailure.
func ParseCallback(query url.Values) (domain.Callback, error) {
	var code string
	var c domain.Callback
	for name, field := range map[string]*string{"code": &code, "state": &c.State, "iss": &c.Issuer, "error": &c.Error} {
		values := query[name]
		if len(values) > 1 || len(values) == 1 && len(values[0]) > longestParam {
			return domain.Callback{}, mismatch("the answer's " + name + " is there twice or too long")
		}
		if len(values) == 1 {
			*field = values[0]
		}
	}
	c.Code = domain.NewSecret(code)
	return c, nil
}

// Check holds an answer against its transaction. It fails like Finish, which does
// the same before it hands the code over.
//
// The answer belongs to the transaction if it brings its state, and comes from
// this provider, as far as the provider says so (RFC 9207). An error answer is
// told as such only then.
func (p *Provider) Check(ctx context.Context, c domain.Callback, tx domain.Transaction) error {
	if err := p.belongs(c, tx); err != nil {
		return err
	}
	m, err := p.found.get(ctx)
	if err != nil {
		return signInFailed(err)
	}
	switch {
	case c.Issuer != "" && c.Issuer != p.cfg.Issuer:
		return mismatch("the answer comes from another provider")
	case c.Issuer == "" && m.SendsIssuer:
		return mismatch("the answer does not say which provider it comes from")
	case c.Error != "":
		return declined(c.Error)
	case c.Code.Empty():
		return mismatch("the answer has no code")
	}
	return nil
}

// Finish ends a sign-in: it checks the answer, exchanges the code and checks the
// ID token. Every failure is a *domain.SignInFailure whose reason a page can
// explain.
func (p *Provider) Finish(ctx context.Context, c domain.Callback, tx domain.Transaction) (domain.Authentication, error) {
	if err := p.Check(ctx, c, tx); err != nil {
		return domain.Authentication{}, err
	}
	m, err := p.found.get(ctx)
	if err != nil {
		return domain.Authentication{}, signInFailed(err)
	}

	ctx, cancel := context.WithTimeout(ctx, p.cfg.Timeout)
	defer cancel()
	var key domain.Secret
	if p.cfg.DPoP {
		if key, err = dpop.NewKey(); err != nil {
			return domain.Authentication{}, err
		}
	}
	const op = "code exchange"
	answer, err := p.oauth(m, tx.RedirectURI).Exchange(
		context.WithValue(dpop.WithKey(ctx, key), oauth2.HTTPClient, p.peopleClient),
		c.Code.Reveal(), oauth2.VerifierOption(tx.Verifier))
	if err != nil {
		return domain.Authentication{}, signInFailed(p.noted(p.tokenFailed(ctx, op, err)))
	}
	grant, err := p.grant(op, answer)
	if p.noted(err) != nil {
		return domain.Authentication{}, signInFailed(err)
	}
	a, err := p.believe(dpop.WithKey(ctx, key), m, tx, answer, grant)
	if err != nil {
		// Nobody is signed in, so nobody will use these tokens. Whether that
		// succeeds changes nothing here. But if nothing is wrong with them, the
		// person may be signed in by the same grant, which might end with them
		// (RFC 7009, section 2.1).
		if f, ok := errors.AsType[*domain.SignInFailure](err); !ok || f.Reason != domain.SignInTooOld && f.Reason != domain.SignInUnavailable {
			_ = p.Revoke(context.WithoutCancel(ctx), grant.Refresh, grant.Access)
		}
		return domain.Authentication{}, err
	}
	a.DPoPKey = key
	return a, nil
}

// believe makes an authentication of the answer to a code, if it passes the
// checks.
func (p *Provider) believe(ctx context.Context, m *metadata, tx domain.Transaction, answer *oauth2.Token, grant domain.Grant) (domain.Authentication, error) {
	const op = "code exchange"
	switch {
	case p.cfg.DPoP && !strings.EqualFold(grant.TokenType, dpop.TokenType):
		return domain.Authentication{}, signInFailed(p.noted(notBound(op)))
	case grant.ID.Empty():
		return domain.Authentication{}, signInFailed(p.noted(misconfigured(op, authcall.BrokenAnswer, "there is no ID token in the answer")))
	}
	t, err := p.idToken(ctx, grant.ID.Reveal(), func(t *idToken) error {
		return errors.Join(t.forNonce(tx.Nonce), t.forAccess(grant.Access))
	})
	if err != nil {
		return domain.Authentication{}, notBelieved(op, domain.ErrAuthMisconfigured, err)
	}
	if err := t.youngerThan(tx.MaxAge, p.cfg.Now()); err != nil {
		return domain.Authentication{}, &domain.SignInFailure{Reason: domain.SignInTooOld, Err: fmt.Errorf("%w: %w", domain.ErrBadInput, err)}
	}
	if err := p.inDomain(t); err != nil {
		return domain.Authentication{}, err
	}
	said := t.claims
	if p.cfg.UserInfo {
		more, err := p.userInfo(ctx, m, answer, t.subject)
		if err != nil {
			return domain.Authentication{}, signInFailed(err)
		}
		said = said.with(more)
	}
	return p.authentication(t, said, grant), nil
}

// notBound is about bearer tokens where bound ones were asked for, which whoever
// wants them has to look at (RFC 9449, section 5).
func notBound(op string) error {
	return misconfigured(op, authcall.BrokenAnswer, "the tokens are not bound to the device's key; the provider, or this client of it, does not know DPoP")
}

// Credential checks an ID token that a page got from Google Identity Services
// and handed on, with the nonce that the page was given, or without if nonce is
// empty. It brings no tokens but that, which serves as the access token too. It
// fails like Finish; a token that does not pass is the sender's fault,
// domain.ErrBadInput.
func (p *Provider) Credential(ctx context.Context, token domain.Secret, nonce string) (domain.Authentication, error) {
	t, err := p.idToken(ctx, token.Reveal(), func(t *idToken) error {
		if nonce == "" {
			return nil
		}
		return t.forNonce(nonce)
	})
	if err != nil {
		return domain.Authentication{}, notBelieved("credential", domain.ErrBadInput, err)
	}
	if err := p.inDomain(t); err != nil {
		return domain.Authentication{}, err
	}
	return p.authentication(t, t.claims, domain.Grant{
		TokenType: "Bearer", Access: token, ID: token,
		// Its own iat would not do: it was not issued just now.
		AccessLife: max(t.verified.Expiry.Sub(p.cfg.Now()), time.Millisecond),
	}), nil
}

// inDomain holds Google to the Workspace domain that the settings ask for (hd; "*"
// is any): the parameter decides what Google offers, and whoever signs in can take
// it out of the address.
func (p *Provider) inDomain(t *idToken) error {
	asked, is := p.cfg.AuthParams["hd"], t.claims.text("hd")
	if p.cfg.Issuer != googleIssuer || asked == "" || strings.EqualFold(asked, is) || asked == "*" && is != "" {
		return nil
	}
	return &domain.SignInFailure{Reason: domain.SignInDeclined, Err: fmt.Errorf("%w: the account is not of the Workspace domain in the settings", domain.ErrBadInput)}
}

func (p *Provider) authentication(t *idToken, said claims, g domain.Grant) domain.Authentication {
	return domain.Authentication{
		Issuer:   p.cfg.Issuer,
		Identity: p.identity(t.subject, said),
		Grant:    g,
		SID:      t.sid,
		AuthTime: t.authTime,
		ACR:      t.claims.short("acr"),
		AMR:      t.claims.list("amr"),
	}
}

// belongs reports what keeps an answer from being one to the transaction.
func (p *Provider) belongs(c domain.Callback, tx domain.Transaction) error {
	now := p.cfg.Now()
	switch {
	case tx.Provider != p.cfg.Name || tx.State == "" || tx.Nonce == "" || tx.Verifier == "":
		return mismatch("the transaction is not one of this provider")
	case subtle.ConstantTimeCompare([]byte(c.State), []byte(tx.State)) != 1:
		return mismatch("the state is another than the transaction's")
	case now.After(tx.Started.Add(TransactionLife)), now.Before(tx.Started.Add(-skew)):
		return &domain.SignInFailure{Reason: domain.SignInTooLate, Err: fmt.Errorf("%w: the transaction is too old", domain.ErrBadInput)}
	}
	return nil
}

func mismatch(what string) error {
	return &domain.SignInFailure{Reason: domain.SignInMismatch, Err: fmt.Errorf("%w: %s", domain.ErrBadInput, what)}
}

// declined makes an outcome of a provider's error answer.
func declined(code string) error {
	f := &domain.SignInFailure{Reason: domain.SignInRefused}
	outcome := domain.ErrAuthMisconfigured
	switch code {
	case "access_denied":
		f.Reason, outcome = domain.SignInDeclined, domain.ErrBadInput
	case "login_required", "interaction_required", "consent_required", "account_selection_required":
		f.Reason, outcome = domain.SignInInteraction, domain.ErrBadInput
	case "temporarily_unavailable", "server_error":
		f.Reason, outcome = domain.SignInUnavailable, domain.ErrAuthUnavailable
	}
	said := "an error"
	if printable[code] {
		said = code
	}
	f.Err = fmt.Errorf("%w: the provider answered %s", outcome, said)
	return f
}

// signInFailed gives a failure of a call its reason.
func signInFailed(err error) error {
	f := &domain.SignInFailure{Reason: domain.SignInRefused, Err: err}
	switch {
	case errors.Is(err, domain.ErrInvalidGrant):
		// Not the refresh token's end: a code that is spent or too old.
		f.Reason, f.Err = domain.SignInTooLate, fmt.Errorf("%w: the provider refuses the code", domain.ErrBadInput)
	case errors.Is(err, domain.ErrAuthUnavailable):
		f.Reason = domain.SignInUnavailable
	}
	return f
}

// notBelieved gives a token that did not pass its reason and outcome. An error
// of any other kind is about the keys.
func notBelieved(op string, outcome, err error) error {
	var bad *untrusted
	if !errors.As(err, &bad) {
		return signInFailed(err)
	}
	return &domain.SignInFailure{Reason: domain.SignInUntrusted, Err: &authcall.Error{Kind: Untrusted, Op: op, What: "the ID token: " + bad.Error(), Outcome: outcome}}
}
