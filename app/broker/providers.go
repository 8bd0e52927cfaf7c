package broker

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/oidc"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
	"cloakroom/routes"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// passwords is the name of the sign-in method of a JSON auth server. It is shown
// on the devices page.
const passwords = "Password"

// newAuthClient returns the client of the JSON auth server, or nil if there is
// none.
func newAuthClient(s settings.Settings) *authapi.Client {
	if s.AuthURL == nil {
		return nil
	}
	return authapi.New(authapi.Config{
		BaseURL:      s.AuthURL,
		RegisterPath: s.AuthRegisterPath, LoginPath: s.AuthLoginPath, RefreshPath: s.AuthRefreshPath, RevokePath: s.AuthRevokePath, ExchangePath: s.AuthExchangePath,
		Form:       s.AuthBody == "form",
		LoginForm:  s.AuthLoginBody == "form",
		TrustEmail: s.AuthTrustEmail,
		EmailField: s.AuthEmailField, PasswordField: s.AuthPasswordField, RefreshTokenField: s.AuthRefreshTokenField,
		AccessTokenAnswer: s.AuthAnswerAccessToken, RefreshTokenAnswer: s.AuthAnswerRefreshToken, TokenTypeAnswer: s.AuthAnswerTokenType,
		ExpiresInAnswer: s.AuthAnswerExpiresIn, RefreshExpiresInAnswer: s.AuthAnswerRefreshExpiresIn,
		Timeout: s.AuthTimeout,
	})
}

// providers are the clients of the OpenID providers, in the settings' order.
type providers []*oidc.Provider

// openProviders asks nobody anything: a provider that is down does not keep the
// broker from starting.
func openProviders(s settings.Settings) (providers, error) {
	var opened providers
	for _, p := range s.Providers {
		c := p.Client()
		c.Timeout = s.AuthTimeout
		client, err := oidc.New(c)
		if err != nil {
			opened.close()
			return nil, err
		}
		opened = append(opened, client)
	}
	return opened, nil
}

func (o providers) close() {
	for _, p := range o {
		p.Close()
	}
}

// toUse is every way to sign in, as the use cases know it.
func (o providers) toUse(s settings.Settings, auth *authapi.Client) []usecase.Provider {
	var list []usecase.Provider
	if auth != nil {
		list = append(list, usecase.Provider{Name: passwords, Issuer: s.AuthIssuer, AnyIssuer: true, Tokens: auth, Passwords: auth})
	}
	for i, p := range o {
		use := usecase.Provider{Name: p.Name(), Issuer: p.Issuer(), Tokens: p, Client: p.ClientID()}
		if s.Providers[i].Exchange == settings.ExchangeAuthServer {
			use = usecase.Provider{Name: p.Name(), Issuer: s.AuthIssuer, Tokens: auth}
		}
		list = append(list, use)
	}
	return list
}

// toShow is the OpenID providers as the surface knows them.
func (o providers) toShow(s settings.Settings, auth *authapi.Client, pages *web.Pages) ([]routes.Provider, error) {
	var list []routes.Provider
	for i, p := range o {
		of := s.Providers[i]
		show := routes.Provider{
			Provider: p, Title: of.ShownTitle(), TakesCredentials: of.TakesCredentials(), KeepSession: of.KeepSession, ProofPrompt: of.ProofPrompt(),
		}
		if of.Exchange == settings.ExchangeAuthServer {
			show.Exchange, show.ExchangeIssuer = auth.Exchange, s.AuthIssuer
		}
		var err error
		if show.Icon, err = icon(of, pages); err != nil {
			return nil, fmt.Errorf("provider %s: %w", p.Name(), err)
		}
		list = append(list, show)
	}
	return list, nil
}

// largestIcon is how large a picture on a button may be, in bytes.
const largestIcon = 64 << 10

// icon reads the picture that the settings name, or takes one of our own.
func icon(p settings.Provider, pages *web.Pages) (routes.Icon, error) {
	if p.Icon == "" {
		body, kind, _, ok := pages.Static(p.PresetName() + ".svg")
		if !ok {
			body, kind, _, _ = pages.Static(web.OtherIcon)
		}
		return routes.Icon{Body: body, ContentType: kind}, nil
	}
	kind, known := map[string]string{".svg": "image/svg+xml", ".png": "image/png"}[strings.ToLower(filepath.Ext(p.Icon))]
	if !known {
		return routes.Icon{}, errors.New("the icon is neither an .svg nor a .png file")
	}
	body, err := os.ReadFile(p.Icon)
	switch {
	case err != nil:
		return routes.Icon{}, fmt.Errorf("the icon: %w", err)
	case len(body) == 0 || len(body) > largestIcon:
		return routes.Icon{}, fmt.Errorf("the icon is empty or larger than %d KiB", largestIcon>>10)
	}
	return routes.Icon{Body: body, ContentType: kind}, nil
}

// pendingKeys returns what sign-ins under way are sealed with. A store in memory
// needs no keys, and then one of this process's own will do: there is no other.
func pendingKeys(s settings.Settings) (*seal.Keyring, error) {
	keys := s.SealKeys
	if len(keys) == 0 {
		key, err := seal.GenerateKey(rand.Reader, time.Now())
		if err != nil {
			return nil, err
		}
		keys = []domain.Secret{key}
	}
	return keyring(keys)
}

// providerNames are the names that records and metrics have for ways to sign in.
func providerNames(s settings.Settings) []string {
	names := []string{passwords}
	for _, p := range s.Providers {
		names = append(names, p.Name)
	}
	return names
}
