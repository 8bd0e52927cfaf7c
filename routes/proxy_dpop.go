package routes

import (
	"crypto/rand"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/gofiber/fiber/v2"

	"cloakroom/domain"
	"cloakroom/infra/dpop"
	"cloakroom/infra/upstream"
)

const (
	headerProof = "Dpop"
	headerNonce = "DPoP-Nonce"
)

// bound reports whether an access token is of use with a proof alone. A provider
// that has stopped to bind them gives bearer tokens to a device with a key as well.
func bound(t domain.Tokens) bool {
	return !t.DPoPKey.Empty() && strings.EqualFold(t.TokenType, dpop.TokenType)
}

// askWithProof sends a request whose token is bound to the device's key, with
// the proof that we have that key (RFC 9449, section 7.1), made for the address
// that is asked. One that wants a nonce in the proof gets the request once more,
// if its body can be had again; or another address gets it, which may want one as
// well.
func (h *handlers) askWithProof(x *exchange, to destination, out *upstream.Request, t domain.Tokens) (*upstream.Response, error) {
	key, err := dpop.ParseKey(t.DPoPKey)
	if err != nil {
		return nil, fmt.Errorf("%w: the device's key cannot be used", domain.ErrAuthMisconfigured)
	}
	path, _, _ := strings.Cut(out.Path, "?")
	target := &url.URL{RawPath: path}
	if target.Path, err = url.PathUnescape(path); err != nil {
		return nil, fmt.Errorf("%w: the path cannot be read", domain.ErrBadInput)
	}
	setAuthorization(out, dpop.TokenType, t.Access)
	var nonce string
	out.Aim = func() error {
		target.Scheme, target.Host = out.Target.Scheme, out.Target.Host
		nonce = h.nonces.For(target)
		proof, err := key.Proof(dpop.Use{Method: out.Method, URL: target, Access: t.Access, Nonce: nonce}, h.Now(), rand.Reader)
		if err != nil {
			return err
		}
		setField(out, headerProof, proof)
		return nil
	}
	defer func() { // what is sent next may be a bearer token
		out.Aim = nil
		dropField(out, headerProof)
	}()
	for wanted := []string(nil); ; wanted = append(wanted, target.Host) {
		r, err := x.ask(to, out)
		if err != nil {
			return nil, err
		}
		news := h.nonces.Learn(target, http.Header{http.CanonicalHeaderKey(headerNonce): {field(r, headerNonce)}}, nonce)
		if !news || r.Status != fiber.StatusUnauthorized || !wantsNonce(r) || slices.Contains(wanted, target.Host) || !x.body.sendAgain(out) {
			return r, nil
		}
		finish(r)
	}
}

// wantsNonce reports whether a refusal is about the nonce (RFC 9449, section 9).
func wantsNonce(r *upstream.Response) bool {
	return slices.ContainsFunc(r.Header, func(f upstream.Field) bool {
		return strings.EqualFold(f.Name, fiber.HeaderWWWAuthenticate) && strings.Contains(f.Value, `error="use_dpop_nonce"`)
	})
}

func field(r *upstream.Response, name string) string {
	for _, f := range r.Header {
		if strings.EqualFold(f.Name, name) {
			return f.Value
		}
	}
	return ""
}

// setField sets a field in place of all that the client has sent of that name.
func setField(r *upstream.Request, name, value string) {
	dropField(r, name)
	r.Header = append(r.Header, upstream.Field{Name: name, Value: value})
}

func dropField(r *upstream.Request, name string) {
	r.Header = slices.DeleteFunc(r.Header, func(f upstream.Field) bool { return strings.EqualFold(f.Name, name) })
}
