package oidc

import "net/http"

// Through has everything but userinfo asked for through t: no test goes to Google.
func (p *Provider) Through(t http.RoundTripper) {
	p.asking, p.peopleClient = newClient(documents{t}), newClient(&clientAuth{provider: p, base: t})
	p.tokensClient = p.peopleClient
}
