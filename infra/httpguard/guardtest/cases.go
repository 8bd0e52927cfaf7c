package guardtest

import "strings"

// Cases returns the requests to refuse.
func Cases() []Case {
	var all []Case
	add := func(reason string, cases ...Case) {
		for _, c := range cases {
			c.Reason = reason
			if c.Status == 0 {
				c.Status = 400
			}
			all = append(all, c)
		}
	}
	addRequestLines(add)
	addFields(add)
	addFraming(add)
	addChunks(add)
	addOthers(add)
	return all
}

type adder func(reason string, cases ...Case)

func bad(name, raw string) Case { return Case{Name: name, Raw: raw} }

// line is a request that is sound but for its first line.
func line(name, l string) Case { return bad(name, l+"\r\n"+host+"\r\n"+poisoned) }

// field is a GET with one more field line.
func field(name, f string) Case { return bad(name, get+f+"\r\n\r\n"+poisoned) }

// body is a POST with one more field line, and a body for whoever believes it.
func body(name, f string) Case {
	return bad(name, post+f+"\r\n\r\n0\r\n\r\n"+poisoned)
}

// chunk is a POST whose chunked body is b.
func chunk(name, b string) Case {
	return Case{Name: name, Raw: chunked + b + poisoned, InBody: true}
}

