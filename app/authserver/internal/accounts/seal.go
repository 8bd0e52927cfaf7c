package accounts

import (
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"
)

// The reuse window has to give a successor a second time, and the database must
// not hold it in clear. So it is sealed under a key that is derived from the
// token it succeeds, which the database does not hold either: whoever presents
// the old token again brings the key along, and a copy of the database opens
// nothing. Deriving the successor itself from the old token would need no
// storage, but then an old token, together with whatever secret goes into the
// derivation, would give every later token of its family. Sealed, it gives one,
// for as long as the window is open; then the seal is erased.

// successorKey is HKDF under a label of its own, which keeps the key apart from
// hash(token): that is stored.
func successorKey(token string) ([]byte, error) {
	return hkdf.Key(sha256.New, []byte(token), nil, "cloakroom auth server: successor of a refresh token", chacha20poly1305.KeySize)
}

func seal(token, successor string) ([]byte, error) {
	key, err := successorKey(token)
	if err != nil {
		return nil, fmt.Errorf("seal a successor: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("seal a successor: %w", err)
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(successor)+aead.Overhead())
	rand.Read(nonce)
	return aead.Seal(nonce, nonce, []byte(successor), nil), nil
}

func unseal(token string, sealed []byte) (string, error) {
	key, err := successorKey(token)
	if err != nil {
		return "", fmt.Errorf("open a successor: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return "", fmt.Errorf("open a successor: %w", err)
	}
	if len(sealed) < aead.NonceSize() {
		return "", errors.New("open a successor: too short")
	}
	successor, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], nil)
	if err != nil {
		return "", fmt.Errorf("open a successor: %w", err)
	}
	return string(successor), nil
}
