package upstream

import (
	"fmt"
	"iter"
	"net/netip"
	"slices"
	"strings"
	"testing"
)

// lines yields "Name: value" lines as fasthttp yields a header.
func lines(list ...string) iter.Seq2[[]byte, []byte] {
	return func(yield func([]byte, []byte) bool) {
		for _, l := range list {
			name, value, _ := strings.Cut(l, ":")
			if !yield([]byte(name), []byte(strings.TrimPrefix(value, " "))) {
				return
			}
		}
	}
}

func printed(list []Field) []string {
	var out []string
	for _, f := range list {
		out = append(out, f.Name+": "+f.Value)
	}
	slices.Sort(out)
	return out
}

var browser = Client{
	Peer:  netip.MustParseAddr("192.0.2.7"),
	Addr:  netip.MustParseAddr("192.0.2.7"),
	Host:  "app.test",
	Proto: "https",
}

// ourOwn is what every request of browser is given, whatever it says.
var ourOwn = []string{
	"Authorization: Bearer good",
	"Cookie: theme=dark",
	"Forwarded: for=192.0.2.7;host=app.test;proto=https",
	"X-Forwarded-For: 192.0.2.7",
	"X-Forwarded-Host: app.test",
	"X-Forwarded-Proto: https",
	"X-Real-Ip: 192.0.2.7",
}

// passed is what remains of a client's lines.
func passed(list ...string) []string {
	var out []string
	for _, l := range printed(RequestHeader(lines(list...), browser, "theme=dark", "Bearer good")) {
		if !slices.Contains(ourOwn, l) {
			out = append(out, l)
		}
	}
	return out
}

func TestR25_WhatClientsSayOfThemselvesDoesNotPass(t *testing.T) {
	for _, l := range []string{
		"Authorization: Bearer evil", "authorization: Basic dTpw", "AUTHORIZATION: x",
		"Forwarded: for=1.2.3.4", "X-Forwarded: 1.2.3.4",
		"X-Forwarded-For: 1.2.3.4", "X-Forwarded-Host: evil.test", "X-Forwarded-Proto: gopher", "X-Forwarded-Port: 1",
		"X-Forwarded-Prefix: /evil", "X-Forwarded-Server: x", "X-Forwarded-Ssl: on", "X-Forwarded-User: root", "X-Forwarded-Issuer: https://evil.test",
		"X-Forwarded-Email: root@evil.test", "X-Forwarded-Groups: admin", "X-Forwarded-Preferred-Username: root",
		"X-Forwarded-Access-Token: evil", "X-Forwarded-Uri: /evil", "X-Forwarded-Method: GET", "x-FORWARDED-anything: x",
		"X-Real-Ip: 1.2.3.4", "X-Client-Ip: 1.2.3.4", "X-Cluster-Client-Ip: 1.2.3.4", "Client-Ip: 1.2.3.4", "True-Client-Ip: 1.2.3.4",
		"Cf-Connecting-Ip: 1.2.3.4", "Fastly-Client-Ip: 1.2.3.4",
		"X-Auth-Request-User: root", "X-Auth-Request-Issuer: x", "X-Auth-Request-Email: x", "X-Auth-Request-Groups: x", "X-Auth-Request-Access-Token: x",
		"Remote-User: root", "Remote-Groups: x", "Remote-Email: x", "Remote-Name: x", "X-Remote-User: root", "X-Webauth-User: root",
		"X-Authenticated-User: root", "X-authentik-username: root", "X-Goog-Authenticated-User-Email: x", "X-Goog-IAP-JWT-Assertion: x",
		"X-Amzn-Oidc-Identity: root", "X-MS-CLIENT-PRINCIPAL-NAME: root", "X-Ssl-Client-S-Dn: x", "Ssl-Client-Verify: x", "X-Client-Cert: x",
		"X-Original-Url: /evil", "X-Original-Uri: /evil", "X-Original-Host: evil.test", "X-Rewrite-Url: /evil",
		"X_Forwarded_For: 1.2.3.4", "X_Real_Ip: 1.2.3.4", "Remote_User: root", "HTTP_AUTHORIZATION: x", "X-Auth_Request-User: x", "_: x",
		"Proxy: http://evil.test", "Cookie: device_id=evil", "Host: evil.test", "Expect: 100-continue", "Content-Length: 5",
	} {
		if got := passed(l); got != nil {
			t.Errorf("%q passes as %q", l, got)
		}
	}
}

