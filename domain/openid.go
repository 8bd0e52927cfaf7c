package domain

import (
	"fmt"
	"io"
	"log/slog"
	"time"
)

// AuthRequest is how somebody is to be sent to an OpenID provider.
type AuthRequest struct {
	RedirectURI string        // where the provider sends the browser back to
	Prompt      string        // prompt, such as "login"; empty for what the settings say
	MaxAge      time.Duration // how long ago the person may have proved who they are, at most; 0 if it does not matter
	LoginHint   string        // whom the provider should suggest; may be empty
}

// Transaction is what has to be remembered between sending a browser to a
// provider and its return. It goes sealed into a cookie of that browser, which
// binds the answer to who asked; whoever reads State, Nonce and Verifier could
// answer in the browser's place. JSON carries all of it; printing shows the
// provider alone.
type Transaction struct {
	Provider    string        `json:"p"` // the provider's name in the settings
	State       string        `json:"s"`
	Nonce       string        `json:"n"`
	Verifier    string        `json:"v"` // of PKCE (RFC 7636)
	RedirectURI string        `json:"u"`
	MaxAge      time.Duration `json:"m,omitempty"`
	Started     time.Time     `json:"t"`
}

// Format implements fmt.Formatter for every verb.
func (t Transaction) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "sign-in at "+t.Provider) }

// LogValue implements slog.LogValuer.
func (t Transaction) LogValue() slog.Value { return slog.StringValue("sign-in at " + t.Provider) }

// Callback is what a provider's answer brings along in the browser's address.
type Callback struct {
	Code   Secret
	State  string
	Issuer string // iss (RFC 9207); empty if it was not there
	Error  string // error (RFC 6749, section 4.1.2.1); empty on success
}

// Authentication is what a sign-in with an OpenID provider has brought.
type Authentication struct {
	Issuer   string // with Identity.Subject, the owner
	Identity Identity
	Grant    Grant
	SID      string    // the provider's name for its session, or empty
	AuthTime time.Time // when the person proved who they are; zero if the provider does not say
	ACR      string    // how well, in the provider's words; may be empty
	AMR      []string  // by what means; may be empty
	DPoPKey  Secret    // the device's own key (RFC 9449) that the tokens are bound to; empty without DPoP
}

// Renewal is a refresh token with what it takes to use it.
type Renewal struct {
	Refresh Secret
	Subject string // whose it is: a new ID token has to be about the same person; empty if not known
	DPoPKey Secret // the key it is bound to, or empty
}

// LogoutNotice is a verified logout token (OpenID Connect Back-Channel Logout
// 1.0). Subject, SID or both are there: with a SID that session ends, else all
// of the subject's.
type LogoutNotice struct {
	Issuer  string
	Subject string
	SID     string
	ID      string    // jti: the same notice is not taken twice
	Until   time.Time // it would be refused from then on, so ID need not be remembered for longer
}

// SignInReason says why a sign-in with a provider came to nothing, in a word
// that a page can explain and a metric can have as a label.
type SignInReason string

const (
	SignInDeclined    SignInReason = "declined"    // the person, or the provider for them, said no
	SignInInteraction SignInReason = "interaction" // the provider has to ask the person and was told not to
	SignInMismatch    SignInReason = "mismatch"    // the answer is not to what this browser asked; begin again
	SignInTooLate     SignInReason = "too_late"    // the transaction or the code is too old or spent; begin again
	SignInTooOld      SignInReason = "too_old"     // the provider did not ask the person again, as it was to
	SignInUntrusted   SignInReason = "untrusted"   // a token did not pass the checks
	SignInRefused     SignInReason = "refused"     // the provider refuses the broker; an operator is needed
	SignInUnavailable SignInReason = "unavailable" // the provider could not be asked; it may pass
)

// SignInFailure is a sign-in with an OpenID provider that came to nothing. It
// unwraps to ErrAuthMisconfigured, ErrAuthUnavailable or ErrBadInput, after what
// can be done about it. Its text is for the log: it holds no token.
type SignInFailure struct {
	Reason SignInReason
	Err    error
}

func (e *SignInFailure) Error() string { return fmt.Sprintf("sign-in %s: %v", e.Reason, e.Err) }

// Unwrap gives the outcome and its cause.
func (e *SignInFailure) Unwrap() error { return e.Err }
