package httpapi

import (
	"encoding/json"
	"errors"
	"io"
	"mime"
	"net/http"
	"net/netip"
	"net/url"
	"strings"
	"unicode/utf8"
)

// input is every field that some endpoint reads. One struct serves all of them,
// so that JSON and forms cannot come to differ.
type input struct {
	Email        string `json:"email"`
	Username     string `json:"username"`
	Name         string `json:"name"`
	Password     string `json:"password"`
	RefreshToken string `json:"refresh_token"`
	Credential   string `json:"credential"`
}

// read takes the fields from a JSON or form body. What it does not know it
// leaves alone: OAuth clients send a grant_type and a scope along. Nothing is
// ever read from the query, because addresses end up in logs.
func read(r *http.Request) (input, error) {
	mediaType, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || mediaType != "application/json" && mediaType != "application/x-www-form-urlencoded" {
		return input{}, problem{http.StatusUnsupportedMediaType, "unsupported_media_type",
			"The body must be application/json or application/x-www-form-urlencoded."}
	}
	body, err := io.ReadAll(r.Body)
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		return input{}, problem{http.StatusRequestEntityTooLarge, "request_too_large", "The body is too large."}
	}
	if err != nil {
		return input{}, invalid("The body could not be read.")
	}
	var in input
	if mediaType == "application/json" {
		in, err = readJSON(body)
	} else {
		in, err = readForm(body)
	}
	in.Email = strings.TrimSpace(in.Email)
	in.Username = strings.TrimSpace(in.Username)
	in.Name = strings.TrimSpace(in.Name)
	return in, err
}

func readJSON(body []byte) (input, error) {
	// encoding/json replaces bytes that are no UTF-8, and different passwords
	// would become the same one.
	if !utf8.Valid(body) {
		return input{}, invalid("The body is not valid UTF-8.")
	}
	// A pointer tells null from an object.
	var in *input
	if err := json.Unmarshal(body, &in); err != nil || in == nil {
		return input{}, invalid("The body must be one JSON object whose fields are strings.")
	}
	return *in, nil
}

func readForm(body []byte) (input, error) {
	form, err := url.ParseQuery(string(body))
	if err != nil {
		return input{}, invalid("The body is not a valid form.")
	}
	var in input
	for name, field := range map[string]*string{
		"email":         &in.Email,
		"username":      &in.Username,
		"name":          &in.Name,
		"password":      &in.Password,
		"refresh_token": &in.RefreshToken,
		"credential":    &in.Credential,
	} {
		values := form[name]
		// RFC 6749, section 3.2: which of two values is meant would depend on
		// who reads them.
		if len(values) > 1 {
			return input{}, invalid("The field " + name + " is given more than once.")
		}
		if len(values) == 1 {
			*field = values[0]
		}
		if !utf8.ValidString(*field) {
			return input{}, invalid("The field " + name + " is not valid UTF-8.")
		}
	}
	return in, nil
}

// clientAddress is the TCP peer. Where that is a trusted proxy, it is the
// address that the proxy has seen, the last one in X-Forwarded-For, and so on
// to the left for as long as proxies are trusted. What stands further left was
// written by the client, who would otherwise get a new allowance of guesses
// with every made-up address.
func (a *api) clientAddress(r *http.Request) netip.Addr {
	address := parseAddress(r.RemoteAddr)
	hops := strings.Split(strings.Join(r.Header.Values("X-Forwarded-For"), ","), ",")
	for i := len(hops) - 1; i >= 0 && a.isTrusted(address); i-- {
		next := parseAddress(strings.TrimSpace(hops[i]))
		if !next.IsValid() {
			break
		}
		address = next
	}
	return address
}

func (a *api) isTrusted(address netip.Addr) bool {
	for _, network := range a.trusted {
		if network.Contains(address) {
			return true
		}
	}
	return false
}

// parseAddress reads an address with or without a port. It returns the invalid
// zero Addr for anything else, a Unix socket's peer for instance.
func parseAddress(s string) netip.Addr {
	if withPort, err := netip.ParseAddrPort(s); err == nil {
		return withPort.Addr().Unmap().WithZone("")
	}
	address, _ := netip.ParseAddr(s)
	return address.Unmap().WithZone("")
}
