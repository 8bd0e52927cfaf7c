package seal

import (
	"crypto/cipher"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"cloakroom/domain"
)

// KeySize is the length of a key in bytes.
const KeySize = chacha20poly1305.KeySize

const maxKeyID = 16

// Why ParseKey refuses a text. None of the messages repeats any of it.
var (
	ErrKeyForm = errors.New("not of the form <id>:<key>, an id of 1 to 16 of a-z, 0-9 and -, and 32 bytes in base64url")
	ErrKeySize = errors.New("not 32 bytes long")
	ErrKeyWeak = errors.New("too regular to be random")
)

// keyEncoding is strict so that a key has one text, but for the padding that
// some tools append.
var keyEncoding = base64.RawURLEncoding.Strict()

// Key is a key with the id that envelopes name it by. It prints as its id.
type Key struct {
	id    string
	bytes domain.Secret // 32 raw bytes; a Secret stays hidden even where fmt does not ask Format
}

// ParseKey reads `<id>:<key>`: an id of 1 to 16 of a-z, 0-9 and -, and 32 bytes
// in base64url. It refuses a key that no generator would make, such as one byte
// repeated or a short word doubled up to length.
func ParseKey(text string) (Key, error) {
	id, encoded, found := strings.Cut(text, ":")
	if !found || !validID(id) {
		return Key{}, ErrKeyForm
	}
	raw, err := keyEncoding.DecodeString(strings.TrimSuffix(encoded, "="))
	if err != nil {
		return Key{}, ErrKeyForm
	}
	if len(raw) != KeySize {
		return Key{}, ErrKeySize
	}
	if weak(raw) {
		return Key{}, ErrKeyWeak
	}
	return Key{id: id, bytes: domain.NewSecret(string(raw))}, nil
}

// GenerateKey draws a key from random and returns the text that ParseKey reads.
// Its id is the time, to the second, so that the newest is seen at a glance.
func GenerateKey(random io.Reader, now time.Time) (domain.Secret, error) {
	raw := make([]byte, KeySize)
	if _, err := io.ReadFull(random, raw); err != nil {
		return domain.Secret{}, fmt.Errorf("generate key: %w", err)
	}
	id := now.UTC().Format("20060102-150405")
	return domain.NewSecret(id + ":" + keyEncoding.EncodeToString(raw)), nil
}

// ID returns the name that envelopes carry. It is no secret.
func (k Key) ID() string { return k.id }

// aead sets the cipher up, which is a copy of 32 bytes. A zero key is an error.
func (k Key) aead() (cipher.AEAD, error) { return chacha20poly1305.NewX([]byte(k.bytes.Reveal())) }

// Format implements fmt.Formatter for every verb: the id alone.
func (k Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, "key "+k.id) }

func validID(id string) bool {
	if id == "" || len(id) > maxKeyID {
		return false
	}
	for _, c := range []byte(id) {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return false
		}
	}
	return true
}

// weak reports whether fewer than eight different bytes make up the key. Random
// bytes fall below that about once in 10^33 keys; repeated words and patterns
// nearly always do.
func weak(raw []byte) bool {
	seen := map[byte]bool{}
	for _, b := range raw {
		seen[b] = true
	}
	return len(seen) < 8
}
