// Package signin is what the auth server does: it registers people, logs them
// in, and turns refresh tokens into new pairs. It joins the stored accounts,
// the password hashes, the access tokens and the throttles, and it writes the
// log of who did what from where. HTTP is package httpapi's.
package signin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/idtoken"
	"cloakroom/app/authserver/internal/passwords"
	"cloakroom/app/authserver/internal/throttle"
	"cloakroom/app/authserver/internal/tokens"
)

// Outcomes that a caller tells apart, beside those of packages accounts and
// passwords.
var (
	// ErrRefused stands for an unknown account and for a wrong password alike.
	ErrRefused = errors.New("login refused")
	// ErrDisabled is given only to somebody who has proved who they are.
	ErrDisabled = errors.New("account disabled")
	// ErrNoExchange says that no provider's tokens are taken here.
	ErrNoExchange = errors.New("no exchange here")
	// ErrInvalidGrant says that a refresh token will never be good again.
	ErrInvalidGrant = errors.New("refresh token refused")
	// ErrInvalidToken says that an access token speaks for nobody.
	ErrInvalidToken = errors.New("access token refused")
)

// Throttled is the error of somebody who has tried too often.
type Throttled struct {
	Wait time.Duration // until the next attempt
}

func (e *Throttled) Error() string { return fmt.Sprintf("too many attempts, wait %v", e.Wait) }

// hasher is *passwords.Hasher; the tests watch it at work.
type hasher interface {
	Hash(ctx context.Context, password string) (string, error)
	Verify(ctx context.Context, hash, password string) (bool, error)
	Outdated(hash string) bool
}

// Service is safe for concurrent use.
type Service struct {
	Accounts *accounts.Store
	Hasher   hasher
	Signer   *tokens.Signer
	Log      *slog.Logger
	Now      func() time.Time

	IDTokens *idtoken.Verifier // nil: none are taken

	LoginsPerAccount        *throttle.Limiter // failed ones
	LoginsPerAddress        *throttle.Limiter // failed ones
	RegistrationsPerAddress *throttle.Limiter
}

// Pair is what a login or a refresh gives.
type Pair struct {
	AccessToken     string
	AccessLifetime  time.Duration
	RefreshToken    string
	RefreshLifetime time.Duration
}

// Registration is what somebody asks for who wants an account.
type Registration struct {
	Email    string
	Username string // optional
	Name     string // optional
	Password string
}

// Register makes an account. Whether the address is taken is looked up after
// the password has been hashed, so that the answer takes as long either way.
func (s *Service) Register(ctx context.Context, r Registration, from netip.Addr) (accounts.Account, error) {
	account, err := s.newAccount(r)
	if err != nil {
		return accounts.Account{}, err
	}
	now, source := s.Now(), addressKey(from)
	if wait := s.RegistrationsPerAddress.Take(source, now); wait > 0 {
		s.Log.WarnContext(ctx, "registration throttled", "address", from)
		return accounts.Account{}, &Throttled{Wait: wait}
	}
	hash, err := s.Hasher.Hash(ctx, r.Password)
	if err != nil {
		s.RegistrationsPerAddress.Return(source, now)
		return accounts.Account{}, err
	}
	if err := s.Accounts.Create(ctx, account, hash); err != nil {
		if taken(err) {
			s.Log.InfoContext(ctx, "registration refused", "reason", "taken", "email", account.Email, "address", from)
		}
		return accounts.Account{}, err
	}
	s.Log.InfoContext(ctx, "registered", "account", account.ID, "email", account.Email, "address", from)
	return account, nil
}

// Ensure makes an account unless the address has one already; then it changes
// nothing, not even the password.
func (s *Service) Ensure(ctx context.Context, email, password string) error {
	_, _, err := s.Accounts.ByLogin(ctx, email)
	if err == nil || !errors.Is(err, accounts.ErrNotFound) {
		return err
	}
	account, err := s.newAccount(Registration{Email: email, Password: password})
	if err != nil {
		return err
	}
	hash, err := s.Hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	if err := s.Accounts.Create(ctx, account, hash); err != nil && !taken(err) {
		return err
	}
	return nil
}

