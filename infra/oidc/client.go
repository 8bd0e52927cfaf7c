package oidc

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/ed25519"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
	"time"

	"github.com/golang-jwt/jwt/v5"

	"cloakroom/domain"
)

const (
	// assertionLife is how long a client assertion is good for.
	assertionLife = time.Minute
)

// newClient returns a client that follows no redirect: one of them would carry
// a code, a secret or a token to wherever it points.
func newClient(transport http.RoundTripper) *http.Client {
	return &http.Client{
		Transport:     transport,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

// clientAuth adds the assertion of private_key_jwt to forms (RFC 7523, section
// 2.2), a new one each time that a form is sent, and bounds answers. With a
// client secret it has nothing to add.
type clientAuth struct {
	provider *Provider
	base     http.RoundTripper
}

func (a *clientAuth) RoundTrip(req *http.Request) (*http.Response, error) {
	if a.provider.cfg.AuthMethod == PrivateKeyJWT && req.GetBody != nil {
		var err error
		if req, err = a.asserted(req); err != nil {
			return nil, err
		}
	}
	resp, err := a.base.RoundTrip(req)
	if err == nil {
		resp.Body = &bounded{ReadCloser: resp.Body, left: maxDocument}
	}
	return resp, err
}

func (a *clientAuth) asserted(req *http.Request) (*http.Request, error) {
	if req.Body != nil {
		req.Body.Close()
	}
	body, err := req.GetBody()
	if err != nil {
		return nil, err
	}
	text, err := io.ReadAll(body)
	if err != nil {
		return nil, err
	}
	form, err := url.ParseQuery(string(text))
	if err != nil {
		return nil, errors.New("client assertion: the request is no form")
	}
	assertion, err := a.provider.assertion(req.URL)
	if err != nil {
		return nil, err
	}
	form.Set("client_assertion_type", "urn:ietf:params:oauth:client-assertion-type:jwt-bearer")
	form.Set("client_assertion", assertion)
	req = req.Clone(req.Context())
	encoded := form.Encode()
	req.Body, req.ContentLength = io.NopCloser(strings.NewReader(encoded)), int64(len(encoded))
	req.GetBody = func() (io.ReadCloser, error) { return io.NopCloser(strings.NewReader(encoded)), nil }
	return req, nil
}

// assertion signs who we are. Its audience is the issuer, so that no other
// provider can be handed it, unless the settings say otherwise.
func (p *Provider) assertion(endpoint *url.URL) (string, error) {
	id, err := p.random()
	if err != nil {
		return "", err
	}
	audience := p.cfg.Issuer
	switch p.cfg.AssertionAudience {
	case "":
	case TokenEndpoint:
		audience = endpoint.String()
	default:
		audience = p.cfg.AssertionAudience
	}
	now := p.cfg.Now()
	method := signingMethod(p.key)
	if method == jwt.SigningMethodRS256 && p.certificate != "" {
		method = jwt.SigningMethodPS256 // Entra, which knows keys by certificates, wants it so
	}
	token := jwt.NewWithClaims(method, jwt.MapClaims{
		"iss": p.cfg.ClientID, "sub": p.cfg.ClientID, "aud": audience, "jti": id,
		"iat": now.Unix(), "exp": now.Add(assertionLife).Unix(),
	})
	if p.cfg.KeyID != "" {
		token.Header["kid"] = p.cfg.KeyID
	}
	if p.certificate != "" {
		token.Header["x5t#S256"] = p.certificate
	}
	signed, err := token.SignedString(p.key)
	if err != nil {
		return "", errors.New("client assertion: the private key does not sign")
	}
	return signed, nil
}

// random returns 256 bits as text, which is also a PKCE verifier (RFC 7636,
// section 4.1).
func (p *Provider) random() (string, error) {
	var raw [32]byte
	if _, err := io.ReadFull(p.cfg.Random, raw[:]); err != nil {
		return "", fmt.Errorf("randomness: %w", err)
	}
	return base64.RawURLEncoding.EncodeToString(raw[:]), nil
}

// bounded is a body that fails when it is longer than an answer may be.
type bounded struct {
	io.ReadCloser
	left int64
}

var errTooLong = errors.New("the answer is too long")

func (b *bounded) Read(p []byte) (int, error) {
	if b.left < 0 {
		return 0, errTooLong
	}
	n, err := b.ReadCloser.Read(p[:min(int64(len(p)), b.left+1)])
	if b.left -= int64(n); b.left < 0 {
		return n, errTooLong
	}
	return n, err
}

// parsePrivateKey reads the PEM of a key that private_key_jwt can sign with, and
// the thumbprint of its certificate (x5t#S256; RFC 7515, section 4.1.8) if there
// is one beside it. Errors do not repeat it.
func parsePrivateKey(text domain.Secret) (key crypto.Signer, certificate string, err error) {
	rest := []byte(text.Reveal())
	for {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			break
		}
		switch {
		case block.Type == "CERTIFICATE" && certificate == "":
			sum := sha256.Sum256(block.Bytes)
			certificate = base64.RawURLEncoding.EncodeToString(sum[:])
		case strings.HasSuffix(block.Type, "PRIVATE KEY") && key == nil:
			if key, err = parseKeyBlock(block); err != nil {
				return nil, "", err
			}
		}
	}
	if key == nil {
		return nil, "", errors.New("the private key is no PEM of one")
	}
	return key, certificate, nil
}

func parseKeyBlock(block *pem.Block) (crypto.Signer, error) {
	var parsed any
	var err error
	switch block.Type {
	case "RSA PRIVATE KEY":
		parsed, err = x509.ParsePKCS1PrivateKey(block.Bytes)
	case "EC PRIVATE KEY":
		parsed, err = x509.ParseECPrivateKey(block.Bytes)
	default:
		parsed, err = x509.ParsePKCS8PrivateKey(block.Bytes)
	}
	if err != nil {
		return nil, errors.New("the private key cannot be read")
	}
	key, ok := parsed.(crypto.Signer)
	if !ok || signingMethod(key) == nil {
		return nil, errors.New("the private key is neither RSA of 2048 bits or more, nor ECDSA on P-256, P-384 or P-521, nor Ed25519")
	}
	return key, nil
}

// signingMethod returns how a key signs, or nil if it is of no use.
func signingMethod(key crypto.Signer) jwt.SigningMethod {
	switch k := key.(type) {
	case *rsa.PrivateKey:
		if k.N.BitLen() >= 2048 {
			return jwt.SigningMethodRS256
		}
	case *ecdsa.PrivateKey:
		switch k.Curve {
		case elliptic.P256():
			return jwt.SigningMethodES256
		case elliptic.P384():
			return jwt.SigningMethodES384
		case elliptic.P521():
			return jwt.SigningMethodES512
		}
	case ed25519.PrivateKey:
		return jwt.SigningMethodEdDSA
	}
	return nil
}
