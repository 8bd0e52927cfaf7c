package upstream

import (
	"iter"
	"slices"
	"strings"
)

// Field is one line of a header or trailer section.
type Field struct {
	Name, Value string
}

// RequestHeader makes the header of the request to an upstream out of the one
// that a client has sent, in names and values whose bytes may change after the
// iteration. What the client says about itself, about its way here
// or about who it is does not pass: those fields are from's and authorization's
// to say. cookie is the Cookie field to send, without our own; it and
// authorization may be empty.
//
// set are fields that come in the place of the client's of the same names.
//
// Fields of one connection only do not pass either: the ones of RFC 9110,
// section 7.6.1, and those that the client's Connection names. They are taken
// out before ours are put in, so that Connection cannot name one of ours.
func RequestHeader(in iter.Seq2[[]byte, []byte], from Client, cookie, authorization string, set ...Field) []Field {
	b := requestHeader{out: make([]Field, 0, 24), trusted: from.Trusted}
	for name, value := range in {
		b.add(name, value)
	}
	out := without(b.out, b.named)
	if len(set) > 0 {
		out = slices.DeleteFunc(out, func(f Field) bool {
			return slices.ContainsFunc(set, func(s Field) bool { return strings.EqualFold(s.Name, f.Name) })
		})
		out = append(out, set...)
	}
	if b.trailers {
		// Without it an upstream keeps its trailers to itself.
		out = append(out, Field{"Te", "trailers"})
	}
	if cookie != "" {
		out = append(out, Field{"Cookie", cookie})
	}
	if authorization != "" {
		out = append(out, Field{"Authorization", authorization})
	}
	return from.appendTo(out, b.chain)
}

// requestHeader gathers what remains of a client's header.
type requestHeader struct {
	out      []Field
	named    []string // by Connection
	trusted  bool
	chain    string // of X-Forwarded-For, if trusted
	trailers bool   // the client takes them
}

func (b *requestHeader) add(name, value []byte) {
	switch requestField(name) {
	case endToEnd:
		if plainValue(value) {
			b.out = append(b.out, Field{intern(name), string(value)})
		}
	case connection:
		b.named = appendTokens(b.named, value)
	case te:
		b.trailers = b.trailers || hasToken(value, "trailers")
	case forwardedFor:
		if b.trusted && plainValue(value) {
			b.chain = appendElement(b.chain, string(value))
		}
	}
}

// ResponseHeader takes out of an upstream's header, in place, what is not for
// the client: fields of one connection only, and any Set-Cookie for one of
// cookies, which are ours alone to set. An upstream that could set them could
// put somebody into another's session.
//
// Content-Length goes as well: the length of a response's body is in
// Response.Length.
func ResponseHeader(header []Field, cookies ...string) []Field {
	var named []string
	out := header[:0]
	for _, f := range header {
		switch responseField(f.Name) {
		case connection:
			named = appendTokens(named, f.Value)
			continue
		case hopByHop, replaced:
			continue
		case setCookie:
			if setsCookie(f.Value, cookies) {
				continue
			}
		}
		out = append(out, f)
	}
	return without(out, named)
}

// MaySet reports whether a field of this name may be given to upstreams by
// configuration: none that is anybody else's to say.
func MaySet(name string) bool {
	return requestField(name) == endToEnd && !is(name, "content-type") && !is(name, "content-encoding")
}

// MayHide reports whether a field of an upstream's answer may be left out by
// configuration.
func MayHide(name string) bool {
	k := responseField(name)
	return plainName(name) && (k == endToEnd || k == setCookie) && !is(name, "content-type") && !is(name, "content-encoding") && !is(name, "content-range")
}

// PassesTrailer reports whether a trailer field of this name may pass, in
// either direction: none that any header policy has an opinion on (RFC 9110,
// section 6.5.1).
func PassesTrailer(name string) bool {
	return requestField(name) == endToEnd && responseField(name) == endToEnd
}

// PassesRequest reports whether a client's field of this name passes as it is,
// unless Connection names it.
func PassesRequest(name string) bool { return requestField(name) == endToEnd }

// kind is what a field's name means for the policy.
type kind uint8