func TestRequestHopByHopFieldsDoNotPass(t *testing.T) {
	for name, c := range map[string]struct{ in, want []string }{
		"RFC 9110, 7.6.1": {
			in: []string{"Connection: close", "Keep-Alive: timeout=5", "Proxy-Connection: keep-alive", "Te: gzip", "Trailer: X-Sum",
				"Transfer-Encoding: chunked", "Upgrade: websocket", "Proxy-Authorization: Basic x", "Proxy-Authenticate: Basic"},
		},
		"HTTP/2 upgrade": {in: []string{"Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAMAAABk"}},
		"named by Connection": {
			in:   []string{"Connection: x-secret , keep-alive", "X-Secret: a", "X-Open: b", "connection: X-More", "x-more: c", "X-Secret: d"},
			want: []string{"X-Open: b"},
		},
		"TE with trailers":  {in: []string{"TE: gzip, Trailers"}, want: []string{"Te: trailers"}},
		"TE without":        {in: []string{"TE: trailersx, deflate;q=0.5"}},
		"end to end":        {in: []string{"Accept: */*", "X-A: 1", "X-A: 2", "Via: 1.1 x", "Range: bytes=0-1", "X-Empty: "}, want: []string{"Accept: */*", "Range: bytes=0-1", "Via: 1.1 x", "X-A: 1", "X-A: 2", "X-Empty: "}},
		"no names or bytes": {in: []string{": x", "A b: c", "X-Nul: a\x00b", "X-Lf: a\nb", "X-Del: \x7f", "X-8bit: \xff", "X-Tab: a\tb"}, want: []string{"X-8bit: \xff", "X-Tab: a\tb"}},
	} {
		if got := passed(c.in...); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestConnectionCannotNameOurFields(t *testing.T) {
	in := lines("Connection: Authorization, Cookie, X-Forwarded-For, X-Forwarded-Proto, X-Forwarded-Host, Forwarded, X-Real-Ip, close, Te", "Te: trailers")
	got := printed(RequestHeader(in, browser, "theme=dark", "Bearer good"))
	want := append(slices.Clone(ourOwn), "Te: trailers")
	slices.Sort(want)
	if !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}

func TestNothingIsInjectedThatIsNotThere(t *testing.T) {
	for _, f := range RequestHeader(lines("Cookie: a=b", "Authorization: x"), browser, "", "") {
		if f.Name == "Cookie" || f.Name == "Authorization" {
			t.Errorf("%s: %q", f.Name, f.Value)
		}
	}
}

func TestR26_UpstreamLearnsTheClient(t *testing.T) {
	addr := netip.MustParseAddr
	for name, c := range map[string]struct {
		in   []string
		from Client
		want []string
	}{
		"IPv6": {
			from: Client{Peer: addr("2001:db8::1"), Addr: addr("2001:db8::1"), Host: "app.test:8443", Proto: "https"},
			want: []string{`Forwarded: for="[2001:db8::1]";host="app.test:8443";proto=https`, "X-Forwarded-For: 2001:db8::1",
				"X-Forwarded-Host: app.test:8443", "X-Forwarded-Proto: https", "X-Real-Ip: 2001:db8::1"},
		},
		"a chain of nobody's": {
			in:   []string{"X-Forwarded-For: 1.2.3.4", "Forwarded: for=1.2.3.4"},
			from: Client{Peer: addr("192.0.2.7"), Addr: addr("192.0.2.7"), Host: "app.test", Proto: "http"},
			want: []string{"Forwarded: for=192.0.2.7;host=app.test;proto=http", "X-Forwarded-For: 192.0.2.7",
				"X-Forwarded-Host: app.test", "X-Forwarded-Proto: http", "X-Real-Ip: 192.0.2.7"},
		},
		"a trusted proxy's chain": {
			in:   []string{"X-Forwarded-For: junk, 1.2.3.4:55", "Forwarded: for=9.9.9.9", "X-Forwarded-For: [2001:db8::1]:80,203.0.113.9", "X-Forwarded-Host: evil.test"},
			from: Client{Peer: addr("10.0.0.1"), Addr: addr("203.0.113.9"), Trusted: true, Host: "app.test", Proto: "https"},
			want: []string{`Forwarded: for=unknown, for=1.2.3.4, for="[2001:db8::1]", for=203.0.113.9, for=10.0.0.1;host=app.test;proto=https`,
				"X-Forwarded-For: junk, 1.2.3.4:55, [2001:db8::1]:80,203.0.113.9, 10.0.0.1",
				"X-Forwarded-Host: app.test", "X-Forwarded-Proto: https", "X-Real-Ip: 203.0.113.9"},
		},
		"a trusted proxy without a chain": {
			from: Client{Peer: addr("10.0.0.1"), Addr: addr("10.0.0.1"), Trusted: true, Host: "app.test", Proto: "https"},
			want: []string{"Forwarded: for=10.0.0.1;host=app.test;proto=https", "X-Forwarded-For: 10.0.0.1",
				"X-Forwarded-Host: app.test", "X-Forwarded-Proto: https", "X-Real-Ip: 10.0.0.1"},
		},
		"no address, no host": {
			from: Client{Host: `a";proto=evil`, Proto: "http"},
			want: []string{"Forwarded: for=unknown;proto=http", "X-Forwarded-For: unknown", "X-Forwarded-Proto: http", "X-Real-Ip: unknown"},
		},
	} {
		if got := printed(RequestHeader(lines(c.in...), c.from, "", "")); !slices.Equal(got, c.want) {
			t.Errorf("%s:\n got %q\nwant %q", name, got, c.want)
		}
	}
}

func TestChainIsBounded(t *testing.T) {
	from := browser
	from.Trusted = true
	header := RequestHeader(lines("X-Forwarded-For: "+strings.Repeat("x,", 5000)+" 203.0.113.9"), from, "", "")
	for _, f := range header {
		if len(f.Value) > 1000 {
			t.Errorf("%s has %d bytes", f.Name, len(f.Value))
		}
		if f.Name == "X-Forwarded-For" && !strings.HasSuffix(f.Value, "x, 203.0.113.9, 192.0.2.7") {
			t.Errorf("the chain ends in %q", f.Value[len(f.Value)-40:])
		}
	}
}

func TestResponseHeader(t *testing.T) {
	for name, c := range map[string]struct{ in, want []string }{
		"hop by hop": {
			in: []string{"Connection: close, X-Secret", "Keep-Alive: timeout=5", "Proxy-Connection: x", "Proxy-Authenticate: Basic", "Te: trailers",
				"Trailer: X-Sum", "Transfer-Encoding: chunked", "Upgrade: h2c", "X-Secret: a", "Content-Length: 5", "X-Open: b"},
			want: []string{"X-Open: b"},
		},
		"end to end": {
			in: []string{"Content-Type: text/plain", "Content-Encoding: gzip", "Www-Authenticate: Bearer", "Set-Cookie: a=b", "Set-Cookie: c=d; Path=/", "X_y: z", "Content-Range: bytes 0-1/2"},
			want: []string{"Content-Encoding: gzip", "Content-Range: bytes 0-1/2", "Content-Type: text/plain", "Set-Cookie: a=b",
				"Set-Cookie: c=d; Path=/", "Www-Authenticate: Bearer", "X_y: z"},
		},
		"our cookies": {
			in: []string{"Set-Cookie: device_id=x", "Set-Cookie: device_id =x; Path=/", "set-cookie:  device_id\t= x", "Set-Cookie: =device_id=x", "Set-Cookie: = device_id=x",
				"Set-Cookie: DEVICE_ID=x", "Set-Cookie: device_id", "Set-Cookie: device_id;x", "Set-Cookie: __Host-device_id=x", "Set-Cookie: __host-Device_id=x",
				"Set-Cookie: mydevice_id=x", "Set-Cookie: device_id2=x", "Set-Cookie: a=device_id=x"},
			want: []string{"Set-Cookie: a=device_id=x", "Set-Cookie: device_id2=x", "Set-Cookie: mydevice_id=x"},
		},
	} {
		var in []Field
		for name, value := range lines(c.in...) {
			in = append(in, Field{string(name), string(value)})
		}
		if got := printed(ResponseHeader(in, "device_id", "__Host-device_id")); !slices.Equal(got, c.want) {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

func TestPassesTrailer(t *testing.T) {
	for _, name := range []string{"Authorization", "Cookie", "Set-Cookie", "X-Forwarded-For", "Transfer-Encoding", "Content-Length", "Trailer", "Te", "Host", "Connection", "X_y", "", "A b"} {
		if PassesTrailer(name) {
			t.Errorf("%q passes", name)
		}
	}
	for _, name := range []string{"X-Checksum", "Grpc-Status", "Server-Timing"} {
		if !PassesTrailer(name) {
			t.Errorf("%q does not pass", name)
		}
	}
}

// FuzzRequestHeader holds the policy against a list that knows no cases: of all
// that names the client or frames the message, only ours is there, once.
func FuzzRequestHeader(f *testing.F) {
	f.Add("Authorization: x\nConnection: Authorization, X-A\nX-A: b")
	f.Add("X-Forwarded-For: 1.2.3.4\nForwarded: for=x\nTE: trailers\nX-Real-IP: 1")
	f.Add("connection: cookie,\nCookie: a=b\n Host: x\nX_Forwarded_For: 1\nProxy: x\nUpgrade: h2c")
	ours := map[string]string{"te": "trailers"}
	for _, l := range ourOwn {
		name, value, _ := strings.Cut(l, ": ")
		ours[strings.ToLower(name)] = value
	}
	f.Fuzz(func(t *testing.T, header string) {
		in := strings.Split(header, "\n")
		out := RequestHeader(lines(in...), browser, "theme=dark", "Bearer good")
		seen := map[string]bool{}
		for _, field := range out {
			name := strings.ToLower(field.Name)
			want, isOurs := ours[name]
			if isOurs && (field.Value != want || seen[name]) {
				t.Fatalf("%q is in %q", field.Name+": "+field.Value, out)
			}
			seen[name] = true
			if isOurs {
				continue
			}
			for _, prefix := range append([]string{"x-forwarded-", "x-original-", "remote-"}, identities...) {
				if strings.HasPrefix(name, prefix) {
					t.Fatalf("%q passes", field.Name)
				}
			}
			switch name {
			case "authorization", "connection", "keep-alive", "proxy-connection", "transfer-encoding", "trailer", "upgrade", "host",
				"content-length", "cookie", "expect", "http2-settings", "proxy", "proxy-authorization", "forwarded", "x-forwarded", "x-rewrite-url",
				"x-client-ip", "client-ip", "true-client-ip", "remote-user", "remote-groups", "remote-email", "remote-name":
				t.Fatalf("%q passes", field.Name)
			}
			if strings.ContainsAny(field.Name, "_ :\t\r\n\x00\x7f") || field.Name == "" || strings.ContainsAny(field.Value, "\r\n\x00\x7f") {
				t.Fatalf("%q: %q passes", field.Name, field.Value)
			}
		}
		for name := range ours {
			if !seen[name] && name != "te" {
				t.Fatalf("%s is missing in %q", name, out)
			}
		}
	})
}

func FuzzResponseHeader(f *testing.F) {
	f.Add("Set-Cookie: device_id=x\nConnection: X-A\nX-A: b\nContent-Length: 5")
	f.Fuzz(func(t *testing.T, header string) {
		var in []Field
		for name, value := range lines(strings.Split(header, "\n")...) {
			in = append(in, Field{string(name), string(value)})
		}
		for _, field := range ResponseHeader(in, "device_id") {
			switch name := strings.ToLower(field.Name); name {
			case "connection", "keep-alive", "transfer-encoding", "trailer", "upgrade", "content-length", "te", "proxy-connection":
				t.Fatalf("%q passes", field.Name)
			case "set-cookie":
				if strings.HasPrefix(strings.ToLower(strings.TrimLeft(field.Value, "= \t")), "device_id=") {
					t.Fatalf("%q passes", field.Value)
				}
			}
		}
	})
}

func BenchmarkRequestHeader(b *testing.B) {
	var in []string
	for i := range 3 {
		in = append(in, fmt.Sprintf("X-Custom-%d: some value of ordinary length", i))
	}
	in = append(in, "Host: app.test", "User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36", "Accept: */*", "Accept-Encoding: gzip, deflate, br",
		"Accept-Language: en", "Cookie: a=b; c=d", "Sec-Fetch-Mode: cors", "Sec-Fetch-Site: same-origin", "Referer: https://app.test/")
	names, values := make([][]byte, len(in)), make([][]byte, len(in))
	for i, l := range in {
		name, value, _ := strings.Cut(l, ": ")
		names[i], values[i] = []byte(name), []byte(value)
	}
	all := func(yield func([]byte, []byte) bool) {
		for i := range names {
			if !yield(names[i], values[i]) {
				return
			}
		}
	}
	b.ReportAllocs()
	for b.Loop() {
		RequestHeader(all, browser, "a=b; c=d", "Bearer good")
	}
}
