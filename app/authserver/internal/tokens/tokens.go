// Package tokens signs and verifies access tokens: JWTs that an API checks by
// the published key alone, without asking the auth server. Refresh tokens are
// no JWTs; package accounts keeps them.
package tokens

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	"github.com/google/uuid"
)

// mediaType is the header's typ. It keeps an access token from being taken for
// another kind of JWT under the same key (RFC 9068, section 2.1).
const mediaType = "at+jwt"

// ErrInvalid says that a token is not one of ours, not for our audience, or
// over. It does not say which: the bearer has no use for the difference.
var ErrInvalid = errors.New("access token invalid")

// Subject is whom an access token speaks for.
type Subject struct {
	ID            string // UUID of the account
	Email         string
	EmailVerified bool // a provider vouches for Email
	Role          string
}

type claims struct {
	jwt.RegisteredClaims
	Email string `json:"email"`
	// EmailVerified is false for whoever registered here: they have not shown that
	// the address is theirs, and an API that takes it for proof would let anyone
	// in who registers with it.
	EmailVerified bool   `json:"email_verified"`
	Role          string `json:"role"`
}

// Signer issues access tokens under one key. It is safe for concurrent use.
type Signer struct {
	issuer   string
	audience string
	lifetime time.Duration
	key      *ecdsa.PrivateKey
	keyID    string
	jwks     []byte
	parser   *jwt.Parser
}

// NewKey makes a signing key, in PKCS #8. It is a P-256 key for ES256, which
// every JWT library in use can verify; EdDSA support is not as common.
func NewKey() ([]byte, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a signing key: %w", err)
	}
	return x509.MarshalPKCS8PrivateKey(key)
}

// NewSigner takes a key from NewKey and what its tokens carry as iss and aud.
// now is the clock that Verify goes by.
func NewSigner(pkcs8 []byte, issuer, audience string, lifetime time.Duration, now func() time.Time) (*Signer, error) {
	parsed, err := x509.ParsePKCS8PrivateKey(pkcs8)
	if err != nil {
		return nil, fmt.Errorf("read the signing key: %w", err)
	}
	key, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || key.Curve != elliptic.P256() {
		return nil, errors.New("read the signing key: not a P-256 key")
	}
	keyID, jwks, err := publish(&key.PublicKey)
	if err != nil {
		return nil, err
	}
	return &Signer{
		issuer:   issuer,
		audience: audience,
		lifetime: lifetime,
		key:      key,
		keyID:    keyID,
		jwks:     jwks,
		parser: jwt.NewParser(
			jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}),
			jwt.WithIssuer(issuer),
			jwt.WithAudience(audience),
			jwt.WithExpirationRequired(),
			jwt.WithTimeFunc(now),
		),
	}, nil
}

// Issue signs a token for the subject. It also returns for how long it is good,
// in whole seconds. The claim exp has no fractions either: it is rounded up, so
// that a client who adds the lifetime to its own clock never holds a token for
// good that has run out already.
func (s *Signer) Issue(subject Subject, now time.Time) (token string, lifetime time.Duration, err error) {
	lifetime = s.lifetime.Truncate(time.Second)
	expires := now.Add(lifetime)
	if whole := expires.Truncate(time.Second); whole.Before(expires) {
		expires = whole.Add(time.Second)
	}
	id, err := uuid.NewRandom()
	if err != nil {
		return "", 0, fmt.Errorf("name an access token: %w", err)
	}
	unsigned := jwt.NewWithClaims(jwt.SigningMethodES256, claims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer:    s.issuer,
			Subject:   subject.ID,
			Audience:  jwt.ClaimStrings{s.audience},
			IssuedAt:  jwt.NewNumericDate(now),
			ExpiresAt: jwt.NewNumericDate(expires),
			ID:        id.String(),
		},
		Email:         subject.Email,
		EmailVerified: subject.EmailVerified,
		Role:          subject.Role,
	})
	unsigned.Header["typ"] = mediaType
	unsigned.Header["kid"] = s.keyID
	token, err = unsigned.SignedString(s.key)
	if err != nil {
		return "", 0, fmt.Errorf("sign an access token: %w", err)
	}
	return token, lifetime, nil
}

// Verify returns the account id that a token speaks for, or ErrInvalid.
func (s *Signer) Verify(token string) (accountID string, err error) {
	var c claims
	_, err = s.parser.ParseWithClaims(token, &c, func(t *jwt.Token) (any, error) {
		if t.Header["typ"] != mediaType || t.Header["kid"] != s.keyID {
			return nil, ErrInvalid
		}
		return &s.key.PublicKey, nil
	})
	if err != nil {
		// The library's error can quote the token's claims.
		return "", ErrInvalid
	}
	return c.Subject, nil
}

// JWKS returns the key set that verifies the tokens (RFC 7517).
func (s *Signer) JWKS() []byte { return s.jwks }

// publish writes the public key as a key set, named by its thumbprint
// (RFC 7638): the same key has the same name after every start.
func publish(key *ecdsa.PublicKey) (keyID string, jwks []byte, err error) {
	point, err := key.Bytes() // 4 | x | y, each 32 bytes
	if err != nil {
		return "", nil, fmt.Errorf("publish the signing key: %w", err)
	}
	b64 := base64.RawURLEncoding.EncodeToString
	// The thumbprint hashes these members in this order and no others.
	type coordinates struct {
		Curve string `json:"crv"`
		Type  string `json:"kty"`
		X     string `json:"x"`
		Y     string `json:"y"`
	}
	c := coordinates{Curve: "P-256", Type: "EC", X: b64(point[1:33]), Y: b64(point[33:])}
	canonical, err := json.Marshal(c)
	if err != nil {
		return "", nil, fmt.Errorf("publish the signing key: %w", err)
	}
	sum := sha256.Sum256(canonical)
	keyID = b64(sum[:])

	type jwk struct {
		coordinates
		KeyID     string `json:"kid"`
		Use       string `json:"use"`
		Algorithm string `json:"alg"`
	}
	jwks, err = json.Marshal(map[string][]jwk{"keys": {{coordinates: c, KeyID: keyID, Use: "sig", Algorithm: "ES256"}}})
	if err != nil {
		return "", nil, fmt.Errorf("publish the signing key: %w", err)
	}
	return keyID, jwks, nil
}
