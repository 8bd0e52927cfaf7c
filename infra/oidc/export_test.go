package oidc

import "net/http"

// Through has documents asked for through rt: no test goes to Google.
func (p *Provider) Through(rt http.RoundTripper) { p.asking.Transport = documents{rt} }
