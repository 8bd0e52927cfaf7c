package oidc_test

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"cloakroom/domain"
	"cloakroom/infra/oidc"
	"cloakroom/infra/oidc/oidctest"
)

const google = "https://accounts.google.com"

// asGoogle sends what is meant for Google to the server of the test.
type asGoogle struct{ to string }

func (g asGoogle) RoundTrip(req *http.Request) (*http.Response, error) {
	to, err := url.Parse(strings.Replace(req.URL.String(), google, g.to, 1))
	if err != nil {
		return nil, err
	}
	req = req.Clone(req.Context())
	req.URL, req.Host = to, ""
	return http.DefaultTransport.RoundTrip(req)
}

// googleClient returns the client of a server that calls itself Google.
func googleClient(t *testing.T, s *oidctest.Server, changes ...func(*oidc.Config)) *oidc.Provider {
	t.Helper()
	s.Document(func(d map[string]any) {
		for name, value := range d {
			if text, ok := value.(string); ok {
				d[name] = strings.Replace(text, s.URL, google, 1)
			}
		}
	})
	c, _ := oidc.Preset("google")
	c.Name, c.ClientID, c.ClientSecret = "google", oidctest.ClientID, domain.NewSecret(oidctest.ClientSecret)
	for _, change := range changes {
		change(&c)
	}
	p, err := oidc.New(c)
	if err != nil {
		t.Fatal(err)
	}
	p.Through(asGoogle{s.URL})
	return p
}

// TestGoogleIsAskedForARefreshToken: known by the issuer, with or without the
// preset.
func TestGoogleIsAskedForARefreshToken(t *testing.T) {
	address, _, err := googleClient(t, oidctest.New(t)).Begin(t.Context(), domain.AuthRequest{RedirectURI: redirectURI})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(address)
	if err != nil || u.Host != "accounts.google.com" || u.Query().Get("access_type") != "offline" || u.Query().Get("prompt") != "consent" {
		t.Errorf("the address is %s, %v", address, err)
	}
}

// TestR6_GoogleHasOneIssuer: its tokens name it in two ways, which are one
// owner. No other provider may do that.
func TestR6_GoogleHasOneIssuer(t *testing.T) {
	s := oidctest.New(t)
	p := googleClient(t, s)
	for issuer, want := range map[string]domain.SignInReason{
		"https://accounts.google.com":      "",
		"accounts.google.com":              "",
		"http://accounts.google.com":       domain.SignInUntrusted,
		"https://accounts.google.com/":     domain.SignInUntrusted,
		"https://accounts.google.com.evil": domain.SignInUntrusted,
	} {
		claims := s.IDClaims("")
		claims["iss"], claims["azp"] = issuer, oidctest.ClientID
		got, err := p.Credential(t.Context(), domain.NewSecret(s.Sign(nil, claims)), "")
		if reason(err) != want || want == "" && (err != nil || got.Issuer != google) {
			t.Errorf("%s: %q, %v", issuer, got.Issuer, err)
		}
	}
}

// TestWorkspaceDomainIsHeldTo: the parameter hd only suggests, because whoever
// signs in can take it out of the address.
func TestWorkspaceDomainIsHeldTo(t *testing.T) {
	for name, c := range map[string]struct {
		asked string
		of    any // hd of the ID token; nil for none
		want  domain.SignInReason
	}{
		"of the domain":              {"example.com", "example.com", ""},
		"of another":                 {"example.com", "evil.example", domain.SignInDeclined},
		"of none":                    {"example.com", nil, domain.SignInDeclined},
		"of any":                     {"*", "other.example", ""},
		"of none, where any will do": {"*", nil, domain.SignInDeclined},
		"not asked for":              {"", nil, ""},
	} {
		s := oidctest.New(t)
		change := func(claims map[string]any) {
			if claims["iss"] = google; c.of != nil {
				claims["hd"] = c.of
			}
		}
		s.Claims(change)
		p := googleClient(t, s, func(o *oidc.Config) {
			if c.asked != "" {
				o.AuthParams = map[string]string{"hd": c.asked}
			}
		})
		back, tx := begin(t, s, p, domain.AuthRequest{})
		_, err := finish(t, p, replaced(back, "iss", google), tx)
		if reason(err) != c.want || c.want == "" && err != nil {
			t.Errorf("%s: %v, want the reason %q", name, err, c.want)
		}
		claims := s.IDClaims("")
		change(claims)
		_, err = p.Credential(t.Context(), domain.NewSecret(s.Sign(nil, claims)), "")
		if reason(err) != c.want || c.want == "" && err != nil {
			t.Errorf("%s, by the button: %v, want the reason %q", name, err, c.want)
		}
	}
}

func TestPresetsAreUsable(t *testing.T) {
	for _, name := range oidc.Presets() {
		c, ok := oidc.Preset(name)
		if c.Issuer == "" {
			c.Issuer = "https://id.example"
		}
		c.Name, c.ClientID, c.ClientSecret = name, "c", domain.NewSecret("s")
		if _, err := oidc.New(c); err != nil || !ok {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, ok := oidc.Preset("nobody"); ok {
		t.Error("there is a preset for nobody")
	}
}
