package upstream

import (
	"errors"
	"iter"
	"net/http"
	"strings"
)

// UpgradeOf is what a request asks to switch to: the protocols that its Upgrade
// field lists, provided that its Connection field names that one (RFC 9110,
// section 7.8), without those that must not pass. It is "" if nothing is left.
//
// Other versions of HTTP do not pass, and neither does TLS: on such a connection
// a client would send requests that nobody here looks at.
func UpgradeOf(in iter.Seq2[[]byte, []byte]) string {
	var offered []string
	named := false
	for name, value := range in {
		switch {
		case is(name, "connection"):
			named = named || hasToken(value, "upgrade")
		case is(name, "upgrade") && plainValue(value):
			for protocol := range tokens(value) {
				if passesUpgrade(protocol) {
					offered = append(offered, string(protocol))
				}
			}
		}
	}
	if !named {
		return ""
	}
	return strings.Join(offered, ", ")
}

func passesUpgrade(protocol []byte) bool {
	name := protocol
	for i, c := range protocol {
		if c == '/' {
			name = protocol[:i]
			break
		}
	}
	return !is(name, "h2c") && !is(name, "h2") && !is(name, "h3") && !is(name, "http") && !is(name, "tls")
}

// switched makes the answer of an upstream's 101, which has to name one of the
// protocols that were asked for.
func switched(r *Request, in *http.Response) (*Response, error) {
	protocol := strings.Join(in.Header["Upgrade"], ", ")
	conn, ok := in.Body.(Tunnel)
	if !ok || !hasToken([]byte(strings.Join(in.Header["Connection"], ",")), "upgrade") || !offers(r.Upgrade, protocol) {
		in.Body.Close()
		return nil, &Error{Kind: BadAnswer, Err: errors.New("switched to a protocol that was not asked for")}
	}
	out := newResponse(in)
	out.Tunnel, out.Protocol = conn, protocol
	return out, nil
}

func offers(upgrade, protocol string) bool {
	for offered := range tokens(upgrade) {
		if strings.EqualFold(offered, protocol) {
			return true
		}
	}
	return false
}