func (s *Service) newAccount(r Registration) (accounts.Account, error) {
	id, err := uuid.NewRandom()
	if err != nil {
		return accounts.Account{}, fmt.Errorf("name an account: %w", err)
	}
	account := accounts.Account{
		ID:        id.String(),
		Email:     r.Email,
		Username:  r.Username,
		Name:      r.Name,
		Role:      accounts.RoleUser,
		CreatedAt: s.Now().UTC().Truncate(time.Millisecond),
	}
	if err := account.Validate(); err != nil {
		return accounts.Account{}, err
	}
	return account, passwords.Check(r.Password, r.Email, r.Username)
}

// Login exchanges a password for a pair. Its errors are ErrRefused,
// ErrDisabled, a *Throttled, passwords.ErrBusy, and failures.
func (s *Service) Login(ctx context.Context, login, password string, from netip.Addr) (Pair, error) {
	account, hash, err := s.Accounts.ByLogin(ctx, login)
	if err != nil && !errors.Is(err, accounts.ErrNotFound) {
		return Pair{}, err
	}
	// Both names of an account share its attempts. A login that is nobody's is
	// counted like any other: a limit that only real accounts have would tell
	// which are real.
	target := account.ID
	if target == "" {
		target = strings.ToLower(login)
	}
	// What was typed as a login is logged only where it is one: people type
	// passwords there by mistake.
	log := s.Log.With("account", account.ID, "email", account.Email, "address", from)

	now := s.Now()
	giveBack, wait := s.takeLogin(target, addressKey(from), now)
	if wait > 0 {
		log.WarnContext(ctx, "login throttled")
		return Pair{}, &Throttled{Wait: wait}
	}
	good, err := s.Hasher.Verify(ctx, hash, password)
	if err != nil {
		giveBack()
		return Pair{}, err
	}
	if !good {
		log.InfoContext(ctx, "login refused")
		return Pair{}, ErrRefused
	}
	giveBack()
	if account.Disabled {
		log.WarnContext(ctx, "login refused", "reason", accounts.Disabled)
		return Pair{}, ErrDisabled
	}
	if err := s.renewHash(ctx, account.ID, hash, password); err != nil {
		log.WarnContext(ctx, "outdated password hash kept", "error", err)
	}
	grant, err := s.Accounts.Start(ctx, account, now)
	if err != nil {
		return Pair{}, err
	}
	pair, err := s.pair(grant, now)
	if err != nil {
		return Pair{}, err
	}
	log.InfoContext(ctx, "login", "family", grant.FamilyID)
	return pair, nil
}

// Exchange exchanges an ID token for a pair, and makes the account of whoever
// comes for the first time. Its errors are idtoken.ErrInvalid,
// idtoken.ErrUnavailable, ErrNoExchange, ErrDisabled, a *Throttled, and failures.
func (s *Service) Exchange(ctx context.Context, token string, from netip.Addr) (Pair, error) {
	if s.IDTokens == nil {
		return Pair{}, ErrNoExchange
	}
	now, source := s.Now(), addressKey(from)
	if wait := s.LoginsPerAddress.Take(source, now); wait > 0 {
		s.Log.WarnContext(ctx, "exchange throttled", "address", from)
		return Pair{}, &Throttled{Wait: wait}
	}
	identity, err := s.IDTokens.Verify(ctx, token)
	if err != nil {
		if errors.Is(err, idtoken.ErrUnavailable) {
			s.LoginsPerAddress.Return(source, now)
		}
		s.Log.InfoContext(ctx, "exchange refused", "error", err, "address", from)
		return Pair{}, err
	}
	s.LoginsPerAddress.Return(source, now)
	id, err := uuid.NewRandom()
	if err != nil {
		return Pair{}, fmt.Errorf("name an account: %w", err)
	}
	account, err := s.Accounts.ForIdentity(ctx, identity, id.String(), now.UTC().Truncate(time.Millisecond))
	if err != nil {
		return Pair{}, err
	}
	log := s.Log.With("account", account.ID, "issuer", identity.Issuer, "subject", identity.Subject, "address", from)
	if account.Disabled {
		log.WarnContext(ctx, "exchange refused", "reason", accounts.Disabled)
		return Pair{}, ErrDisabled
	}
	grant, err := s.Accounts.Start(ctx, account, now)
	if err != nil {
		return Pair{}, err
	}
	pair, err := s.pair(grant, now)
	if err != nil {
		return Pair{}, err
	}
	log.InfoContext(ctx, "exchange", "family", grant.FamilyID)
	return pair, nil
}

