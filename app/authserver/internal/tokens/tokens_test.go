package tokens

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"errors"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
)

const (
	issuer   = "https://auth.example.com"
	audience = "api"
)

var (
	start = time.Date(2026, 1, 2, 3, 4, 5, 600_000_000, time.UTC)
	alice = Subject{ID: "7f5c3c1e-0c5e-4f5c-9d0a-0d8f1f0f9b11", Email: "alice@example.com", Role: "user"}
)

func newSigner(t *testing.T, key []byte, now func() time.Time) *Signer {
	t.Helper()
	s, err := NewSigner(key, issuer, audience, 15*time.Minute, now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func newKey(t *testing.T) []byte {
	t.Helper()
	key, err := NewKey()
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func fixed(at time.Time) func() time.Time { return func() time.Time { return at } }

// publicKey reads the key set the way an API does that knows the address alone.
func publicKey(t *testing.T, jwks []byte) (kid string, key *ecdsa.PublicKey) {
	t.Helper()
	var set struct {
		Keys []struct{ Kty, Crv, X, Y, Kid, Use, Alg string }
	}
	if err := json.Unmarshal(jwks, &set); err != nil {
		t.Fatal(err)
	}
	if len(set.Keys) != 1 {
		t.Fatalf("the set has %d keys, want 1", len(set.Keys))
	}
	k := set.Keys[0]
	if k.Kty != "EC" || k.Crv != "P-256" || k.Use != "sig" || k.Alg != "ES256" {
		t.Errorf("key = %+v, want an EC key on P-256 for ES256 signatures", k)
	}
	point := []byte{4} // uncompressed
	for _, coordinate := range []string{k.X, k.Y} {
		raw, err := base64.RawURLEncoding.DecodeString(coordinate)
		if err != nil || len(raw) != 32 {
			t.Fatalf("coordinate of %d bytes, %v, want 32", len(raw), err)
		}
		point = append(point, raw...)
	}
	key, err := ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
	if err != nil {
		t.Fatal(err)
	}
	return k.Kid, key
}

func TestR47_TokensAreVerifiedByThePublishedKey(t *testing.T) {
	s := newSigner(t, newKey(t), fixed(start))
	raw, lifetime, err := s.Issue(alice, start)
	if err != nil {
		t.Fatal(err)
	}
	if lifetime != 15*time.Minute {
		t.Errorf("lifetime = %v, want 15m", lifetime)
	}
	kid, key := publicKey(t, s.JWKS())
	got := jwt.MapClaims{}
	token, err := jwt.NewParser(jwt.WithTimeFunc(fixed(start)), jwt.WithValidMethods([]string{"ES256"})).
		ParseWithClaims(raw, got, func(*jwt.Token) (any, error) { return key, nil })
	if err != nil {
		t.Fatal(err)
	}
	if token.Header["kid"] != kid || token.Header["typ"] != "at+jwt" {
		t.Errorf("header = %v, want kid %s and typ at+jwt", token.Header, kid)
	}
	want := map[string]any{"iss": issuer, "sub": alice.ID, "email": alice.Email, "email_verified": false, "role": "user"}
	for name, value := range want {
		if got[name] != value {
			t.Errorf("claim %s = %v, want %v", name, got[name], value)
		}
	}
	if aud, err := got.GetAudience(); err != nil || len(aud) != 1 || aud[0] != audience {
		t.Errorf("aud = %v, want %s alone", aud, audience)
	}
	if id, _ := got["jti"].(string); len(id) != 36 {
		t.Errorf("jti = %q, want a UUID", id)
	}
}

func TestExpiryIsRoundedUpToTheSecond(t *testing.T) {
	end := start.Add(15 * time.Minute)
	key := newKey(t)
	raw, _, err := newSigner(t, key, fixed(start)).Issue(alice, start)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := newSigner(t, key, fixed(end.Add(-time.Millisecond))).Verify(raw); err != nil {
		t.Errorf("just before its time is over: %v, want nil", err)
	}
	if _, err := newSigner(t, key, fixed(end.Add(time.Second))).Verify(raw); !errors.Is(err, ErrInvalid) {
		t.Errorf("a second after its time: %v, want ErrInvalid", err)
	}
}

func TestKeyKeepsItsNameOverStarts(t *testing.T) {
	key := newKey(t)
	first, _ := publicKey(t, newSigner(t, key, time.Now).JWKS())
	again, _ := publicKey(t, newSigner(t, key, time.Now).JWKS())
	other, _ := publicKey(t, newSigner(t, newKey(t), time.Now).JWKS())
	if first != again || first == other {
		t.Errorf("kids are %s, %s for one key and %s for another", first, again, other)
	}
}

func TestR47_VerifyRefusesWhatIsNotOurs(t *testing.T) {
	s := newSigner(t, newKey(t), fixed(start))
	good := func() (claims, map[string]any) {
		return claims{RegisteredClaims: jwt.RegisteredClaims{
			Issuer: issuer, Subject: alice.ID, Audience: jwt.ClaimStrings{audience},
			ExpiresAt: jwt.NewNumericDate(start.Add(time.Minute)),
		}}, map[string]any{"typ": mediaType, "kid": s.keyID}
	}
	sign := func(method jwt.SigningMethod, key any, change func(c *claims, header map[string]any)) string {
		c, header := good()
		change(&c, header)
		token := jwt.NewWithClaims(method, c)
		for name, value := range header {
			token.Header[name] = value
		}
		raw, err := token.SignedString(key)
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	es256 := func(change func(*claims, map[string]any)) string { return sign(jwt.SigningMethodES256, s.key, change) }
	nothing := func(*claims, map[string]any) {}
	otherKey := newSigner(t, newKey(t), time.Now).key
	_, public := publicKey(t, s.JWKS())
	point, err := public.Bytes()
	if err != nil {
		t.Fatal(err)
	}

	if id, err := s.Verify(es256(nothing)); err != nil || id != alice.ID {
		t.Fatalf("Verify(good) = %q, %v, want %s", id, err, alice.ID)
	}
	for name, raw := range map[string]string{
		"empty":              "",
		"no JWT":             "abc",
		"unsigned":           sign(jwt.SigningMethodNone, jwt.UnsafeAllowNoneSignatureType, nothing),
		"public key as HMAC": sign(jwt.SigningMethodHS256, point, nothing),
		"other key":          sign(jwt.SigningMethodES256, otherKey, nothing),
		"other type":         es256(func(_ *claims, h map[string]any) { h["typ"] = "JWT" }),
		"other key id":       es256(func(_ *claims, h map[string]any) { h["kid"] = "x" }),
		"other issuer":       es256(func(c *claims, _ map[string]any) { c.Issuer = issuer + "/" }),
		"other audience":     es256(func(c *claims, _ map[string]any) { c.Audience = jwt.ClaimStrings{"other"} }),
		"no expiry":          es256(func(c *claims, _ map[string]any) { c.ExpiresAt = nil }),
		"expired":            es256(func(c *claims, _ map[string]any) { c.ExpiresAt = jwt.NewNumericDate(start.Add(-time.Minute)) }),
	} {
		if id, err := s.Verify(raw); !errors.Is(err, ErrInvalid) {
			t.Errorf("%s: Verify = %q, %v, want ErrInvalid", name, id, err)
		}
	}
}
