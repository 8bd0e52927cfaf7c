package upstream

import (
	"net/netip"
	"strings"
)

// Client is whom a request comes from, as far as it is believed.
type Client struct {
	// Peer is the other end of the connection.
	Peer netip.Addr
	// Addr is the browser: Peer, or who the trusted proxies say it is.
	Addr netip.Addr
	// Trusted says that Peer is a proxy that is believed: what it says in
	// X-Forwarded-For stays, with Peer added to it.
	Trusted bool
	// Host and Proto are what the browser asked for: a host with perhaps a
	// port, and "http" or "https".
	Host, Proto string
}

// mostHops bounds how much of a trusted peer's X-Forwarded-For is taken over, from
// its end. What stands further left was written by the client, who could make a
// header of it that no upstream takes.
const mostHops = 32

// appendTo adds the fields by which an upstream learns of the client. chain is
// what a trusted peer said of the way before it. Forwarded (RFC 7239) is made
// from the same chain as X-Forwarded-For: a Forwarded of the peer's would be
// another truth, which a front proxy that knows only one of the two passes on as
// the client has made it up.
func (c Client) appendTo(out []Field, chain string) []Field {
	chain = lastHops(chain)
	peer := text(c.Peer)
	addr := peer
	if c.Addr != c.Peer {
		addr = text(c.Addr)
	}
	host := c.Host
	if !plainHost(host) {
		host = ""
	}
	out = append(out,
		Field{"X-Forwarded-For", appendElement(chain, peer)},
		Field{"X-Real-Ip", addr},
		Field{"X-Forwarded-Proto", c.Proto},
		Field{"Forwarded", forwarded(chain, c.Peer, host, c.Proto)},
	)
	if host != "" {
		out = append(out, Field{"X-Forwarded-Host", host})
	}
	return out
}

// forwarded writes the field's value: an element for each address of the
// chain, and one for peer, which alone knows host and proto.
func forwarded(chain string, peer netip.Addr, host, proto string) string {
	var b strings.Builder
	b.Grow(3*len(chain)/2 + len(host) + 64)
	for element := range tokens(chain) {
		writeFor(&b, ParseHop(element))
		b.WriteString(", ")
	}
	writeFor(&b, peer)
	if host != "" {
		b.WriteString(";host=")
		if strings.ContainsAny(host, ":[]") { // no token (RFC 7239, section 4)
			b.WriteByte('"')
			b.WriteString(host)
			b.WriteByte('"')
		} else {
			b.WriteString(host)
		}
	}
	b.WriteString(";proto=")
	b.WriteString(proto)
	return b.String()
}

// ParseHop reads an address as proxies write it in X-Forwarded-For, with a port or
// without. What is none is the zero address.
func ParseHop(s string) netip.Addr {
	if addr, err := netip.ParseAddr(s); err == nil {
		return addr.Unmap().WithZone("")
	}
	ap, _ := netip.ParseAddrPort(s)
	return ap.Addr().Unmap().WithZone("")
}

func writeFor(b *strings.Builder, addr netip.Addr) {
	var buf [48]byte
	b.WriteString("for=")
	switch {
	case !addr.IsValid():
		b.WriteString("unknown")
	case addr.Is4():
		b.Write(addr.AppendTo(buf[:0]))
	default:
		b.WriteString(`"[`)
		b.Write(addr.AppendTo(buf[:0]))
		b.WriteString(`]"`)
	}
}

// text is the address in text, "unknown" if there is none: not every
// connection has one.
func text(addr netip.Addr) string {
	if !addr.IsValid() {
		return "unknown"
	}
	return addr.String()
}

// appendElement adds an element to a comma-separated list.
func appendElement(list, element string) string {
	if list == "" {
		return element
	}
	return list + ", " + element
}

func lastHops(chain string) string {
	for i, hops := len(chain)-1, 0; i >= 0; i-- {
		if chain[i] == ',' {
			if hops++; hops == mostHops {
				return strings.TrimLeft(chain[i+1:], " \t")
			}
		}
	}
	return chain
}

// plainHost reports whether host is made of what host names, addresses and
// ports are made of.
func plainHost(host string) bool {
	for i := range len(host) {
		c := host[i]
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.IndexByte(".-_:[]", c) >= 0) {
			return false
		}
	}
	return host != ""
}
