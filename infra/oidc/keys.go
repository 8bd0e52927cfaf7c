package oidc

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"net/http"

	"cloakroom/infra/authcall"

	gooidc "github.com/coreos/go-oidc/v3/oidc"
	"github.com/go-jose/go-jose/v4"
)

// allAlgorithms are the signatures that a provider's tokens may have: by a
// private key, so that nobody who can check a token can also make one.
var allAlgorithms = []string{
	gooidc.RS256, gooidc.RS384, gooidc.RS512, gooidc.PS256, gooidc.PS384, gooidc.PS512,
	gooidc.ES256, gooidc.ES384, gooidc.ES512, gooidc.EdDSA,
}

// maxKeys is how many keys of a set are looked at. Providers have a handful.
const maxKeys = 64

type publicKey = jose.JSONWebKey

// keySet checks signatures with the provider's keys. It is go-oidc's KeySet
// with bounds: go-oidc's own asks for the keys again with every token that it
// cannot check, and never again while it can.
type keySet struct {
	fetched    *fetched[[]publicKey]
	algorithms []string
}

var errSignature = errors.New("no key of the provider has signed it")

// verify returns the payload of a token whose signature is good. It fails with
// errSignature if no key has made it, else with why the keys cannot be had.
func (k *keySet) verify(ctx context.Context, raw string) ([]byte, error) {
	algorithms := make([]jose.SignatureAlgorithm, len(k.algorithms))
	for i, a := range k.algorithms {
		algorithms[i] = jose.SignatureAlgorithm(a)
	}
	signed, err := jose.ParseSignedCompact(raw, algorithms)
	if err != nil || len(signed.Signatures) != 1 {
		return nil, errSignature
	}
	keys, err := k.fetched.get(ctx)
	if err != nil {
		return nil, err
	}
	at := k.fetched.since()
	if payload, ok := signedBy(signed, keys); ok {
		return payload, nil
	}
	// The provider may have changed keys (OpenID Connect Core 1.0, section
	// 10.1.1).
	if keys, err = k.fetched.renew(ctx, at); err != nil {
		return nil, err
	}
	if payload, ok := signedBy(signed, keys); ok {
		return payload, nil
	}
	return nil, errSignature
}

func signedBy(signed *jose.JSONWebSignature, keys []publicKey) ([]byte, bool) {
	header := signed.Signatures[0].Header
	for _, key := range keys {
		if header.KeyID != "" && key.KeyID != "" && key.KeyID != header.KeyID || key.Algorithm != "" && key.Algorithm != header.Algorithm {
			continue
		}
		if payload, err := signed.Verify(key.Key); err == nil {
			return payload, true
		}
	}
	return nil, false
}

// fetchKeys asks the provider for its keys. Those that are not for signatures,
// or of a kind that is not known here, are left out.
func (p *Provider) fetchKeys(ctx context.Context) ([]publicKey, error) {
	const op = "keys"
	m, err := p.found.get(ctx)
	if err != nil {
		return nil, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, m.Keys, nil)
	if err != nil {
		return nil, p.noted(misconfigured(op, authcall.ClientError, "no request can be made of its jwks_uri"))
	}
	resp, err := p.asking.Do(req)
	if err != nil {
		return nil, p.noted(documentFailed(ctx, op, err))
	}
	defer resp.Body.Close()
	var set struct {
		Keys []json.RawMessage `json:"keys"`
	}
	body, err := io.ReadAll(resp.Body)
	if err != nil || json.Unmarshal(body, &set) != nil || len(set.Keys) > maxKeys {
		return nil, p.noted(misconfigured(op, authcall.BrokenAnswer, "answered no key set, or one that is too long"))
	}
	var keys []publicKey
	for _, raw := range set.Keys {
		var key publicKey
		if key.UnmarshalJSON(raw) == nil && key.Valid() && key.IsPublic() && (key.Use == "" || key.Use == "sig") {
			keys = append(keys, key)
		}
	}
	if len(keys) == 0 {
		return nil, p.noted(misconfigured(op, authcall.BrokenAnswer, "answered no key that checks a signature"))
	}
	return keys, p.noted(nil)
}
