package routes

import (
	"encoding/base64"
	"encoding/json"
	"strings"
	"sync"

	"cloakroom/domain"
)

// mostScopes is how many devices' scopes are kept at hand.
const mostScopes = 10_000

// scopes knows what access tokens are good for, by what the auth server has said
// with them or else by what they say themselves. Each of those is read once, and
// not with every request that it is used for.
//
// The zero value is ready.
type scopes struct {
	mu    sync.Mutex
	known map[domain.DeviceID]granted
}

type granted struct {
	token domain.Secret
	names []string
}

// of returns the scopes of a device's present access token.
func (s *scopes) of(r domain.Record) []string {
	if r.Tokens.Scope != "" {
		return strings.Fields(r.Tokens.Scope)
	}
	s.mu.Lock()
	have, ok := s.known[r.DeviceID]
	s.mu.Unlock()
	if ok && have.token.Equal(r.Tokens.Access) {
		return have.names
	}
	names := scopesIn(r.Tokens.Access.Reveal())
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.known == nil {
		s.known = make(map[domain.DeviceID]granted)
	}
	for id := range s.known {
		if len(s.known) < mostScopes {
			break
		}
		delete(s.known, id) // any one: it costs a reading
	}
	s.known[r.DeviceID] = granted{r.Tokens.Access, names}
	return names
}

// scopesIn reads the claim scope of a JWT (RFC 9068, section 2.2.3), or scp, which
// some servers write instead. A token that is no JWT has none that we could know.
//
// The signature is the upstream's to check. The token came from the auth server
// in answer to us and has been in no other hands.
func scopesIn(token string) []string {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return nil
	}
	payload, err := base64.RawURLEncoding.DecodeString(parts[1])
	if err != nil {
		return nil
	}
	var claims struct {
		Scope, Scp json.RawMessage
	}
	if json.Unmarshal(payload, &claims) != nil {
		return nil
	}
	return append(scopeNames(claims.Scope), scopeNames(claims.Scp)...)
}

// scopeNames reads a text with spaces between the names, or a list.
func scopeNames(claim json.RawMessage) []string {
	var text string
	if json.Unmarshal(claim, &text) == nil {
		return strings.Fields(text)
	}
	var list []string
	if json.Unmarshal(claim, &list) != nil {
		return nil
	}
	return list
}
