package oidc

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"

	gooidc "github.com/coreos/go-oidc/v3/oidc"

	"cloakroom/domain"
	"cloakroom/infra/authcall"
)

// maxDocument is the size of the longest answer that is read, in bytes.
const maxDocument = 1 << 20

// metadata is what a provider says of itself.
type metadata struct {
	provider *gooidc.Provider

	Authorization string   `json:"authorization_endpoint"`
	Token         string   `json:"token_endpoint"`
	Keys          string   `json:"jwks_uri"`
	UserInfo      string   `json:"userinfo_endpoint"`
	Revocation    string   `json:"revocation_endpoint"`
	EndSession    string   `json:"end_session_endpoint"`
	AuthMethods   []string `json:"token_endpoint_auth_methods_supported"`
	SendsIssuer   bool     `json:"authorization_response_iss_parameter_supported"`
}

// discover asks the provider for its metadata. go-oidc holds the issuer in it
// against ours, to the letter (OpenID Connect Discovery 1.0, section 4.3).
func (p *Provider) discover(ctx context.Context) (*metadata, error) {
	const op = "discovery"
	found, err := gooidc.NewProvider(gooidc.ClientContext(ctx, p.asking), p.cfg.Issuer)
	var mismatch *gooidc.IssuerMismatchError
	switch {
	case errors.As(err, &mismatch):
		return nil, p.noted(misconfigured(op, IssuerMismatch, "the provider calls itself otherwise than the settings; the issuer has to be the same to the letter"))
	case err != nil:
		return nil, p.noted(documentFailed(ctx, op, err))
	}
	m := &metadata{provider: found}
	if err := found.Claims(m); err != nil {
		return nil, p.noted(misconfigured(op, authcall.BrokenAnswer, "the document cannot be read"))
	}
	for _, endpoint := range []struct {
		name, url string
		needed    bool
	}{
		{"authorization_endpoint", m.Authorization, true},
		{"token_endpoint", m.Token, true},
		{"jwks_uri", m.Keys, true},
		{"userinfo_endpoint", m.UserInfo, p.cfg.UserInfo},
		{"revocation_endpoint", m.Revocation, false},
		{"end_session_endpoint", m.EndSession, false},
	} {
		if endpoint.url == "" && !endpoint.needed {
			continue
		}
		if err := checkURL(endpoint.url, p.cfg.PlainHTTP); err != nil {
			return nil, p.noted(misconfigured(op, authcall.BrokenAnswer, fmt.Sprintf("its %s %v", endpoint.name, err)))
		}
	}
	return m, p.noted(nil)
}

// documents is the way to discovery and keys: an answer that is not one JSON
// object of bearable size, with status 200, is an error. Redirects are among
// them, for nothing that the settings do not name is asked to vouch for people.
type documents struct{ base http.RoundTripper }

func (d documents) RoundTrip(req *http.Request) (*http.Response, error) {
	resp, err := d.base.RoundTrip(req)
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, &badDocument{status: resp.StatusCode, retry: resp.Header.Get("Retry-After")}
	}
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxDocument)) // an object that is cut off is none
	if err != nil {
		return nil, err
	}
	var object map[string]json.RawMessage
	if json.Unmarshal(body, &object) != nil || object == nil {
		return nil, &badDocument{status: resp.StatusCode}
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	return resp, nil
}

// badDocument is an answer that is none.
type badDocument struct {
	status int
	retry  string
}

func (e *badDocument) Error() string { return "bad document" }

// documentFailed judges why a document could not be had: 5xx, 408, 425, 429 and
// the network's failures pass, everything else is a matter of settings.
func documentFailed(ctx context.Context, op string, err error) error {
	var bad *badDocument
	var request *url.Error // http.Client's: there was no answer
	switch {
	case errors.As(err, &bad):
	case errors.As(err, &request):
		return authcall.Unreachable(ctx, op, err)
	default:
		return misconfigured(op, authcall.BrokenAnswer, "the document cannot be read")
	}
	switch {
	case bad.status >= 500, bad.status == http.StatusRequestTimeout, bad.status == http.StatusTooEarly, bad.status == http.StatusTooManyRequests:
		return &domain.Unavailable{Err: &authcall.Error{
			Kind: kindOf(bad.status), Status: bad.status, Op: op, What: fmt.Sprintf("answered %d", bad.status), Outcome: domain.ErrAuthUnavailable,
		}, Why: string(kindOf(bad.status))}
	case bad.status == http.StatusOK:
		return misconfigured(op, authcall.BrokenAnswer, "answered no document, or one that is too long")
	}
	e := misconfigured(op, authcall.ClientError, fmt.Sprintf("answered %d", bad.status))
	e.Status = bad.status
	return e
}
