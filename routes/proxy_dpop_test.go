package routes_test

import (
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"cloakroom/infra/dpop"
)

// A provider that does not bind tokens any more, where nobody asks it to, gives
// bearer tokens to devices that have a key from before.
func TestBearerTokensOfADeviceWithAKey(t *testing.T) {
	for name, c := range map[string]struct {
		had  string // the type of the token before
		want []string
	}{
		"before this request": {"Bearer", []string{"Bearer "}},
		"by its refresh":      {"DPoP", []string{"DPoP with a proof", "Bearer "}},
	} {
		t.Run(name, func(t *testing.T) {
			var seen []string
			f := newProxy(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				scheme, _, _ := strings.Cut(r.Header.Get("Authorization"), " ")
				proof := ""
				if r.Header.Get("Dpop") != "" {
					proof = "with a proof"
				}
				if seen = append(seen, scheme+" "+proof); scheme == "DPoP" {
					w.WriteHeader(http.StatusUnauthorized)
				}
			}))
			r, err := f.store.Get(t.Context(), f.device())
			if err != nil {
				t.Fatal(err)
			}
			if r.Tokens.DPoPKey, err = dpop.NewKey(); err != nil {
				t.Fatal(err)
			}
			r.Tokens.TokenType = c.had
			if err := f.store.ReplaceTokens(t.Context(), r.DeviceID, "", r.Version, r.Tokens, r.ExpiresAt); err != nil {
				t.Fatal(err)
			}
			f.late.Store(int64(time.Minute))
			if resp, body := f.get("/"); resp.StatusCode != 200 || !slices.Equal(seen, c.want) {
				t.Errorf("%s %s; the upstream got %q, want %q", resp.Status, body, seen, c.want)
			}
		})
	}
}