const (
	endToEnd kind = iota
	hopByHop
	replaced // ours to say, or by its name not fit to pass
	connection
	te
	forwardedFor
	setCookie
)

// identities begin the names of fields in which some proxy or other tells an
// upstream who is signed in, and that upstreams believe for it.
var identities = []string{
	"x-auth-request-", "x-webauth-", "x-remote-", "x-authenticated-", "x-authentik-", "x-ssl-client-", "x-client-cert",
	"x-goog-authenticated-user-", "x-goog-iap-", "x-amzn-oidc-", "x-ms-client-principal", "x-ms-token-",
}

// requestField tells what a client's field is.
//
// Names with an underscore do not pass, because CGI and its heirs make the same
// variable of X_Forwarded_For and X-Forwarded-For; nor does Proxy, which becomes
// HTTP_PROXY there. X-Original-* and X-Rewrite-Url name the path to some
// frameworks, past every check that was made of the one in the request line.
func requestField[T ~string | ~[]byte](name T) kind {
	if !plainName(name) {
		return replaced
	}
	switch name[0] | 0x20 {
	case 'a':
		return oneOf(name, replaced, "authorization")
	case 'c':
		if is(name, "connection") {
			return connection
		}
		return oneOf(name, replaced, "content-length", "cookie", "client-ip", "cf-connecting-ip")
	case 'e':
		return oneOf(name, replaced, "expect") // answered already
	case 'f':
		return oneOf(name, replaced, "forwarded", "fastly-client-ip")
	case 'h':
		if is(name, "http2-settings") {
			return hopByHop
		}
		return oneOf(name, replaced, "host")
	case 'k':
		return oneOf(name, hopByHop, "keep-alive")
	case 'p':
		return oneOf(name, hopByHop, "proxy-connection", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info", "proxy")
	case 'r':
		if begins(name, "remote-") {
			return replaced
		}
	case 's':
		if begins(name, "ssl-client-") {
			return replaced
		}
	case 't':
		if is(name, "te") {
			return te
		}
		if is(name, "true-client-ip") {
			return replaced
		}
		return oneOf(name, hopByHop, "transfer-encoding", "trailer")
	case 'u':
		return oneOf(name, hopByHop, "upgrade")
	case 'x':
		switch {
		case is(name, "x-forwarded-for"):
			return forwardedFor
		case begins(name, "x-forwarded-"), begins(name, "x-original-"), beginsAny(name, identities):
			return replaced
		}
		return oneOf(name, replaced, "x-forwarded", "x-real-ip", "x-client-ip", "x-cluster-client-ip", "x-rewrite-url")
	}
	return endToEnd
}

// responseField tells what an upstream's field is.
func responseField(name string) kind {
	if name == "" {
		return replaced
	}
	switch name[0] | 0x20 {
	case 'c':
		if is(name, "connection") {
			return connection
		}
		return oneOf(name, replaced, "content-length")
	case 'k':
		return oneOf(name, hopByHop, "keep-alive")
	case 'p':
		return oneOf(name, hopByHop, "proxy-connection", "proxy-authenticate", "proxy-authorization", "proxy-authentication-info")
	case 's':
		return oneOf(name, setCookie, "set-cookie")
	case 't':
		return oneOf(name, hopByHop, "te", "transfer-encoding", "trailer")
	case 'u':
		return oneOf(name, hopByHop, "upgrade")
	}
	return endToEnd
}

// setsCookie reports whether a Set-Cookie field is for one of names, of which one
// that ends in * stands for all that begin like it, as lenient
// readers see it: RFC 6265, section 5.2, trims the name; browsers send a cookie
// without a name as its bare value, so that "=name=value" comes back as ours.
func setsCookie(value string, names []string) bool {
	pair, _, _ := strings.Cut(value, ";")
	name, _, _ := strings.Cut(strings.TrimLeft(pair, " \t="), "=")
	name = strings.TrimRight(name, " \t")
	for _, n := range names {
		begin, open := strings.CutSuffix(n, "*")
		if strings.EqualFold(name, n) || open && len(name) >= len(begin) && strings.EqualFold(name[:len(begin)], begin) {
			return true
		}
	}
	return false
}

// without takes the named fields out, in place.
func without(list []Field, named []string) []Field {
	if len(named) == 0 {
		return list
	}
	out := list[:0]
next:
	for _, f := range list {
		for _, n := range named {
			if strings.EqualFold(f.Name, n) {
				continue next
			}
		}
		out = append(out, f)
	}
	return out
}

// mostTokens bounds how many names a Connection field can have taken out. Each
// of them is compared with each field.
const mostTokens = 64

// appendTokens adds the names in a Connection field's value to list, but for
// the two that nearly every one has and that name no field.
func appendTokens[T ~string | ~[]byte](list []string, value T) []string {
	for tok := range tokens(value) {
		if len(list) < mostTokens && !is(tok, "close") && !is(tok, "keep-alive") {
			list = append(list, string(tok))
		}
	}
	return list
}

func hasToken[T ~string | ~[]byte](value T, want string) bool {
	for tok := range tokens(value) {
		if is(tok, want) {
			return true
		}
	}
	return false
}

// tokens yields the elements of a comma-separated list without the spaces
// around them.
func tokens[T ~string | ~[]byte](value T) iter.Seq[T] {
	return func(yield func(T) bool) {
		for i := 0; i <= len(value); {
			end := i
			for end < len(value) && value[end] != ',' {
				end++
			}
			from, to := i, end
			for from < to && (value[from] == ' ' || value[from] == '\t') {
				from++
			}
			for from < to && (value[to-1] == ' ' || value[to-1] == '\t') {
				to--
			}
			if from < to && !yield(value[from:to]) {
				return
			}
			i = end + 1
		}
	}
}

func oneOf[T ~string | ~[]byte](name T, k kind, names ...string) kind {
	for _, n := range names {
		if is(name, n) {
			return k
		}
	}
	return endToEnd
}

// is reports whether s is lower, which is in lower case, in any case.
func is[T ~string | ~[]byte](s T, lower string) bool {
	return len(s) == len(lower) && begins(s, lower)
}

func beginsAny[T ~string | ~[]byte](s T, lower []string) bool {
	for _, l := range lower {
		if begins(s, l) {
			return true
		}
	}
	return false
}

func begins[T ~string | ~[]byte](s T, lower string) bool {
	if len(s) < len(lower) {
		return false
	}
	for i := range len(lower) {
		c := s[i]
		if 'A' <= c && c <= 'Z' {
			c |= 0x20
		}
		if c != lower[i] {
			return false
		}
	}
	return true
}

// plainName reports whether name is a token (RFC 9110, section 5.6.2) without
// an underscore.
func plainName[T ~string | ~[]byte](name T) bool {
	for i := range len(name) {
		if !nameByte[name[i]] {
			return false
		}
	}
	return len(name) > 0
}

var nameByte = func() (t [256]bool) {
	for _, c := range []byte("!#$%&'*+-.^`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ") {
		t[c] = true
	}
	return t
}()

// plainValue reports whether value holds no control character but HTAB.
func plainValue(value []byte) bool {
	for _, c := range value {
		if c < ' ' && c != '\t' || c == 0x7f {
			return false
		}
	}
	return true
}

// intern returns name as a string, without a copy if it is a common one.
func intern(name []byte) string {
	if s, ok := commonNames[string(name)]; ok {
		return s
	}
	return string(name)
}

var commonNames = func() map[string]string {
	m := make(map[string]string)
	for _, n := range []string{
		"Accept", "Accept-Encoding", "Accept-Language", "Cache-Control", "Content-Encoding", "Content-Type", "DNT", "If-Match",
		"If-Modified-Since", "If-None-Match", "If-Range", "Last-Event-Id", "Origin", "Pragma", "Priority", "Range", "Referer",
		"Sec-Ch-Ua", "Sec-Ch-Ua-Mobile", "Sec-Ch-Ua-Platform", "Sec-Fetch-Dest", "Sec-Fetch-Mode", "Sec-Fetch-Site",
		"Sec-Fetch-User", "Upgrade-Insecure-Requests", "User-Agent", "X-Csrf", "X-Request-Id", "X-Requested-With",
	} {
		m[n], m[strings.ToLower(n)] = n, strings.ToLower(n)
	}
	return m
}()
