package settings_test

import (
	"strings"
	"testing"
)

// alone is enough for a broker whose people sign in at providers alone.
func alone(providers string) []string {
	return []string{"CLOAKROOM_ROUTE=/api=http://127.0.0.1:9000", "CLOAKROOM_SEAL_KEY=" + key1, "CLOAKROOM_PROVIDER=" + providers}
}

// testKey is a key of nobody's.
const testKey = `-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg6WIl7g58RVf9tRn5
WY3+Uri2ItEqYhQvxluPdKDGnK6hRANCAASEzIlZI7ryXqODXfjBdgsojEl5r8tv
sOLIkZqaWgovwcsYeN54IldmnO8Pe7/dK5tMAIGPtQ7CSXvVGNmmR2s1
-----END PRIVATE KEY-----
`

func TestProvidersFromVariables(t *testing.T) {
	s, values, problems := world{
		env:   alone("google;client-id=one;client-secret-file=/run/google, sso;preset=keycloak;issuer=https://id.example/realms/main;client-id=two;client-secret=hunter2;scopes=openid email;dpop=true"),
		files: map[string]string{"/run/google": "secret of google\n"},
	}.load(t)
	if problems != nil || len(s.Providers) != 2 {
		t.Fatalf("%d providers, problems:\n%v", len(s.Providers), problems)
	}
	google, sso := s.Providers[0], s.Providers[1]
	if google.PresetName() != "google" || google.ClientID != "one" || google.ClientSecret.Reveal() != "secret of google" || !google.TakesCredentials() {
		t.Errorf("google is %+v", google)
	}
	if sso.PresetName() != "keycloak" || sso.Issuer != "https://id.example/realms/main" || sso.ClientSecret.Reveal() != "hunter2" || sso.Scopes != "openid email" || !sso.DPoP || sso.TakesCredentials() {
		t.Errorf("sso is %+v", sso)
	}
	for _, v := range values {
		if v.Name == "provider" && v.Value != "google,sso" {
			t.Errorf("people are shown the providers as %q, want their names", v.Value)
		}
	}
}

func TestProvidersFromYAML(t *testing.T) {
	s, _, problems := world{
		flags: []string{"--config=c.yaml"}, env: enough(),
		files: map[string]string{"/run/key": testKey, "c.yaml": `provider:
  - name: sso
    issuer: https://id.example
    client-id: two
    client-key-file: /run/key
    title: Our house
    authorize: hd=example.com&ui_locales=de
    exchange: auth-server
`},
	}.load(t)
	if problems != nil || len(s.Providers) != 1 {
		t.Fatalf("%d providers, problems:\n%v", len(s.Providers), problems)
	}
	if p := s.Providers[0]; p.ClientKey.Reveal() != strings.TrimSpace(testKey) || p.Title != "Our house" || p.Authorize != "hd=example.com&ui_locales=de" || p.PresetName() != "" {
		t.Errorf("the provider is %+v", p)
	}
}

// TestR1_StartRefusesProvidersWithoutClientCredentials also holds what else is
// checked at the start.
func TestR1_StartRefusesProvidersWithoutClientCredentials(t *testing.T) {
	const good = ";issuer=https://id.example;client-id=a;client-secret=b"
	for _, tt := range []struct{ name, provider, want string }{
		{"no client id", "sso;issuer=https://id.example;client-secret=b", "CLOAKROOM_PROVIDER: has no client-id"},
		{"no client secret", "sso;issuer=https://id.example;client-id=a", "CLOAKROOM_PROVIDER: has neither client-secret nor client-key"},
		{"an empty client secret", "google;client-id=a;client-secret=", "CLOAKROOM_PROVIDER: has neither client-secret nor client-key"},
		{"two kinds of credentials", "sso" + good + ";client-key=c", "CLOAKROOM_PROVIDER: has both client-secret and client-key"},
		{"a key that is not there", "sso" + good + ";client-auth=private_key_jwt", "CLOAKROOM_PROVIDER: says private_key_jwt but has no client-key"},
		{"a secret and its file", "sso" + good + ";client-secret-file=/x", "client-secret of CLOAKROOM_PROVIDER: is given, and so is client-secret-file"},
		{"a file that is not there", "google;client-id=a;client-secret-file=/x", "client-secret-file of CLOAKROOM_PROVIDER: names a file that does not exist"},
		{"no issuer", "sso;client-id=a;client-secret=b", "CLOAKROOM_PROVIDER: has no issuer"},
		{"an issuer in plain http", "sso;issuer=http://id.example;client-id=a;client-secret=b", "CLOAKROOM_PROVIDER: has an issuer in plain http"},
		{"an unsafe option without a use", "sso" + good + ";unsafe-plain-http=true", "CLOAKROOM_PROVIDER: has unsafe-plain-http, which has no use"},
		{"a name with a slash", "a/b" + good, "CLOAKROOM_PROVIDER: has no plain name"},
		{"one name for two", "a" + good + ",a" + good, "CLOAKROOM_PROVIDER (value 2): has the same name as CLOAKROOM_PROVIDER (value 1)"},
		{"a field that is none", "sso" + good + ";isuer=x", "isuer of CLOAKROOM_PROVIDER: there is no isuer here; did you mean issuer?"},
		{"half a field", "sso" + good + ";dpop", "CLOAKROOM_PROVIDER: is not a provider"},
		{"a preset that is none", "sso" + good + ";preset=github", "preset of CLOAKROOM_PROVIDER: is none of the allowed values"},
		{"an exchange with nobody", "sso" + good + ";exchange=auth-server", "CLOAKROOM_PROVIDER: exchanges at the auth server, but auth-url is missing"},
	} {
		files := map[string]string{}
		_, _, problems := world{env: alone(tt.provider), files: files}.load(t)
		if len(problems) == 0 || !strings.HasPrefix(problems[0], tt.want) {
			t.Errorf("%s: problems\n%v\nwant: %s", tt.name, problems, tt.want)
		}
	}
}
