package seal_test

import (
	"bytes"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/seal"
)

var (
	phone  = domain.DeviceID{1}
	laptop = domain.DeviceID{2}
	token  = domain.NewSecret("eyJhbGciOi.an-access-token.sig")
)

// key makes a key whose bytes follow from seed.
func key(t testing.TB, id string, seed byte) seal.Key {
	t.Helper()
	k, err := seal.ParseKey(keyText(id, seed))
	if err != nil {
		t.Fatalf("ParseKey(%s): %v", id, err)
	}
	return k
}

func keyText(id string, seed byte) string {
	raw := make([]byte, seal.KeySize)
	for i := range raw {
		raw[i] = seed + byte(i)*7
	}
	return id + ":" + base64.RawURLEncoding.EncodeToString(raw)
}

func keyring(t testing.TB, keys ...seal.Key) *seal.Keyring {
	t.Helper()
	r, err := seal.NewKeyring(keys...)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func sealed(t testing.TB, r *seal.Keyring, field string) []byte {
	t.Helper()
	envelope, err := r.Seal(token, phone, field)
	if err != nil {
		t.Fatal(err)
	}
	return envelope
}

func TestR12_SealedFieldsOpenInTheirPlace(t *testing.T) {
	r := keyring(t, key(t, "k1", 1))
	for _, plain := range []string{"", "a", token.Reveal(), strings.Repeat("long ", 20_000)} {
		envelope, err := r.Seal(domain.NewSecret(plain), phone, "access_token")
		if err != nil {
			t.Fatal(err)
		}
		got, err := r.Open(bytes.Clone(envelope), phone, "access_token")
		if err != nil || got.Reveal() != plain {
			t.Errorf("Open gives %d bytes, %v; want the %d that were sealed", len(got.Reveal()), err, len(plain))
		}
		if plain == token.Reveal() && bytes.Contains(envelope, []byte(plain)) {
			t.Error("the envelope shows the token")
		}
	}
}

func TestR12_NothingOpensElsewhere(t *testing.T) {
	r := keyring(t, key(t, "k1", 1))
	envelope := sealed(t, r, "access_token")
	for _, tt := range []struct {
		name   string
		device domain.DeviceID
		field  string
	}{
		{"another field", phone, "refresh_token"},
		{"another device", laptop, "access_token"},
		{"a longer field", phone, "access_token2"},
		{"no field", phone, ""},
	} {
		got, err := r.Open(bytes.Clone(envelope), tt.device, tt.field)
		if !errors.Is(err, seal.ErrNotAuthentic) || !got.Empty() {
			t.Errorf("%s: Open = %q, %v; want nothing and ErrNotAuthentic", tt.name, got.Reveal(), err)
		}
	}
}

func TestR12_EveryAlterationIsSeen(t *testing.T) {
	r := keyring(t, key(t, "k1", 1), key(t, "k2", 2), key(t, "j1", 3))
	envelope := sealed(t, r, "access_token")
	refused := func(what string, altered []byte) {
		t.Helper()
		got, err := r.Open(bytes.Clone(altered), phone, "access_token")
		if !errors.Is(err, seal.ErrNotAuthentic) && !errors.Is(err, seal.ErrUnknownKey) {
			t.Errorf("%s: err = %v, want ErrNotAuthentic or ErrUnknownKey", what, err)
		}
		if !got.Empty() {
			t.Errorf("%s: it gives a text", what)
		}
		if err != nil && strings.Contains(err.Error(), token.Reveal()) {
			t.Errorf("%s: the error shows the token: %v", what, err)
		}
	}
	for i := range envelope {
		for bit := range 8 {
			altered := bytes.Clone(envelope)
			altered[i] ^= 1 << bit
			refused(fmt.Sprintf("bit %d of byte %d flipped", bit, i), altered)
		}
		refused(fmt.Sprintf("cut to %d bytes", i), envelope[:i])
	}
	refused("a byte more", append(bytes.Clone(envelope), 0))
}

func TestKeysRotate(t *testing.T) {
	old, next := key(t, "old", 1), key(t, "next", 2)
	before := sealed(t, keyring(t, old), "access_token")

	both := keyring(t, next, old)
	if got, err := both.Open(bytes.Clone(before), phone, "access_token"); err != nil || got.Reveal() != token.Reveal() {
		t.Errorf("what the old key sealed does not open once there is a new one: %v", err)
	}
	after := sealed(t, both, "access_token")
	if id, err := seal.SealedBy(after); id != "next" || err != nil || both.First() != "next" {
		t.Errorf("sealed by %q, %v; want the first key, next", id, err)
	}
	if id, err := seal.SealedBy(before); id != "old" || err != nil {
		t.Errorf("SealedBy = %q, %v; want old", id, err)
	}

	alone := keyring(t, next)
	if _, err := alone.Open(bytes.Clone(before), phone, "access_token"); !errors.Is(err, seal.ErrUnknownKey) {
		t.Errorf("without the old key: %v, want ErrUnknownKey", err)
	}
	if _, err := alone.Open(bytes.Clone(after), phone, "access_token"); err != nil {
		t.Errorf("what the new key sealed needs the old one: %v", err)
	}
	renamed := keyring(t, key(t, "old", 2))
	if _, err := renamed.Open(bytes.Clone(before), phone, "access_token"); !errors.Is(err, seal.ErrNotAuthentic) {
		t.Errorf("another key of the same id: %v, want ErrNotAuthentic", err)
	}
}

func TestNoncesComeFromRandom(t *testing.T) {
	r := keyring(t, key(t, "k1", 1))
	if bytes.Equal(sealed(t, r, "access_token"), sealed(t, r, "access_token")) {
		t.Error("the same text sealed twice gives the same envelope")
	}
	nonce := bytes.Repeat([]byte{0xab}, 24)
	r.Random = bytes.NewReader(nonce)
	if !bytes.Contains(sealed(t, r, "access_token"), nonce) {
		t.Error("the nonce is not what Random gave")
	}
	r.Random = iotest.ErrReader(io.ErrUnexpectedEOF)
	if envelope, err := r.Seal(token, phone, "access_token"); err == nil || envelope != nil {
		t.Errorf("without randomness Seal = %x, %v; want an error", envelope, err)
	}
}

func TestNewKeyringRefuses(t *testing.T) {
	for name, keys := range map[string][]seal.Key{
		"no key":          nil,
		"a zero key":      {{}},
		"one id twice":    {key(t, "k1", 1), key(t, "k1", 2)},
		"an id far apart": {key(t, "k1", 1), key(t, "k2", 2), key(t, "k1", 1)},
	} {
		if _, err := seal.NewKeyring(keys...); err == nil {
			t.Errorf("%s is accepted", name)
		}
	}
}

func TestParseKey(t *testing.T) {
	encode := base64.RawURLEncoding.EncodeToString
	good := encode(bytes.Repeat([]byte("8 bytes?"), 4))
	for _, tt := range []struct {
		name, text string
		want       error
	}{
		{"as keys generate prints it", keyText("20261122-150405", 9), nil},
		{"padded", keyText("k1", 9) + "=", nil},
		{"eight different bytes", "k:" + good, nil},
		{"empty", "", seal.ErrKeyForm},
		{"no id", ":" + good, seal.ErrKeyForm},
		{"no colon", good, seal.ErrKeyForm},
		{"capitals in the id", "K1:" + good, seal.ErrKeyForm},
		{"an id too long", "a-very-long-key-id:" + good, seal.ErrKeyForm},
		{"standard base64", "k:" + strings.Repeat("+/", 21) + "8", seal.ErrKeyForm},
		{"stray bits at the end", keyText("k1", 9)[:len(keyText("k1", 9))-1] + "_", seal.ErrKeyForm},
		{"31 bytes", "k:" + encode([]byte(strings.Repeat("x", 31))), seal.ErrKeySize},
		{"33 bytes", "k:" + encode([]byte(strings.Repeat("x", 33))), seal.ErrKeySize},
		{"no key", "k:", seal.ErrKeySize},
		{"zeros", "k:" + encode(make([]byte, 32)), seal.ErrKeyWeak},
		{"a word repeated", "k:" + encode([]byte(strings.Repeat("password", 4))), seal.ErrKeyWeak},
	} {
		k, err := seal.ParseKey(tt.text)
		if !errors.Is(err, tt.want) {
			t.Errorf("%s: err = %v, want %v", tt.name, err, tt.want)
		}
		if err == nil && !strings.HasPrefix(tt.text, k.ID()+":") {
			t.Errorf("%s: id = %q", tt.name, k.ID())
		}
	}
}

func TestGenerateKey(t *testing.T) {
	now := time.Date(2026, 11, 22, 16, 4, 5, 0, time.FixedZone("CET", 3600))
	text, err := seal.GenerateKey(rand.Reader, now)
	if err != nil {
		t.Fatal(err)
	}
	k, err := seal.ParseKey(text.Reveal())
	if err != nil || k.ID() != "20261122-150405" {
		t.Errorf("ParseKey of a generated key = %v, %v; want id 20261122-150405", k, err)
	}
	if _, err := seal.GenerateKey(iotest.ErrReader(io.ErrUnexpectedEOF), now); err == nil {
		t.Error("a key is made without randomness")
	}
}

func TestKeysDoNotPrint(t *testing.T) {
	text := keyText("k1", 1)
	k := key(t, "k1", 1)
	_, encoded, _ := strings.Cut(text, ":")
	raw, _ := base64.RawURLEncoding.DecodeString(encoded)
	holder := struct {
		inner seal.Key
		ring  *seal.Keyring
	}{k, keyring(t, k)}
	for _, value := range []any{k, &k, []seal.Key{k}, holder, &holder, holder.ring, *holder.ring} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%x", "%d"} {
			out := fmt.Sprintf(verb, value)
			for _, form := range []string{encoded, fmt.Sprintf("%x", raw), fmt.Sprint(raw[:4])[1:8], fmt.Sprintf("%#v", raw[:3])[7:20]} {
				if strings.Contains(out, form) {
					t.Errorf("%s of %T shows the key: %s", verb, value, out)
				}
			}
		}
		if out, err := json.Marshal(value); err == nil && strings.Contains(string(out), encoded[:8]) {
			t.Errorf("JSON of %T shows the key: %s", value, out)
		}
	}
}

func FuzzOpen(f *testing.F) {
	r := keyring(f, key(f, "k1", 1), key(f, "k2", 2))
	r.Random = bytes.NewReader(make([]byte, 24)) // the same envelope in every fuzzing process
	genuine := sealed(f, r, "access_token")
	f.Add(genuine)
	f.Add([]byte{})
	f.Add([]byte{1, 255, 'k'})
	f.Add(genuine[:len(genuine)-16])
	f.Fuzz(func(t *testing.T, envelope []byte) {
		got, err := r.Open(bytes.Clone(envelope), phone, "access_token")
		if err == nil && !bytes.Equal(envelope, genuine) {
			t.Fatalf("a forged envelope opens: %x", envelope)
		}
		if err != nil && !got.Empty() {
			t.Fatal("a refused envelope gives a text")
		}
	})
}
