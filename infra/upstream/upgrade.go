package upstream

import (
	"iter"
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

// SwitchedTo is the protocol to which an upstream switches with a 101 of this
// header. It is false if that is none of those that the request's upgrade offers:
// the connection would become a tunnel that nobody has asked for.
func SwitchedTo(upgrade string, header []Field) (protocol string, ok bool) {
	named, lines := false, 0
	for _, f := range header {
		switch {
		case is(f.Name, "connection"):
			named = named || hasToken(f.Value, "upgrade")
		case is(f.Name, "upgrade"):
			protocol = f.Value
			lines++
		}
	}
	return protocol, named && lines == 1 && offers(upgrade, protocol)
}

func offers(upgrade, protocol string) bool {
	for offered := range tokens(upgrade) {
		if strings.EqualFold(offered, protocol) {
			return true
		}
	}
	return false
}
