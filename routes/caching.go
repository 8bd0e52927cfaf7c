package routes

import (
	"strings"

	"github.com/gofiber/fiber/v2"
	"github.com/valyala/fasthttp"
)

// personal adapts the header of an answer to a request that went to the upstream
// with somebody's token. The upstream has seen an Authorization field and relies
// on what such a field means; whoever stands in front of us has seen a cookie,
// which means nothing of the kind.
//
// A shared cache keeps the answer to a request with Authorization to itself only
// where the answer says that it may (RFC 9111, section 3.5). In front of us it
// would keep any, and give one person's to the next. So an answer that does not
// say that it is for everybody says that it is private. must-revalidate, which the
// RFC takes for leave as well, is not enough: it is written far more often
// than it is meant so.
//
// An answer that varies by Authorization varies by our cookie here.
//
// And a page of an origin that is not configured must not read the answer with
// the person's cookie, even if the upstream, to which a cookie means nothing,
// lets every origin do so (R22).
func personal(out *fasthttp.ResponseHeader) {
	if !saysWhoMayCache(out) {
		list := make([]string, 0, 2)
		for _, v := range out.PeekAll(fiber.HeaderCacheControl) {
			list = append(list, string(v))
		}
		out.Del(fiber.HeaderCacheControl)
		out.Set(fiber.HeaderCacheControl, strings.Join(append(list, "private"), ", "))
	}
	if hasToken(out, fiber.HeaderVary, "Authorization") {
		addToken(out, fiber.HeaderVary, fiber.HeaderCookie)
	}
	out.Del(fiber.HeaderAccessControlAllowCredentials)
}

// saysWhoMayCache reports whether Cache-Control says that the answer is for
// everybody, or keeps it from shared caches.
func saysWhoMayCache(out *fasthttp.ResponseHeader) bool {
	for _, v := range out.PeekAll(fiber.HeaderCacheControl) {
		for directive := range strings.SplitSeq(string(v), ",") {
			name, _, _ := strings.Cut(directive, "=")
			switch name = strings.ToLower(strings.Trim(name, " \t")); name {
			case "public", "s-maxage", "no-store":
				return true
			case "private":
				if !strings.Contains(directive, "=") { // else only the fields that it names are
					return true
				}
			}
		}
	}
	return false
}

// hasToken reports whether a field is a list that token is in.
func hasToken(header *fasthttp.ResponseHeader, name, token string) bool {
	for _, v := range header.PeekAll(name) {
		for element := range strings.SplitSeq(string(v), ",") {
			if strings.EqualFold(strings.Trim(element, " \t"), token) {
				return true
			}
		}
	}
	return false
}

// addToken adds token to a field that is a list, unless it is there or the list
// stands for everything.
func addToken(header *fasthttp.ResponseHeader, name, token string) {
	if !hasToken(header, name, token) && !hasToken(header, name, "*") {
		header.Add(name, token)
	}
}
