package domain

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"time"
)

// Lifetimes is the policy by which tokens and records end. All durations are
// positive; the settings see to that.
type Lifetimes struct {
	Access   time.Duration // of an access token that does not say
	Refresh  time.Duration // of a refresh token that does not say
	Idle     time.Duration // a device unseen for this long has ended
	Absolute time.Duration // a sign-in ends this long after it, however busy

	Margin time.Duration // an access token counts as expired this long before it is
	Ahead  time.Duration // an access token is refreshed behind a request this long before it expires
}

// Neither margin nor lead is ever longer than this fraction of a token's life,
// so that a token of a few seconds is not refreshed on every request.
const (
	marginFraction = 10
	aheadFraction  = 4
)

// longestLife caps what an auth server claims, so that a broken answer cannot
// make a date that no store can hold.
const longestLife = 10 * 365 * 24 * time.Hour

// Grant is what an auth server answered to a sign-in or a refresh, before it is
// known when its tokens end.
type Grant struct {
	TokenType   string
	Scope       string // empty if it says nothing
	Access      Secret
	AccessLife  time.Duration // what expires_in says; 0 if it says nothing
	Refresh     Secret        // empty if there was none in the answer
	RefreshLife time.Duration // what refresh_expires_in says; 0 if it says nothing
	ID          Secret
	// IDDoubt is why an ID token that was in the answer is not in ID, for the
	// log: the rest of the answer holds without it. It is nil as a rule.
	IDDoubt error
}

// Tokens turns a grant that arrived at now into tokens with their expiries: the
// life that the answer states, else that of the token itself if it is a JWT,
// else the policy's. A negative life means expired, not unknown.
func (l Lifetimes) Tokens(g Grant, now time.Time) Tokens {
	t := Tokens{
		TokenType:    g.TokenType,
		Scope:        g.Scope,
		Access:       g.Access,
		AccessIssued: now,
		AccessExpiry: now.Add(life(g.AccessLife, g.Access, now, l.Access)),
		Refresh:      g.Refresh,
		ID:           g.ID,
	}
	if !g.Refresh.Empty() {
		t.RefreshExpiry = now.Add(life(g.RefreshLife, g.Refresh, now, l.Refresh))
	}
	return t
}

// Renewed turns the grant of a refresh into the tokens that follow t. A grant
// without a refresh or ID token keeps the old one (RFC 6749, section 6; OpenID
// Connect Core 1.0, section 12.2), the old refresh token with its old expiry; one
// that names no scope is of the old one (RFC 6749, section 5.1). The key stays.
func (l Lifetimes) Renewed(t Tokens, g Grant, now time.Time) Tokens {
	next := l.Tokens(g, now)
	if next.Refresh.Empty() {
		next.Refresh, next.RefreshExpiry = t.Refresh, t.RefreshExpiry
	}
	if next.ID.Empty() {
		next.ID = t.ID
	}
	if next.TokenType == "" {
		next.TokenType = t.TokenType
	}
	if next.Scope == "" {
		next.Scope = t.Scope
	}
	next.DPoPKey = t.DPoPKey
	return next
}

func life(stated time.Duration, token Secret, now time.Time, fallback time.Duration) time.Duration {
	d := stated
	if d == 0 {
		d = jwtLife(token.Reveal(), now)
	}
	if d == 0 {
		d = fallback
	}
	return min(max(d, 0), longestLife)
}

// jwtLife returns how long an unverified JWT has to live, or 0 if it does not
// say. A token that states when it was issued is measured by the auth server's
// own clock, exp less iat, because it was issued just now and the two clocks
// may be minutes apart. The signature is the upstream's to check: this is only
// about when to ask for the next token.
func jwtLife(token string, now time.Time) time.Duration {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return 0
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return 0
	}
	var claims struct {
		Expires *float64 `json:"exp"` // NumericDate: seconds, fractions allowed (RFC 7519, section 2)
		Issued  *float64 `json:"iat"`
	}
	if json.Unmarshal(payload, &claims) != nil || claims.Expires == nil {
		return 0
	}
	from := float64(now.UnixMilli()) / 1000
	if claims.Issued != nil {
		from = *claims.Issued
	}
	seconds := min(max(*claims.Expires-from, -1), longestLife.Seconds())
	if d := time.Duration(seconds * float64(time.Second)).Truncate(time.Millisecond); d != 0 {
		return d
	}
	return -time.Millisecond // it says that it ends at once, which is not saying nothing
}

// AccessUsable reports whether the access token works at now, with the margin
// that a request needs to reach the upstream.
func (l Lifetimes) AccessUsable(t Tokens, now time.Time) bool {
	return !t.Access.Empty() && now.Before(t.AccessExpiry.Add(-cut(l.Margin, t, marginFraction)))
}

// AccessAlive reports whether the access token has not expired yet, margin or
// not. It is what remains to be used while the auth server is away.
func (l Lifetimes) AccessAlive(t Tokens, now time.Time) bool {
	return !t.Access.Empty() && now.Before(t.AccessExpiry)
}

// AccessEndsSoon reports whether it is time to refresh behind a request.
func (l Lifetimes) AccessEndsSoon(t Tokens, now time.Time) bool {
	return !now.Before(t.AccessExpiry.Add(-cut(l.Ahead, t, aheadFraction)))
}

func cut(d time.Duration, t Tokens, fraction int64) time.Duration {
	return min(d, t.AccessExpiry.Sub(t.AccessIssued)/time.Duration(fraction))
}

// End says why a record is over.
type End string

// The ends that time alone brings. What a person, an admin or an auth server
// ends has words of its own beside the code that does it.
const (
	NotEnded      End = ""
	EndedIdle     End = "idle_timeout"
	EndedAbsolute End = "absolute_lifetime"
	EndedTokens   End = "refresh_expired"
)

// EndsAt returns when the record ends if nothing more is heard of the device:
// the earliest of the idle timeout, the absolute lifetime and the expiry of the
// refresh token, or of the access token if there is no other.
func (l Lifetimes) EndsAt(r Record) time.Time {
	end, _ := l.end(r)
	return end
}

// Ended reports why the record is over at now, or NotEnded.
func (l Lifetimes) Ended(r Record, now time.Time) End {
	if end, why := l.end(r); !now.Before(end) {
		return why
	}
	return NotEnded
}

func (l Lifetimes) end(r Record) (time.Time, End) {
	end, why := r.Tokens.RefreshExpiry, EndedTokens
	if end.IsZero() {
		end = r.Tokens.AccessExpiry
	}
	if t := r.AuthTime.Add(l.Absolute); t.Before(end) {
		end, why = t, EndedAbsolute
	}
	if t := r.LastSeenAt.Add(l.Idle); t.Before(end) {
		end, why = t, EndedIdle
	}
	return end, why
}

// Refreshable reports whether a new access token can be had at now without
// the person.
func (r Record) Refreshable(now time.Time) bool {
	return !r.Tokens.Refresh.Empty() && now.Before(r.Tokens.RefreshExpiry)
}
