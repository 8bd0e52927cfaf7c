package usecase

import (
	"errors"
	"time"

	"cloakroom/domain"
)

// Metrics hears what the use cases do. Its methods are called on the way of
// requests, from many goroutines at once, and return at once. What they are
// handed is from fixed lists: never a token, an address or a device.
// docs/metrics.md has what each word means.
type Metrics interface {
	// Refreshed: a refresh has ended, after took. The outcome is one of the
	// constants below, but for RefreshShared.
	Refreshed(outcome string, took time.Duration)
	// RefreshShared: a request has joined a refresh that was under way.
	RefreshShared()
	// RefreshAwaited: a request begins to wait for a refresh. RefreshWaited: it
	// does so no more, after took.
	RefreshAwaited()
	RefreshWaited(took time.Duration)
	// LeaseLost: a lease was over, or another's, when it was to be renewed.
	LeaseLost()
	// AuthRefusesBroker: whether a provider's last answer to a refresh was a
	// refusal of the broker itself.
	AuthRefusesBroker(provider string, refuses bool)
	// SignedIn: somebody has tried to sign in by a provider; result is one of
	// the constants.
	SignedIn(method, result string)
	// SessionEnded: a device was signed out for a reason.
	SessionEnded(reason string)
	// Revoked: the auth server was told to forget a pair; result is one of the
	// constants.
	Revoked(result string)
}

// The outcomes of a refresh.
const (
	RefreshOK           = "ok"            // a pair was brought and stored
	RefreshShared       = "shared"        // see Metrics.RefreshShared
	RefreshTakenOver    = "taken_over"    // another was first, and its token is used
	RefreshGone         = "gone"          // the device was signed out meanwhile, or its time was over
	RefreshInvalidGrant = "invalid_grant" // the auth server refused the token for good, and the device was ended
	RefreshClientError  = "client_error"  // it refuses the broker: invalid_client, a wrong address
	RefreshStoreError   = "store_error"   // the store could not be asked, or did not take the pair
	RefreshBreakerOpen  = "breaker_open"  // it was not asked, because it has been failing
	RefreshBusy         = "busy"          // no turn in time: another holds the lease, all slots are taken
	// The rest are the words of domain.Unavailable.
)

// RefreshOutcomes are all of them.
var RefreshOutcomes = []string{
	RefreshOK, RefreshShared, RefreshTakenOver, RefreshGone, RefreshInvalidGrant, RefreshClientError, RefreshStoreError,
	RefreshBreakerOpen, RefreshBusy,
	domain.WhyTimeout, domain.WhyNetwork, domain.WhyUpstream5xx, domain.WhyThrottled, domain.WhyBrokenAnswer,
}

// The results of a sign-in.
const (
	SignInOK            = "ok"
	SignInRefused       = "refused"       // the auth server did not take the credentials
	SignInMisconfigured = "misconfigured" // it did not take the broker
	SignInUnavailable   = "unavailable"   // it could not be asked
	SignInStoreError    = "store_error"
	SignInError         = "error" // anything else
)

// SignInResults are all of them.
var SignInResults = []string{SignInOK, SignInRefused, SignInMisconfigured, SignInUnavailable, SignInStoreError, SignInError}

// The results of a revocation.
const (
	RevokeDone    = "done"
	RevokeFailed  = "failed"   // it is tried again
	RevokeGivenUp = "given_up" // the tokens live until they expire
)

// RevokeResults are all of them.
var RevokeResults = []string{RevokeDone, RevokeFailed, RevokeGivenUp}

// Why a device has ended, beside what time brings (domain.End).
const (
	endSignedOut          = "signed_out"             // by its own browser
	endSignedOutElsewhere = "signed_out_elsewhere"   // by the person, on another device
	endRefused            = "refresh_refused"        // by the auth server's invalid_grant
	endAtProvider         = "signed_out_at_provider" // by the provider's word
	endReplaced           = "replaced_by_sign_in"    // by somebody else's sign-in in its browser
)

// EndReasons are all of them.
var EndReasons = []string{
	endSignedOut, endSignedOutElsewhere, endRefused, endAtProvider, endReplaced,
	string(domain.EndedIdle), string(domain.EndedAbsolute), string(domain.EndedTokens),
}

// refreshOutcome says which outcome a refresh is; own tells that the token is
// of its own exchange.
func refreshOutcome(own bool, err error) string {
	var unavailable *domain.Unavailable
	switch {
	case err == nil && own:
		return RefreshOK
	case err == nil:
		return RefreshTakenOver
	case errors.Is(err, errRefusedForGood):
		return RefreshInvalidGrant
	case errors.Is(err, domain.ErrSignedOut), errors.Is(err, domain.ErrBadTicket):
		return RefreshGone
	case errors.Is(err, domain.ErrStore):
		return RefreshStoreError
	case errors.Is(err, domain.ErrAuthMisconfigured):
		return RefreshClientError
	case errors.As(err, &unavailable) && unavailable.Why != "":
		return unavailable.Why
	}
	return domain.WhyNetwork
}

// method is the name of the provider by which somebody signs in, "" if there is
// none. What is not in the settings is no label: it may be from a URL.
func (b *Broker) method(in SignIn) string {
	p := b.passwords
	if in.Verify != nil {
		p = b.providers[in.Provider]
	}
	if p == nil {
		return ""
	}
	return p.Name
}

func signInResult(err error) string {
	var refused *domain.Refused
	switch {
	case err == nil:
		return SignInOK
	case errors.As(err, &refused), errors.Is(err, domain.ErrBadInput), errors.Is(err, domain.ErrAnotherOwner):
		return SignInRefused
	case errors.Is(err, domain.ErrAuthMisconfigured):
		return SignInMisconfigured
	case errors.Is(err, domain.ErrAuthUnavailable):
		return SignInUnavailable
	case errors.Is(err, domain.ErrStore):
		return SignInStoreError
	}
	return SignInError
}

// unheard is the Metrics of a Broker that was given none.
type unheard struct{}

func (unheard) Refreshed(string, time.Duration) {}
func (unheard) RefreshShared()                  {}
func (unheard) RefreshAwaited()                 {}
func (unheard) RefreshWaited(time.Duration)     {}
func (unheard) LeaseLost()                      {}
func (unheard) AuthRefusesBroker(string, bool)  {}
func (unheard) SignedIn(string, string)         {}
func (unheard) SessionEnded(string)             {}
func (unheard) Revoked(string)                  {}
