// Package seal encrypts the token fields of a record before a store sees them.
// The stores in repo call it through a small interface of theirs; the keys come
// from infra/settings.
//
// A field is sealed with XChaCha20-Poly1305, whose 24-byte nonces may be drawn
// at random however many fields one key seals. The envelope names its key, so
// keys are exchanged without signing anybody out: put a new key first, keep the
// old ones behind it until nothing names them any more.
//
// What is sealed is bound to its place. The device id and the field's name are
// part of what the tag authenticates, so whoever can write to the store cannot
// move a token to another device, or a refresh token into the field whose
// content is sent to the upstream. Nothing here stops the owner of the store from
// putting back an older envelope of the same field; that is the business of the
// record's version.
package seal

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"golang.org/x/crypto/chacha20poly1305"

	"cloakroom/domain"
)

// Why Open gives nothing. The two stay apart because only the first is cured by
// the settings.
var (
	// ErrUnknownKey: the envelope names a key that the keyring does not have.
	ErrUnknownKey = errors.New("sealed with a key that is not in the keyring")
	// ErrNotAuthentic: it is no envelope, it was altered, or it was sealed for
	// another device or another field.
	ErrNotAuthentic = errors.New("not sealed for this place, or altered")
)

// The envelope: version, length of the key id, key id, nonce, ciphertext, tag.
const (
	version    = 1
	label      = "cloakroom/seal/1"
	headerSize = 2 // before the key id
)

// Keyring seals with its first key and opens with any of them. It is safe for
// concurrent use.
type Keyring struct {
	// Random is where nonces are drawn from: crypto/rand unless a test says
	// otherwise. It has to be safe for concurrent use too.
	Random io.Reader

	first string
	keys  map[string]Key
}

// NewKeyring takes the sealing key first and then any keys that may still have
// to open something. No key, a zero key or two keys of one id are errors.
func NewKeyring(keys ...Key) (*Keyring, error) {
	if len(keys) == 0 {
		return nil, errors.New("keyring: no key")
	}
	r := &Keyring{Random: rand.Reader, first: keys[0].id, keys: make(map[string]Key, len(keys))}
	for _, key := range keys {
		if _, err := key.aead(); err != nil {
			return nil, fmt.Errorf("keyring: %v: %w", key, err)
		}
		if _, twice := r.keys[key.id]; twice {
			return nil, fmt.Errorf("keyring: two keys are called %q", key.id)
		}
		r.keys[key.id] = key
	}
	return r, nil
}

// Seal encrypts plain for one field of one device. Sealing the same text twice
// gives two different envelopes. It fails only if there is no randomness.
func (r *Keyring) Seal(plain domain.Secret, device domain.DeviceID, field string) ([]byte, error) {
	text := plain.Reveal()
	aead, err := r.keys[r.first].aead()
	if err != nil {
		return nil, fmt.Errorf("seal %s: %w", field, err)
	}
	header := headerSize + len(r.first)
	nonceEnd := header + chacha20poly1305.NonceSizeX
	envelope := make([]byte, nonceEnd, nonceEnd+len(text)+chacha20poly1305.Overhead)
	envelope[0], envelope[1] = version, byte(len(r.first))
	copy(envelope[headerSize:], r.first)
	nonce := envelope[header:nonceEnd]
	if _, err := io.ReadFull(r.Random, nonce); err != nil {
		return nil, fmt.Errorf("seal %s: %w", field, err)
	}
	return aead.Seal(envelope, nonce, []byte(text), place(envelope[:header], device, field)), nil
}

// Open decrypts what Seal made for the same field of the same device. Anything
// else is ErrUnknownKey or ErrNotAuthentic and gives no part of the text. Sealed is
// overwritten.
func (r *Keyring) Open(sealed []byte, device domain.DeviceID, field string) (domain.Secret, error) {
	id, err := SealedBy(sealed)
	if err != nil {
		return domain.Secret{}, fmt.Errorf("open %s: %w", field, err)
	}
	key, known := r.keys[id]
	if !known {
		return domain.Secret{}, fmt.Errorf("open %s: %w: %q", field, ErrUnknownKey, id)
	}
	aead, err := key.aead()
	if err != nil {
		return domain.Secret{}, fmt.Errorf("open %s: %w", field, err)
	}
	header := headerSize + len(id)
	nonceEnd := header + chacha20poly1305.NonceSizeX
	plain, err := aead.Open(sealed[nonceEnd:nonceEnd], sealed[header:nonceEnd], sealed[nonceEnd:], place(sealed[:header], device, field))
	if err != nil {
		return domain.Secret{}, fmt.Errorf("open %s: %w", field, ErrNotAuthentic)
	}
	return domain.NewSecret(string(plain)), nil
}

// First returns the id of the key that seals. What SealedBy says otherwise of
// can be sealed again.
func (r *Keyring) First() string { return r.first }

// SealedBy returns the id of the key that an envelope names, whether or not any
// keyring has it. It authenticates nothing; a text that is no envelope is
// ErrNotAuthentic.
func SealedBy(sealed []byte) (keyID string, err error) {
	if len(sealed) < headerSize || sealed[0] != version {
		return "", ErrNotAuthentic
	}
	end := headerSize + int(sealed[1])
	if len(sealed) < end+chacha20poly1305.NonceSizeX+chacha20poly1305.Overhead {
		return "", ErrNotAuthentic
	}
	id := string(sealed[headerSize:end])
	if !validID(id) {
		return "", ErrNotAuthentic
	}
	return id, nil
}

// Format implements fmt.Formatter for every verb, so that a keyring printed by
// mistake shows no key.
func (r *Keyring) Format(f fmt.State, _ rune) {
	_, _ = fmt.Fprintf(f, "keyring of %d, sealing with %q", len(r.keys), r.first)
}

// place is the associated data: the format, the envelope's header, the device
// and the field. Each part is preceded by its length, so that no two places
// have the same bytes.
func place(header []byte, device domain.DeviceID, field string) []byte {
	parts := [][]byte{[]byte(label), header, device[:], []byte(field)}
	data := make([]byte, 0, 4*len(parts)+len(label)+len(header)+len(device)+len(field))
	for _, part := range parts {
		data = binary.BigEndian.AppendUint32(data, uint32(len(part)))
		data = append(data, part...)
	}
	return data
}
