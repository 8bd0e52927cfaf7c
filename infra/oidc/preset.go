package oidc

import (
	"maps"
	"slices"
)

// googleIssuer is Google's. Its tokens may leave out the scheme, which go-oidc
// knows.
const googleIssuer = "https://accounts.google.com"

// Presets lists the names that Preset knows.
func Presets() []string { return []string{"auth0", "entra", "google", "keycloak", "okta"} }

// Preset returns what a well-known provider wants, for settings to start from;
// each of its fields may be set otherwise. It reports whether it knows the name.
func Preset(name string) (Config, bool) {
	standard := []string{"openid", "email", "profile"}
	offline := append(slices.Clone(standard), "offline_access")
	switch name {
	case "google":
		// A refresh token comes with access_type=offline, and then only after
		// the person was asked: without prompt=consent, at the first sign-in
		// alone, so that a second device would have none.
		return Config{Issuer: googleIssuer, Scopes: standard, Prompt: "consent"}, true
	case "keycloak":
		// Refresh tokens come without offline_access, and end with the
		// session, as people who sign out there expect.
		return Config{Scopes: standard, Claims: Claims{Roles: []string{"realm_access.roles", "roles", "groups"}}}, true
	case "entra":
		// email is what an administrator of any tenant has typed. xms_edov
		// says whether its domain is verified.
		return Config{Scopes: offline, AssertionAudience: TokenEndpoint, Claims: Claims{EmailVerified: "xms_edov"}}, true
	case "auth0":
		return Config{Scopes: offline}, true
	case "okta":
		return Config{Scopes: offline, AssertionAudience: TokenEndpoint, UserInfo: true}, true
	}
	return Config{}, false
}

// TokenEndpoint as Config.AssertionAudience stands for the token endpoint's URL.
const TokenEndpoint = "token_endpoint"

func withOpenID(scopes []string) []string {
	if len(scopes) == 0 {
		return []string{"openid", "email", "profile"}
	}
	if slices.Contains(scopes, "openid") {
		return scopes
	}
	return append([]string{"openid"}, scopes...)
}

// withOffline asks Google for a refresh token in Google's own way, whether or
// not the preset was named.
func withOffline(issuer string, params map[string]string) map[string]string {
	if _, said := params["access_type"]; said || issuer != googleIssuer {
		return params
	}
	params = maps.Clone(params)
	if params == nil {
		params = map[string]string{}
	}
	params["access_type"] = "offline"
	return params
}

func (c Claims) orStandard() Claims {
	if c.Email == "" {
		c.Email = "email"
	}
	if c.EmailVerified == "" {
		c.EmailVerified = "email_verified"
	}
	if c.Name == "" {
		c.Name = "name"
	}
	if len(c.Roles) == 0 {
		c.Roles = []string{"roles", "groups"}
	}
	return c
}