// takeLogin spends an attempt of the account and one of the address, or
// neither.
func (s *Service) takeLogin(target, source string, now time.Time) (giveBack func(), wait time.Duration) {
	if wait := s.LoginsPerAddress.Take(source, now); wait > 0 {
		return nil, wait
	}
	if wait := s.LoginsPerAccount.Take(target, now); wait > 0 {
		s.LoginsPerAddress.Return(source, now)
		return nil, wait
	}
	return func() {
		s.LoginsPerAddress.Return(source, now)
		s.LoginsPerAccount.Return(target, now)
	}, 0
}

// renewHash brings the hash up to today's parameters while the password is at
// hand.
func (s *Service) renewHash(ctx context.Context, accountID, hash, password string) error {
	if !s.Hasher.Outdated(hash) {
		return nil
	}
	next, err := s.Hasher.Hash(ctx, password)
	if err != nil {
		return err
	}
	return s.Accounts.ReplaceHash(ctx, accountID, hash, next)
}

// Refresh exchanges a refresh token for a new pair, or fails with
// ErrInvalidGrant. A call that fails in another way may be repeated with the
// same token.
func (s *Service) Refresh(ctx context.Context, refreshToken string, from netip.Addr) (Pair, error) {
	now := s.Now()
	grant, err := s.Accounts.Rotate(ctx, refreshToken, now)
	if refusal, refused := errors.AsType[*accounts.Refusal](err); refused {
		log := s.Log.With("account", refusal.AccountID, "family", refusal.FamilyID, "address", from)
		if refusal.Reason == accounts.Reused {
			log.WarnContext(ctx, "refresh token reuse detected, family revoked")
		} else {
			log.InfoContext(ctx, "refresh refused", "reason", refusal.Reason)
		}
		return Pair{}, ErrInvalidGrant
	}
	if err != nil {
		return Pair{}, err
	}
	pair, err := s.pair(grant, now)
	if err != nil {
		return Pair{}, err
	}
	s.Log.InfoContext(ctx, "refresh", "account", grant.Account.ID, "family", grant.FamilyID, "replayed", grant.Replayed, "address", from)
	return pair, nil
}

// Logout ends the family of a refresh token. It fails only where it could not
// find out: a token that is unknown or dead has nothing left to end (RFC 7009,
// section 2.2).
func (s *Service) Logout(ctx context.Context, refreshToken string, from netip.Addr) error {
	accountID, err := s.Accounts.Revoke(ctx, refreshToken, s.Now())
	if err != nil {
		return err
	}
	if accountID != "" {
		s.Log.InfoContext(ctx, "logout", "account", accountID, "address", from)
	}
	return nil
}

// Bearer returns the account that an access token speaks for. It looks the
// account up, so that a disabled one is refused at once and not when its token
// runs out.
func (s *Service) Bearer(ctx context.Context, accessToken string) (accounts.Account, error) {
	id, err := s.Signer.Verify(accessToken)
	if err != nil {
		return accounts.Account{}, ErrInvalidToken
	}
	account, err := s.Accounts.ByID(ctx, id)
	if errors.Is(err, accounts.ErrNotFound) || err == nil && account.Disabled {
		return accounts.Account{}, ErrInvalidToken
	}
	return account, err
}

func (s *Service) pair(grant accounts.Grant, now time.Time) (Pair, error) {
	access, lifetime, err := s.Signer.Issue(tokens.Subject{
		ID:            grant.Account.ID,
		Email:         grant.Account.Email,
		EmailVerified: grant.Account.Verified,
		Role:          grant.Account.Role,
	}, now)
	if err != nil {
		return Pair{}, err
	}
	return Pair{
		AccessToken:     access,
		AccessLifetime:  lifetime,
		RefreshToken:    grant.Token,
		RefreshLifetime: grant.ExpiresAt.Sub(now),
	}, nil
}

func taken(err error) bool {
	return errors.Is(err, accounts.ErrEmailTaken) || errors.Is(err, accounts.ErrUsernameTaken)
}

// addressKey is what an address is counted under. One customer has a whole /64
// of IPv6 at least, and could guess from a new address every time.
func addressKey(address netip.Addr) string {
	address = address.Unmap()
	if address.Is6() {
		if network, err := address.Prefix(64); err == nil {
			return network.String()
		}
	}
	return address.String()
}
