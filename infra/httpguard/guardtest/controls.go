package guardtest

import (
	"strconv"
	"strings"
)

// Controls returns sound requests: what browsers send although a stricter
// table would refuse it, and every form of message that is allowed.
func Controls() []Control {
	one := func(name, method, target, body, raw string) Control {
		return Control{Name: name, Raw: raw, Want: []Request{{Method: method, Target: target, Body: body}}}
	}
	target := func(name, t string) Control {
		return one(name, "GET", t, "", "GET "+t+" HTTP/1.1\r\n"+host+"\r\n")
	}
	field := func(name, f string) Control {
		return one(name, "GET", "/", "", get+f+"\r\n\r\n")
	}
	hostIs := func(name, h string) Control {
		return one(name, "GET", "/", "", "GET / HTTP/1.1\r\nHost: "+h+"\r\n\r\n")
	}
	post := func(name, want, rest string) Control {
		return one(name, "POST", "/", want, post+rest)
	}
	large := strings.Repeat("0123456789abcdef", 4<<10)
	return []Control{
		one("browser", "GET", "/api/v1/items?page=2&sort=desc", "", Browser),

		target("query with bytes that browsers leave", "/s?q=a|b{c}d^e`f\\g'h[i]"),
		target("pipe in the path", "/a|b"),
		target("percent", "/a%20b%2Fc%zz?d=%e4%bd%a0"),
		target("punctuation in the path", "/a-b._~!$&'()*+,;=:@[]/"),
		target("empty query", "/?"),
		target("question marks in the query", "/?a?b?c"),
		target("two slashes", "//x"),
		target("long target", "/"+strings.Repeat("x", 20<<10)),
		one("options of the server", "OPTIONS", "*", "", "OPTIONS * HTTP/1.1\r\n"+host+"\r\n"),

		field("empty value", "X:"),
		field("no space after the colon", "X:y"),
		field("spaces and tabs round a value", "X: \t y z \t"),
		field("8-bit value", "X: caf\xc3\xa9 \xff"),
		field("quotes in a cookie", `Cookie: a="b, c"; d={"e":1}; f=|^~`),
		field("punctuation in a name", "!#$%&'*+-.^_`|~9aZ: y"),
		field("field that begins like a framing field", "Content-Length-X: five\r\nTransfer-Encodings: none\r\nHosts: a@b"),
		field("head of exactly the limit", "X: "+strings.Repeat("y", 32<<10-len(get+"X: \r\n\r\n"))),
		field("close", "Connection: close"),

		hostIs("host with a port", "app.test:8443"),
		hostIs("IPv4 host", "127.0.0.1:80"),
		hostIs("IPv6 host", "[2001:db8::1]:443"),
		hostIs("underscore in the host", "my_app.test"),
		hostIs("long host", strings.Repeat("a", 60)+"."+strings.Repeat("b", 60)+".test"),

		post("no body", "", "\r\n"),
		post("content length 0", "", "Content-Length: 0\r\n\r\n"),
		post("content length", "hello", "Content-Length: 5\r\n\r\nhello"),
		post("content length without a space", "hello", "Content-Length:5\r\n\r\nhello"),
		post("content length padded with spaces", "hello", "Content-Length:    5\r\n\r\nhello"),
		post("long body", large, "Content-Length: 65536\r\n\r\n"+large),
		post("body that looks like a request", poisoned, "Content-Length: "+strconv.Itoa(len(poisoned))+"\r\n\r\n"+poisoned),
		post("chunks", "hello world", "Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n"),
		post("chunked in capitals", "hello", "Transfer-Encoding: Chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"),
		post("no chunk but the last", "", "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
		post("long last size", "hello", "Transfer-Encoding: chunked\r\n\r\n00000005\r\nhello\r\n00000000\r\n\r\n"),
		post("chunk sizes in both cases", strings.Repeat("x", 10+26), "Transfer-Encoding: chunked\r\n\r\nA\r\n"+strings.Repeat("x", 10)+"\r\n1a\r\n"+strings.Repeat("x", 26)+"\r\n0\r\n\r\n"),
		post("chunk extensions", "hi", "Transfer-Encoding: chunked\r\n\r\n1;chunk-signature=0f\r\nh\r\n1;"+strings.Repeat("a", 256)+"\r\ni\r\n0;a\r\n\r\n"),
		post("trailers", "hi", "Transfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nhi\r\n0\r\nX-Sum: 1\r\nX-More:\r\n\r\n"),
		post("long chunk", large, "Transfer-Encoding: chunked\r\n\r\n10000\r\n"+large+"\r\n0\r\n\r\n"),
		one("GET with a body", "GET", "/", "hello", get+"Content-Length: 5\r\n\r\nhello"),
		one("HTTP/1.0", "GET", "/", "", "GET / HTTP/1.0\r\n"+host+"\r\n"),
		one("HTTP/1.0 with a body", "POST", "/", "hello", "POST / HTTP/1.0\r\n"+host+"Content-Length: 5\r\n\r\nhello"),
		one("empty line first", "GET", "/", "", "\r\n"+get+"\r\n"),
		one("upgrade with content length 0", "GET", "/", "", get+"Upgrade: websocket\r\nContent-Length: 0\r\n\r\n"),

		{Name: "pipeline", Raw: get + "\r\n" + "POST /a HTTP/1.1\r\n" + host + "Content-Length: 2\r\n\r\nhi" +
			"\r\n" + "PUT /b HTTP/1.1\r\n" + host + "Transfer-Encoding: chunked\r\n\r\n2\r\nho\r\n0\r\n\r\n" + "DELETE /c HTTP/1.1\r\n" + host + "\r\n",
			Want: []Request{{"GET", "/", ""}, {"POST", "/a", "hi"}, {"PUT", "/b", "ho"}, {"DELETE", "/c", ""}}},
		{Name: "request behind an upgrade that is not granted",
			Raw:  "GET /a HTTP/1.1\r\n" + host + "Connection: Upgrade\r\nUpgrade: websocket\r\n\r\nGET /b HTTP/1.1\r\n" + host + "Upgrade: h2c\r\n\r\nGET /c HTTP/1.1\r\n" + host + "\r\n",
			Want: []Request{{"GET", "/a", ""}, {"GET", "/b", ""}, {"GET", "/c", ""}}},
	}
}

// Browser is a browser's request, as long as they usually are.
const Browser = "GET /api/v1/items?page=2&sort=desc HTTP/1.1\r\n" +
	host +
	"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/140.0 Safari/537.36\r\n" +
	"Accept: application/json, text/plain, */*\r\n" +
	"Accept-Language: en-GB,en;q=0.9\r\n" +
	"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
	"Referer: https://app.test/dashboard\r\n" +
	"Sec-Fetch-Site: same-origin\r\n" +
	"Sec-Fetch-Mode: cors\r\n" +
	"Sec-Fetch-Dest: empty\r\n" +
	"X-Requested-With: XMLHttpRequest\r\n" +
	"Cookie: theme=dark; __Host-device_id=0198c7d2-5f0e-7cc1-9d8e-3f1f5a9c2b11.q0Yb1nq8mM2v4w6x8z0A2C4E6G8I0K2M4O6Q8S0U2W4; lang=en\r\n" +
	"\r\n"