func addRequestLines(add adder) {
	add("method is not 1 to 16 capital letters",
		line("lower-case method", "get / HTTP/1.1"),
		line("method of 17 letters", "ABCDEFGHIJKLMNOPQ / HTTP/1.1"),
		line("digit in the method", "GET1 / HTTP/1.1"),
		line("hyphen in the method", "M-SEARCH / HTTP/1.1"),
		line("tab after the method", "GET\t/ HTTP/1.1"),
		line("no method", " / HTTP/1.1"),
		line("space before the method", " GET / HTTP/1.1"),
		line("NUL before the method", "\x00GET / HTTP/1.1"),
		line("8-bit method", "G\xcbT / HTTP/1.1"),
		line("LF before the request", "\nGET / HTTP/1.1"),
		line("TLS hello", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"),
	)
	add("more than one empty line before the request",
		line("two empty lines first", "\r\n\r\nGET / HTTP/1.1"),
	)
	add("line does not end in CRLF",
		line("CR before the request", "\rGET / HTTP/1.1"),
		bad("bare LF after the request line", "GET / HTTP/1.1\n"+host+"\r\n"+poisoned),
		line("CR CR LF after the request line", "GET / HTTP/1.1\r"),
		bad("bare CR after the request line", "GET / HTTP/1.1\r"+host+"\r\n"+poisoned),
		bad("only LF in the whole head", "GET / HTTP/1.1\nHost: app.test\n\n"+strings.ReplaceAll(poisoned, "\r", "")),
	)
	add("method CONNECT",
		line("CONNECT to an authority", "CONNECT app.test:443 HTTP/1.1"),
		line("CONNECT to a path", "CONNECT / HTTP/1.1"),
	)
	add("target is not in origin form",
		line("absolute form", "GET http://app.test/ HTTP/1.1"),
		line("absolute form with userinfo", "GET http://user:pass@app.test/ HTTP/1.1"),
		line("absolute form of another scheme", "GET file:///etc/passwd HTTP/1.1"),
		line("authority form", "GET app.test:80 HTTP/1.1"),
		line("relative target", "GET x HTTP/1.1"),
		line("query without a path", "GET ?x HTTP/1.1"),
		line("two spaces before the target", "GET  / HTTP/1.1"),
		line("tab before the target", "GET \t/ HTTP/1.1"),
		bad("HTTP/2 preface", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"),
		line("asterisk with GET", "GET * HTTP/1.1"),
		line("asterisk and more", "OPTIONS *x HTTP/1.1"),
		line("backslash first", `GET \x HTTP/1.1`),
		line("no target", "GET HTTP/1.1"),
	)
	add("byte not allowed in a target",
		line("HTTP/0.9", "GET /"),
		line("tab in the target", "GET /\tx HTTP/1.1"),
		line("tab before the version", "GET /\tHTTP/1.1"),
		line("NUL in the target", "GET /\x00 HTTP/1.1"),
		line("DEL in the target", "GET /\x7f HTTP/1.1"),
		line("byte 80 in the target", "GET /\x80 HTTP/1.1"),
		line("byte ff in the query", "GET /?\xff HTTP/1.1"),
		line("UTF-8 in the target", "GET /ü HTTP/1.1"),
		line("bare LF in the target", "GET /\n HTTP/1.1"),
		line("bare CR in the target", "GET /\r HTTP/1.1"),
		line("fragment", "GET /#x HTTP/1.1"),
		line("fragment after a query", "GET /?x#y HTTP/1.1"),
		line("double quote in the path", `GET /"x" HTTP/1.1`),
		line("double quote in the query", `GET /?"x" HTTP/1.1`),
		line("angle brackets in the path", "GET /<x> HTTP/1.1"),
		line("angle brackets in the query", "GET /?<x> HTTP/1.1"),
		line("backslash in the path", `GET /..\x HTTP/1.1`),
		line("caret in the path", "GET /^ HTTP/1.1"),
		line("braces in the path", "GET /{x} HTTP/1.1"),
		line("backtick in the path", "GET /` HTTP/1.1"),
	)
	add("version is not HTTP/1.0 or HTTP/1.1",
		line("empty version", "GET / "),
		line("space in the target", "GET /a b HTTP/1.1"),
		line("two spaces before the version", "GET /  HTTP/1.1"),
		line("space after the version", "GET / HTTP/1.1 "),
		line("HTTP/0.9 with a full head", "GET / HTTP/0.9"),
		line("HTTP/2.0 with a full head", "GET / HTTP/2.0"),
		line("HTTP/1.2", "GET / HTTP/1.2"),
		line("HTTP/1.10", "GET / HTTP/1.10"),
		line("HTTP/1", "GET / HTTP/1"),
		line("HTTP/01.1", "GET / HTTP/01.1"),
		line("HTTP/1,1", "GET / HTTP/1,1"),
		line("lower-case version", "GET / http/1.1"),
		line("another protocol", "GET / ICAP/1.0"),
	)
}

func addFields(add adder) {
	add("line does not end in CRLF",
		bad("bare LF after a field", get+"X: y\n\r\n"+poisoned),
		bad("bare LF after the last field", get+"X: y\n\n"+poisoned),
		bad("head ended by LF LF before CRLF CRLF", get+"X: y\n\nX: z\r\n\r\n"+poisoned),
		bad("head ended by CRLF LF", get+"\n"+poisoned),
		field("LF in a value makes a field", "X: y\nContent-Length: 5"),
		field("LF in a value makes a transfer coding", "X: y\nTransfer-Encoding: chunked"),
		field("LF in a cookie makes a host", "Cookie: a=b\nHost: evil.test"),
		field("bare CR in a value", "X: y\rContent-Length: 5"),
		field("CR CR LF after a field", "X: y\r"),
		bad("CR without LF at the end of the head", get+"\rX"+poisoned),
	)
	add("folded field line",
		field("fold", "X: y\r\n z"),
		field("fold by a tab", "X: y\r\n\tz"),
		field("fold of a cookie", "Cookie: a=b;\r\n c=d"),
		field("fold of Expect", "Expect:\r\n 100-continue"),
		field("fold makes a second host", "X: y\r\n Host: evil.test"),
		body("space before the transfer coding", " Transfer-Encoding: chunked"),
		bad("space before the first field", "GET / HTTP/1.1\r\n "+host+"\r\n"+poisoned),
		field("line of one space", " "),
	)
	add("field name is not a token",
		field("space in a name", "X A: b"),
		field("space after a name", "X : b"),
		field("tab after a name", "X\t: b"),
		field("empty name", ": b"),
		field("line without a colon", "X"),
		field("8-bit name", "X\xe9: b"),
		field("NUL in a name", "X\x00A: b"),
		field("DEL in a name", "X\x7f: b"),
		field("quoted name", `"X": b`),
		field("parenthesis in a name", "X(A): b"),
		field("at sign in a name", "X@A: b"),
		field("slash in a name", "X/A: b"),
		field("request line in place of a field", "GET /x HTTP/1.1"),
		body("space after Content-Length", "Content-Length : 5"),
		body("tab after Content-Length", "Content-Length\t: 5"),
		body("space after Transfer-Encoding", "Transfer-Encoding : chunked"),
		body("NUL before Transfer-Encoding", "\x00Transfer-Encoding: chunked"),
		body("VT after Transfer-Encoding", "Transfer-Encoding\x0b: chunked"),
		field("space after Host", "Host : evil.test"),
	)
	add("control character in a field value",
		field("NUL in a value", "X: a\x00b"),
		field("BEL in a value", "X: a\x07b"),
		field("VT in a value", "X: a\x0bb"),
		field("FF first in a value", "X: \x0ca"),
		field("ESC in a value", "X: \x1b[31m"),
		field("DEL in a value", "X: a\x7fb"),
		field("NUL in a cookie", "Cookie: a=\x00"),
	)
	add("no host",
		bad("no host", "GET / HTTP/1.1\r\nX: y\r\n\r\n"+poisoned),
		bad("no host in HTTP/1.0", "GET / HTTP/1.0\r\n\r\n"+poisoned),
		bad("no field at all", "GET / HTTP/1.1\r\n\r\n"+poisoned),
	)
	add("more than one host",
		field("two hosts", "Host: evil.test"),
		field("two equal hosts", "Host: app.test"),
		field("second host in other case", "hOST: evil.test"),
		field("empty second host", "Host:"),
	)
	hostIs := func(name, h string) Case {
		return bad(name, "GET / HTTP/1.1\r\nHost: "+h+"\r\n\r\n"+poisoned)
	}
	add("malformed host",
		hostIs("empty host", ""),
		hostIs("host of a space", " "),
		hostIs("userinfo in the host", "a@app.test"),
		hostIs("password in the host", "a:b@app.test"),
		hostIs("path in the host", "app.test/x"),
		hostIs("query in the host", "app.test?x"),
		hostIs("fragment in the host", "app.test#x"),
		hostIs("backslash in the host", `app.test\x`),
		hostIs("space in the host", "app.test evil.test"),
		hostIs("comma in the host", "app.test,evil.test"),
		hostIs("percent in the host", "app%2etest"),
		hostIs("quotes round the host", `"app.test"`),
		hostIs("8-bit host", "app.t\xe9st"),
		hostIs("NUL in the host", "app.test\x00evil.test"),
		hostIs("tab before the host", "\tapp.test"),
		hostIs("space after the host", "app.test "),
		hostIs("fault late in a long host", strings.Repeat("a", 60)+"@evil.test"),
	)
}

func addFraming(add adder) {
	add("content length and transfer coding",
		body("content length, then transfer coding", "Content-Length: 5\r\nTransfer-Encoding: chunked"),
		body("transfer coding, then content length", "Transfer-Encoding: chunked\r\nContent-Length: 5"),
		body("content length 0, then transfer coding", "Content-Length: 0\r\nTransfer-Encoding: chunked"),
		body("transfer coding, then a long content length", "Transfer-Encoding: chunked\r\nContent-Length: 9999"),
		body("content length, then identity", "Content-Length: 5\r\nTransfer-Encoding: identity"),
		body("fields between the two", "Content-Length: 5\r\nX: y\r\nCookie: a=b\r\ntransfer-encoding: chunked"),
	)
	add("more than one content length",
		body("two different content lengths", "Content-Length: 5\r\nContent-Length: 0"),
		body("two equal content lengths", "Content-Length: 5\r\nContent-Length: 5"),
		body("second content length in other case", "Content-Length: 5\r\ncontent-length: 0"),
		body("two content lengths of 0", "Content-Length: 0\r\nContent-Length: 0"),
	)
	add("content length is not 1 to 15 digits",
		body("list of content lengths", "Content-Length: 5, 5"),
		body("plus before the content length", "Content-Length: +5"),
		body("negative content length", "Content-Length: -1"),
		body("hexadecimal content length", "Content-Length: 0x5"),
		body("letter after the content length", "Content-Length: 5a"),
		body("exponent in the content length", "Content-Length: 5e0"),
		body("fraction in the content length", "Content-Length: 5.0"),
		body("underscore in the content length", "Content-Length: 0_5"),
		body("semicolon after the content length", "Content-Length: 5;q=1"),
		body("quoted content length", `Content-Length: "5"`),
		body("empty content length", "Content-Length:"),
		body("fold of the content length", "Content-Length:\r\n 5"),
		body("content length of a space", "Content-Length: "),
		body("space in the content length", "Content-Length: 5 5"),
		body("space after the content length", "Content-Length: 5 "),
		body("tab before the content length", "Content-Length:\t5"),
		body("VT after the content length", "Content-Length: 5\x0b"),
		body("NUL after the content length", "Content-Length: 5\x00"),
		body("bare LF after the content length", "Content-Length: 5\nX: y"),
		body("content length of 16 digits", "Content-Length: 0000000000000005"),
		body("content length past 64 bits", "Content-Length: 18446744073709551621"),
		body("Arabic digits", "Content-Length: \u0665"),
	)
	add("more than one transfer coding",
		body("chunked twice", "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked"),
		body("chunked, then identity", "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity"),
		body("chunked, then nothing", "Transfer-Encoding: chunked\r\nTransfer-Encoding:"),
	)
	te := func(name, v string) Case { return body(name, "Transfer-Encoding: "+v) }
	add("transfer coding is not chunked",
		te("identity", "identity"),
		te("identity with digits after", "identity\r\nContent-Length: 5"),
		te("gzip, then chunked", "gzip, chunked"),
		te("chunked in a list of two", "chunked, chunked"),
		te("chunked, then identity in a list", "chunked, identity"),
		te("empty list element first", ", chunked"),
		te("empty list element last", "chunked,"),
		te("letter before chunked", "xchunked"),
		te("letter after chunked", "chunkedx"),
		te("cut chunked", "chunke"),
		te("parameter", "chunked;q=1"),
		te("quoted", `"chunked"`),
		te("space after chunked", "chunked "),
		te("tab before chunked", "\tchunked"),
		te("tab after chunked", "chunked\t"),
		te("VT before chunked", "\x0bchunked"),
		te("NUL after chunked", "chunked\x00"),
		te("bare LF after chunked", "chunked\nX: y"),
		te("long s", "\u017fchunked"),
		te("fold of the transfer coding", "\r\n chunked"),
		te("nothing", ""),
		te("cow", "cow"),
	)
	add("transfer coding in HTTP/1.0",
		bad("transfer coding in HTTP/1.0", "POST / HTTP/1.0\r\n"+host+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+poisoned),
		bad("the same, kept alive", "POST / HTTP/1.0\r\n"+host+"Connection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+poisoned),
	)
	add("upgrade with a body",
		body("upgrade with a content length", "Connection: Upgrade\r\nUpgrade: websocket\r\nContent-Length: 5"),
		body("upgrade with chunks", "Transfer-Encoding: chunked\r\nConnection: Upgrade\r\nUpgrade: websocket"),
		body("upgrade to h2c with a body", "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAARAAAAAAAIAAAAA\r\nContent-Length: 5"),
	)
}

func addChunks(add adder) {
	add("chunk size is not 1 to 8 hexadecimal digits",
		chunk("plus before the size", "+1\r\nx\r\n0\r\n\r\n"),
		chunk("minus before the size", "-1\r\nx\r\n0\r\n\r\n"),
		chunk("0x before the size", "0x1\r\nx\r\n0\r\n\r\n"),
		chunk("underscore in the size", "0_1\r\nx\r\n0\r\n\r\n"),
		chunk("no hexadecimal digit", "g\r\nx\r\n0\r\n\r\n"),
		chunk("space before the size", " 1\r\nx\r\n0\r\n\r\n"),
		chunk("space after the size", "1 \r\nx\r\n0\r\n\r\n"),
		chunk("tab after the size", "1\t\r\nx\r\n0\r\n\r\n"),
		chunk("space before the extension", "1 ;a=b\r\nx\r\n0\r\n\r\n"),
		chunk("VT after the size", "1\x0b\r\nx\r\n0\r\n\r\n"),
		chunk("NUL after the size", "1\x00\r\nx\r\n0\r\n\r\n"),
		chunk("comma after the size", "1,1\r\nx\r\n0\r\n\r\n"),
		chunk("size of 9 digits", "000000001\r\nx\r\n0\r\n\r\n"),
		chunk("size past 64 bits", "10000000000000001\r\nx\r\n0\r\n\r\n"),
		chunk("no size", "\r\nx\r\n0\r\n\r\n"),
		chunk("extension without a size", ";a=b\r\nx\r\n0\r\n\r\n"),
		chunk("bare LF after the size", "1\nx\r\n0\r\n\r\n"),
		chunk("bare LF after the last size", "1\r\nx\r\n0\n\r\n"),
		chunk("empty line between chunks", "1\r\nx\r\n\r\n0\r\n\r\n"),
	)
	add("chunk extension is not up to 256 visible bytes",
		chunk("LF in an extension", "1;a\nx\r\n0\r\n\r\n"),
		chunk("LF in an extension hides a size", "2;\nxx\r\n1f\r\n0\r\n\r\n"),
		chunk("NUL in an extension", "1;a\x00\r\nx\r\n0\r\n\r\n"),
		chunk("space in an extension", "1; a=b\r\nx\r\n0\r\n\r\n"),
		chunk("tab after an extension", "1;a=b\t\r\nx\r\n0\r\n\r\n"),
		chunk("8-bit extension", "1;\xe9\r\nx\r\n0\r\n\r\n"),
		chunk("extension of 257 bytes", "1;"+strings.Repeat("a", 257)+"\r\nx\r\n0\r\n\r\n"),
		chunk("extension of 20 KiB", "1;"+strings.Repeat("a", 20<<10)+"\r\nx\r\n0\r\n\r\n"),
		chunk("NUL in the last extension", "0;\x00\r\n\r\n"),
	)
	add("chunk does not end in CRLF",
		chunk("chunk longer than its size", "1\r\nxy\r\n0\r\n\r\n"),
		chunk("chunk shorter than its size", "3\r\nx\r\n0\r\n\r\n"),
		chunk("bare LF after a chunk", "1\r\nx\n0\r\n\r\n"),
		chunk("bare CR after a chunk", "1\r\nx\r0\r\n\r\n"),
		chunk("nothing after a chunk", "1\r\nx0\r\n\r\n"),
		chunk("two bytes after a chunk", "1\r\nxZZ0\r\n\r\n"),
	)
	add("line does not end in CRLF",
		chunk("bare CR after the size", "1\rx\r\n0\r\n\r\n"),
		chunk("last chunk ended by CRLF LF", "0\r\n\n"),
		chunk("last chunk ended by CRLF CR", "0\r\n\rX"),
		chunk("bare LF in a trailer", "0\r\nX: y\n\r\n"),
		chunk("LF in a trailer makes a field", "0\r\nX: y\nContent-Length: 5\r\n\r\n"),
	)
	add("folded field line",
		chunk("fold in a trailer", "0\r\nX: y\r\n z\r\n\r\n"),
		chunk("space before the first trailer", "0\r\n X: y\r\n\r\n"),
	)
	add("field name is not a token",
		chunk("space after a trailer's name", "0\r\nX : y\r\n\r\n"),
		chunk("trailer without a colon", "0\r\nX\r\n\r\n"),
		chunk("request in place of trailers", "0\r\nGET / HTTP/1.1\r\n\r\n"),
	)
	add("control character in a field value",
		chunk("NUL in a trailer", "0\r\nX: \x00\r\n\r\n"),
	)
	add("framing field in a trailer section",
		chunk("content length in a trailer", "0\r\nContent-Length: 5\r\n\r\n"),
		chunk("transfer coding in a trailer", "0\r\nTransfer-Encoding: chunked\r\n\r\n"),
		chunk("upgrade in a trailer", "0\r\nUpgrade: websocket\r\n\r\n"),
	)
	add("more than one host",
		chunk("host in a trailer", "0\r\nHost: evil.test\r\n\r\n"),
	)
	add("trailer section over 8 KiB",
		chunk("long trailer", "0\r\nX: "+strings.Repeat("y", 9<<10)+"\r\n\r\n"),
		chunk("many trailers", "0\r\n"+strings.Repeat("X: y\r\n", 1500)+"\r\n"),
	)
}

func addOthers(add adder) {
	large := func(name, raw string) Case { return Case{Name: name, Raw: raw, Status: 431} }
	const limit = 32 << 10
	add("head over the limit",
		large("long value", get+"X: "+strings.Repeat("y", limit)+"\r\n\r\n"),
		large("long cookie", get+"Cookie: a="+strings.Repeat("y", 2*limit)+"\r\n\r\n"),
		large("long target", "GET /"+strings.Repeat("x", limit)+" HTTP/1.1\r\n"+host+"\r\n"),
		large("long name", get+strings.Repeat("X", limit)+": y\r\n\r\n"),
		large("many fields", get+strings.Repeat("X: y\r\n", limit/6)+"\r\n"),
		large("one byte over the limit", get+"X: "+strings.Repeat("y", limit+1-len(get+"X: \r\n\r\n"))+"\r\n\r\n"),
		large("white space before a value", get+"X:"+strings.Repeat(" ", limit)+"y\r\n\r\n"),
		large("head that never ends", get+"X: "+strings.Repeat("y", limit)),
	)

	second := func(name, ahead string, served int, raw string) Case {
		return Case{Name: name, Ahead: ahead, Served: served, Raw: raw}
	}
	add("content length and transfer coding",
		second("second in a pipeline", get+"\r\n", 1, post+"Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"+poisoned),
	)
	add("method is not 1 to 16 capital letters",
		second("body longer than its length", post+"Content-Length: 3\r\n\r\nabc", 1, "def"+poisoned),
		second("bytes after a chunked body", chunked+"3\r\nabc\r\n0\r\n\r\n", 1, "0\r\n\r\n"+poisoned),
	)
	add("line does not end in CRLF",
		second("third in a pipeline", get+"\r\n"+post+"Content-Length: 2\r\n\r\nhi", 2, "GET / HTTP/1.1\n"+host+"\r\n"+poisoned),
	)
	add("more than one empty line before the request",
		second("empty lines after a request", get+"\r\n", 1, "\r\n\r\n"+poisoned),
	)
	add("folded field line",
		second("behind an upgrade that is not granted", get+"Connection: Upgrade\r\nUpgrade: websocket\r\n\r\n", 1, get+" X: y\r\n\r\n"+poisoned),
	)
	add("chunk size is not 1 to 8 hexadecimal digits",
		Case{Name: "bad chunk in a pipeline", Ahead: get + "\r\n", Served: 1, Raw: chunked + "1 \r\nx\r\n0\r\n\r\n" + poisoned, InBody: true},
	)
}
