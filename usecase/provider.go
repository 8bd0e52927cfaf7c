package usecase

import (
	"context"
	"errors"
	"fmt"

	"cloakroom/domain"
)

// Provider is one way to sign in, and who keeps the tokens of those alive who
// signed in that way.
type Provider struct {
	// Name is kept in the record. A provider that is renamed loses its devices.
	Name string
	// Issuer is that of the owners, who are not the provider's own if its word is
	// exchanged elsewhere for tokens. A refresh token of another issuer's is
	// never shown to this provider, unless AnyIssuer is set.
	Issuer    string
	AnyIssuer bool
	// Tokens refreshes and revokes. Two providers may have the same one; they
	// then fare alike when it is down.
	Tokens tokenServer
	// Client is set where those who sign in again may get tokens of the grant that
	// they have already: the id by which the issuer knows us. Several providers may
	// have the same one. A pair is then revoked when the last device of its grant has
	// ended.
	Client string
	// Passwords is nil unless people sign in by a password that they type here.
	// One provider can have it.
	Passwords passwordServer
}

// tokenServer is who issued a device's tokens. A refresh token that it refuses
// for good is domain.ErrInvalidGrant; domain.ErrAuthMisconfigured is ours to
// mend and domain.ErrAuthUnavailable may pass.
type tokenServer interface {
	Refresh(ctx context.Context, r domain.Renewal) (domain.Grant, error)
	Revoke(ctx context.Context, refresh, access domain.Secret) error
}

// passwordServer signs people in by what they typed. A refusal is a
// *domain.Refused; the other errors are those of a tokenServer.
type passwordServer interface {
	Register(ctx context.Context, c domain.Credentials) error
	SignIn(ctx context.Context, c domain.Credentials) (domain.Identity, domain.Grant, error)
}

// provider is a Provider at work.
type provider struct {
	Provider
	*server
}

// server is what is known about a token server. Each has its own, so that one
// that is down or slow takes nothing from the others.
type server struct {
	breaker breaker
	slots   chan struct{} // one for each refresh under way
}

func newProviders(list []Provider) (byName map[string]*provider, passwords *provider) {
	byName = make(map[string]*provider, len(list))
	servers := map[tokenServer]*server{}
	for _, p := range list {
		if servers[p.Tokens] == nil {
			servers[p.Tokens] = &server{slots: make(chan struct{}, maxRefreshes)}
		}
		at := &provider{p, servers[p.Tokens]}
		byName[p.Name] = at
		if p.Passwords != nil {
			passwords = at
		}
	}
	return byName, passwords
}

// providerOf returns the provider that a device signed in with. One that is not
// in the settings any more, or that has become another's, is
// domain.ErrAuthMisconfigured: an operator's slip must not sign everybody out,
// nor hand one provider's tokens to another.
func (b *Broker) providerOf(rec domain.Record) (*provider, error) {
	p, ok := b.providers[rec.Provider]
	switch {
	case !ok:
		return nil, fmt.Errorf("%w: the provider %q is not in the settings", domain.ErrAuthMisconfigured, rec.Provider)
	case !p.AnyIssuer && p.Issuer != rec.Owner.Issuer:
		return nil, fmt.Errorf("%w: the provider %q is not %s any more", domain.ErrAuthMisconfigured, rec.Provider, rec.Owner.Issuer)
	}
	return p, nil
}

// lastFailures joins the last failure of each provider.
func (b *Broker) lastFailures() error {
	var failures []error
	for _, given := range b.Providers { // in their order, each server once
		p := b.providers[given.Name]
		if err := p.breaker.lastFailure(); err != nil && !errors.Is(errors.Join(failures...), err) {
			failures = append(failures, fmt.Errorf("%s: %w", p.Name, err))
		}
	}
	return errors.Join(failures...)
}
