// Package dpop proves possession of a key with each use of a token (RFC 9449),
// so that a token that leaks is of no use without it. It makes keys and proofs;
// transport.go sends them and minds the nonces that servers ask for.
//
// Where keys are kept is not decided here: a key is a domain.Secret that the
// record of its device holds, sealed like the tokens that are bound to it. The
// package knows nothing of OpenID; infra/oidc uses it towards a provider, and
// whoever carries tokens to an upstream uses it there.
package dpop

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/url"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/domain"
)

// TokenType is what a server calls tokens that are bound to a key, and the
// scheme of the Authorization header that carries them.
const TokenType = "DPoP"

// Key is a device's private key, ES256, which every server that knows DPoP
// takes.
type Key struct {
	private *ecdsa.PrivateKey
	public  map[string]string // as a JWK
}

// NewKey makes a key and returns the text that a record keeps.
func NewKey() (domain.Secret, error) {
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return domain.Secret{}, fmt.Errorf("dpop key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return domain.Secret{}, fmt.Errorf("dpop key: %w", err)
	}
	return domain.NewSecret(base64.RawURLEncoding.EncodeToString(der)), nil
}

// ErrKey: what a record keeps is no key.
var ErrKey = errors.New("not a dpop key")

// ParseKey reads what NewKey has written, or fails with ErrKey.
func ParseKey(text domain.Secret) (Key, error) {
	der, err := base64.RawURLEncoding.DecodeString(text.Reveal())
	if err != nil {
		return Key{}, ErrKey
	}
	parsed, err := x509.ParsePKCS8PrivateKey(der)
	if err != nil {
		return Key{}, ErrKey
	}
	private, ok := parsed.(*ecdsa.PrivateKey)
	if !ok || private.Curve != elliptic.P256() {
		return Key{}, ErrKey
	}
	point, err := private.PublicKey.Bytes() // 4, x, y (SEC 1, section 2.3.3)
	if err != nil {
		return Key{}, ErrKey
	}
	encode := base64.RawURLEncoding.EncodeToString
	return Key{private: private, public: map[string]string{
		"kty": "EC", "crv": "P-256", "x": encode(point[1:33]), "y": encode(point[33:]),
	}}, nil
}

// Use is one request that a proof is made for.
type Use struct {
	Method string
	URL    *url.URL      // query and fragment do not count (RFC 9449, section 4.2)
	Access domain.Secret // the token that the request carries, or empty at a token endpoint
	Nonce  string        // that the server gave last, or empty
}

// Proof returns the value of the DPoP header for one request. Each has an id of
// its own from random: a server takes it once.
func (k Key) Proof(u Use, now time.Time, random io.Reader) (string, error) {
	var id [16]byte
	if _, err := io.ReadFull(random, id[:]); err != nil {
		return "", fmt.Errorf("dpop proof: %w", err)
	}
	target := *u.URL
	target.RawQuery, target.ForceQuery, target.Fragment, target.RawFragment, target.User = "", false, "", "", nil
	claims := jwt.MapClaims{
		"jti": base64.RawURLEncoding.EncodeToString(id[:]),
		"htm": u.Method,
		"htu": target.String(),
		"iat": now.Unix(),
	}
	if !u.Access.Empty() {
		sum := sha256.Sum256([]byte(u.Access.Reveal()))
		claims["ath"] = base64.RawURLEncoding.EncodeToString(sum[:])
	}
	if u.Nonce != "" {
		claims["nonce"] = u.Nonce
	}
	token := jwt.NewWithClaims(jwt.SigningMethodES256, claims)
	token.Header["typ"], token.Header["jwk"] = "dpop+jwt", k.public
	proof, err := token.SignedString(k.private)
	if err != nil {
		return "", fmt.Errorf("dpop proof: %w", err)
	}
	return proof, nil
}
