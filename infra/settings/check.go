package settings

import (
	"cmp"
	"errors"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"strings"
	"time"

	"cloakroom/infra/seal"
	"cloakroom/infra/settings/schema"
)

// check adds what is wrong with settings that are each well-formed: those that
// do not go together, and those that are unsafe without saying so.
func check(s Settings, l *schema.Loaded) {
	checkAddress(s, l)
	checkTLS(s, l)
	checkForwardAuth(s, l)
	checkRoutes(s, l)
	checkSealKeys(s, l)
	checkAuthServer(s, l)
	checkProviders(s, l)
	checkTimes(s, l)
}

func checkAddress(s Settings, l *schema.Loaded) {
	switch {
	case !l.Valid("prefix"):
	case s.Prefix == "/":
		l.Rejectf("%s: leaves no path to the routes; give one below it, for example /auth", l.Where("prefix"))
	case strings.ContainsFunc(s.Prefix, func(r rune) bool {
		return !('a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || strings.ContainsRune("/._-~", r))
	}):
		l.Rejectf("%s: has characters beside letters, digits and . _ - ~, which mean something else in a path's pattern; give a plain one, for example /auth", l.Where("prefix"))
	case under(s.Prefix, healthPath):
		l.Rejectf("%s: is below %s, where health is told; give another path, for example /auth", l.Where("prefix"), healthPath)
	}
	for i, p := range s.TrustedProxies {
		if p.Bits() == 0 {
			l.Rejectf("%s: trusts everybody, who may then claim any address; list the proxies in front", l.WhereItem("trusted-proxy", i))
		}
	}
	if l.Valid("listen", "metrics-listen") && s.MetricsListen == s.Listen && !strings.HasSuffix(s.Listen, ":0") {
		l.Rejectf("%s: is the address of %s; give metrics one of their own, which browsers do not reach", l.Where("metrics-listen"), l.Where("listen"))
	}
	if !l.Valid("listen", "public-url", "unsafe-insecure-cookie") {
		return
	}
	public, listen := l.Where("public-url"), l.Where("listen")
	local := loopbackAddress(s.Listen)
	switch {
	case s.PublicURL == nil && s.TLSCert != "": // checkTLS says what to give
	case s.PublicURL == nil && !local:
		l.Rejectf("public-url: is missing, and %s is not a loopback address; %s", listen, l.Remedy("public-url"))
	case s.PublicURL == nil:
	case s.PublicURL.Scheme == "https" && s.UnsafeInsecureCookie:
		l.Rejectf("%s: has no use with an https public-url; take it out", l.Where("unsafe-insecure-cookie"))
	case s.PublicURL.Scheme == "https" || s.UnsafeInsecureCookie:
	case !loopback(s.PublicURL.Hostname()):
		l.Rejectf("%s: is plain http, so that the cookie could be stolen on the way; use https, or set --unsafe-insecure-cookie", public)
	case !local:
		l.Rejectf("%s: is a loopback address, but %s is open to others; listen on 127.0.0.1, give the URL that others open, or, where only loopback leads to it as with a container's published port, set --unsafe-insecure-cookie", public, listen)
	}
	if s.PublicURL == nil {
		return
	}
	for i, origin := range s.AllowedOrigins {
		if s.PublicURL.Scheme == "https" && origin.Scheme == "http" && !loopback(origin.Hostname()) {
			l.Rejectf("%s: is plain http, so that whoever is on the way could act for people; use https", l.WhereItem("allowed-origin", i))
		}
	}
}

// hstsForm is RFC 6797, section 6.1, as everybody writes it.
var hstsForm = regexp.MustCompile(`^max-age=[0-9]{1,10}(; ?includeSubDomains)?(; ?preload)?$`)

func checkTLS(s Settings, l *schema.Loaded) {
	if s.HSTS != "" && !hstsForm.MatchString(s.HSTS) {
		l.Rejectf("%s: is no such header; write for example \"max-age=31536000; includeSubDomains\", or nothing", l.Where("hsts"))
	}
	switch {
	case s.TLSCert == "" && s.TLSKey == "":
		return
	case s.TLSKey == "":
		l.Rejectf("%s: has no key beside it; give its file as tls-key", l.Where("tls-cert"))
		return
	case s.TLSCert == "":
		l.Rejectf("%s: has no certificate beside it; give its file as tls-cert", l.Where("tls-key"))
		return
	}
	if l.Valid("public-url") && (s.PublicURL == nil || s.PublicURL.Scheme != "https") {
		l.Rejectf("%s: makes browsers come over https; give the https URL that they open as public-url, for example https://localhost:8443", l.Where("tls-cert"))
	}
}

func checkForwardAuth(s Settings, l *schema.Loaded) {
	if s.ForwardAuthListen == "" || !l.Valid("forward-auth-listen") {
		return
	}
	where := l.Where("forward-auth-listen")
	if s.PublicURL == nil && l.Valid("public-url") {
		l.Rejectf("%s: needs the URL that people open in the proxy that asks; give it as public-url", where)
	}
	if len(s.TrustedProxies) == 0 && l.Valid("trusted-proxy") {
		l.Rejectf("%s: answers the proxies of trusted-proxy alone, and there are none; give their addresses", where)
	}
	if l.Valid("listen") && sameAddress(s.ForwardAuthListen, s.Listen) {
		l.Rejectf("%s: is the address of %s, which browsers reach; give another one", where, l.Where("listen"))
	}
}

// exampleSealKey is the key of the documents. Everybody knows it.
const exampleSealKey = "dGhpcy1pcy10aGUtZXhhbXBsZS1ub3QtYS1zZWNyZXQ"

func checkSealKeys(s Settings, l *schema.Loaded) {
	if l.Valid("seal-key", "store") && len(s.SealKeys) == 0 && s.Store.Kind != Memory {
		l.Rejectf("seal-key: is missing, and tokens in the store have to be encrypted; make one with 'cloakroom keys generate' and set --seal-key-file, CLOAKROOM_SEAL_KEY_FILE, CLOAKROOM_SEAL_KEY or seal-key in the YAML file")
	}
	seen := map[string]string{}
	for i, text := range s.SealKeys {
		where := l.WhereItem("seal-key", i)
		key, err := seal.ParseKey(text.Reveal())
		first, twice := seen[key.ID()]
		switch {
		case errors.Is(err, seal.ErrKeyForm):
			l.Rejectf("%s: is no key; make one with 'cloakroom keys generate' and copy the whole line, <id>:<key>", where)
		case errors.Is(err, seal.ErrKeySize):
			l.Rejectf("%s: is not 32 bytes long; make one with 'cloakroom keys generate'", where)
		case err != nil:
			l.Rejectf("%s: is too regular to be a random key; make one with 'cloakroom keys generate'", where)
		case strings.HasSuffix(strings.TrimSuffix(text.Reveal(), "="), ":"+exampleSealKey):
			l.Rejectf("%s: is the key of the documents, which everybody knows; make one with 'cloakroom keys generate'", where)
		case twice:
			l.Rejectf("%s: has the same id as %s; give each key an id of its own", where, first)
		}
		if err == nil {
			seen[key.ID()] = where
		}
	}
}

func checkAuthServer(s Settings, l *schema.Loaded) {
	if s.AuthURL == nil && len(s.Providers) == 0 && l.Valid("auth-url", "provider") {
		l.Rejectf("auth-url: is missing, and there is no provider, so that nobody could sign in; %s, or see docs/openid.md for providers", l.Remedy("auth-url"))
	}
	if l.Valid("auth-url", "unsafe-plain-auth-url") && s.AuthURL != nil {
		switch plain := s.AuthURL.Scheme == "http" && !loopback(s.AuthURL.Hostname()); {
		case plain && !s.UnsafePlainAuthURL:
			l.Rejectf("%s: is plain http, so that passwords and tokens could be read on the way; use https, or set --unsafe-plain-auth-url", l.Where("auth-url"))
		case !plain && s.UnsafePlainAuthURL:
			l.Rejectf("%s: has no use with this auth-url; take it out", l.Where("unsafe-plain-auth-url"))
		}
		if l.Valid("listen") && pointsAt(s.AuthURL, s.Listen) {
			l.Rejectf("%s: leads back to Cloakroom itself; give the auth server's own address", l.Where("auth-url"))
		}
	}
	if l.Valid("auth-email-field", "auth-password-field") && s.AuthEmailField == s.AuthPasswordField {
		l.Rejectf("%s: is the same field as %s; give each a field of its own", l.Where("auth-password-field"), l.Where("auth-email-field"))
	}
	answers := map[string]string{} // by field, the setting that names it first
	for _, a := range []struct{ name, field string }{
		{"auth-answer-access-token", s.AuthAnswerAccessToken},
		{"auth-answer-refresh-token", s.AuthAnswerRefreshToken},
		{"auth-answer-token-type", s.AuthAnswerTokenType},
		{"auth-answer-expires-in", s.AuthAnswerExpiresIn},
		{"auth-answer-refresh-expires-in", s.AuthAnswerRefreshExpiresIn},
	} {
		if first, twice := answers[a.field]; twice && l.Valid(a.name, first) {
			l.Rejectf("%s: is the same field as %s; give each a field of its own", l.Where(a.name), l.Where(first))
		}
		answers[a.field] = a.name
	}
}

// longestCacheTTL is how long a sign-out may take to be seen by every replica.
const longestCacheTTL = time.Second

func checkTimes(s Settings, l *schema.Loaded) {
	// longer complains if a is longer than most.
	longer := func(aName string, a time.Duration, bName string, b, most time.Duration, sentence string) {
		if l.Valid(aName, bName) && a > most {
			l.Rejectf("%s: %s does not go with %s of %s: %s", l.Where(aName), schema.FormatDuration(a), l.Where(bName), schema.FormatDuration(b), sentence)
		}
	}
	longer("idle-timeout", s.IdleTimeout, "absolute-lifetime", s.AbsoluteLifetime, s.AbsoluteLifetime,
		"no device lives long enough to be idle; shorten the first or lengthen the second")
	longer("touch-interval", s.TouchInterval, "idle-timeout", s.IdleTimeout, s.IdleTimeout/2,
		"a device in use would be signed out as idle; make the first at most half of the second")
	longer("access-token-lifetime", s.AccessTokenLifetime, "refresh-token-lifetime", s.RefreshTokenLifetime, s.RefreshTokenLifetime,
		"no access token lives long enough to be refreshed; shorten the first or lengthen the second")
	longer("auth-timeout", s.AuthTimeout, "shutdown-grace", s.ShutdownGrace, s.ShutdownGrace,
		"a refresh under way at the end could lose its tokens; shorten the first or lengthen the second")
	if l.Valid("cache-ttl") && s.CacheTTL > longestCacheTTL {
		l.Rejectf("%s: would let a device that was signed out elsewhere live on for too long if the word of it got lost; make it 1s at most", l.Where("cache-ttl"))
	}
	if s.RefreshAhead > 0 {
		longer("refresh-margin", s.RefreshMargin, "refresh-ahead", s.RefreshAhead, s.RefreshAhead-1,
			"an access token has expired before it is refreshed ahead; make the second longer, or 0 for never")
	}
}

// under reports whether a path is base or below it, by whole segments.
func under(path, base string) bool {
	return path == base || strings.HasPrefix(path, base+"/")
}

// loopback reports whether a host is this machine to whoever names it.
func loopback(host string) bool {
	if host == "localhost" || strings.HasSuffix(host, ".localhost") { // RFC 6761, section 6.3
		return true
	}
	addr, err := netip.ParseAddr(host)
	return err == nil && addr.Unmap().IsLoopback()
}

func loopbackAddress(listen string) bool {
	host, _, err := net.SplitHostPort(listen)
	return err == nil && loopback(strings.ToLower(host))
}

// sameAddress reports whether two listeners would want the same port of one
// address.
func sameAddress(a, b string) bool {
	hostA, portA, _ := net.SplitHostPort(a)
	hostB, portB, _ := net.SplitHostPort(b)
	return portA == portB && portA != "0" && (hostA == hostB || everyAddress(hostA) || everyAddress(hostB))
}

func everyAddress(host string) bool {
	addr, err := netip.ParseAddr(host)
	return host == "" || err == nil && addr.IsUnspecified()
}

// pointsAt reports whether a URL leads to the address that is listened on, as
// far as that can be told without asking for names.
func pointsAt(u *url.URL, listen string) bool {
	host, port, err := net.SplitHostPort(listen)
	usual := "80"
	if u.Scheme == "https" {
		usual = "443"
	}
	if err != nil || cmp.Or(u.Port(), usual) != port {
		return false
	}
	everywhere := everyAddress(host)
	byName := host == "localhost" || u.Hostname() == "localhost"
	return u.Hostname() == host || loopback(u.Hostname()) && (everywhere || byName && loopback(host))
}
