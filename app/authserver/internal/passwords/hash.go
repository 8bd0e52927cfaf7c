// Package passwords turns passwords into argon2id hashes and judges new ones.
//
// It bounds what hashing may cost the process: argon2id is built to need a lot
// of memory, so the number of hashes that run at once, and of callers that wait
// for one, is limited here and nowhere else. It knows nothing of accounts, and
// it throttles nobody: who may guess how often is package throttle's question.
package passwords

import (
	"context"
	"crypto/rand"
	"crypto/subtle"
	"encoding/base64"
	"errors"
	"fmt"
	"strings"

	"golang.org/x/crypto/argon2"
)

const (
	saltBytes = 16 // RFC 9106, section 3.1
	keyBytes  = 32
)

// ErrBusy says that as many callers wait for a hash as the Hasher admits. The
// caller should answer 503: nothing is known about the password.
var ErrBusy = errors.New("too many passwords are being hashed")

// Params are the cost parameters of argon2id (RFC 9106, section 3.1).
type Params struct {
	MemoryKiB uint32 // memory of one hash; at least 8 for each lane
	Passes    uint32 // passes over that memory; at least 1
	Lanes     uint8  // threads that share the work; at least 1
}

// Hasher makes and checks hashes in the PHC string format. It is safe for
// concurrent use, and one process should have one: its bounds are the
// process's bounds.
type Hasher struct {
	params   Params
	admitted chan struct{} // one entry for each caller that waits or hashes
	running  chan struct{} // one entry for each hash that holds its memory
	derive   func(password, salt []byte, p Params, length uint32) []byte
	nobody   string // a hash that no password is known for
}

// NewHasher lets at most concurrency hashes run at once and at most queue
// callers wait for their turn. The process then holds up to twice concurrency ×
// MemoryKiB: the collector takes a finished hash's memory back some time later.
func NewHasher(params Params, concurrency, queue int) *Hasher {
	salt, key := make([]byte, saltBytes), make([]byte, keyBytes)
	rand.Read(salt)
	rand.Read(key)
	return &Hasher{
		params:   params,
		admitted: make(chan struct{}, concurrency+queue),
		running:  make(chan struct{}, concurrency),
		derive: func(password, salt []byte, p Params, length uint32) []byte {
			return argon2.IDKey(password, salt, p.Passes, p.MemoryKiB, p.Lanes, length)
		},
		nobody: encode(params, salt, key),
	}
}

// Hash returns the PHC string of the password under the Hasher's parameters.
// It fails with ErrBusy, or with ctx's error while it waits for its turn.
func (h *Hasher) Hash(ctx context.Context, password string) (string, error) {
	salt := make([]byte, saltBytes)
	rand.Read(salt)
	key, err := h.run(ctx, password, salt, h.params, keyBytes)
	if err != nil {
		return "", err
	}
	return encode(h.params, salt, key), nil
}

// Verify tells whether the password made the hash. An empty hash stands for an
// account that does not exist: the answer is always false, after as much work
// as a hash made today takes, so that the time does not tell who has an
// account. It fails like Hash, and on a hash that is not argon2id.
func (h *Hasher) Verify(ctx context.Context, hash, password string) (bool, error) {
	if hash == "" {
		hash = h.nobody
	}
	params, salt, want, err := decode(hash)
	if err != nil {
		return false, err
	}
	got, err := h.run(ctx, password, salt, params, uint32(len(want)))
	if err != nil {
		return false, err
	}
	return subtle.ConstantTimeCompare(got, want) == 1, nil
}

// Outdated tells whether the hash was made under other parameters than the
// Hasher's, and should be made again when the password is next at hand.
func (h *Hasher) Outdated(hash string) bool {
	params, _, _, err := decode(hash)
	return err != nil || params != h.params
}

// run takes the permit for the hash alone. A hash cannot be interrupted, so
// run does not return before it ends: a caller that has gone away keeps its
// permit for as long as its memory is in use, and a retry cannot add a second
// hash beside the first.
func (h *Hasher) run(ctx context.Context, password string, salt []byte, p Params, length uint32) ([]byte, error) {
	select {
	case h.admitted <- struct{}{}:
		defer func() { <-h.admitted }()
	default:
		return nil, ErrBusy
	}
	select {
	case h.running <- struct{}{}:
		defer func() { <-h.running }()
	case <-ctx.Done():
		return nil, fmt.Errorf("wait to hash a password: %w", ctx.Err())
	}
	return h.derive([]byte(password), salt, p, length), nil
}

func encode(p Params, salt, key []byte) string {
	b64 := base64.RawStdEncoding.EncodeToString
	return fmt.Sprintf("$argon2id$v=%d$m=%d,t=%d,p=%d$%s$%s", argon2.Version, p.MemoryKiB, p.Passes, p.Lanes, b64(salt), b64(key))
}

// decode never quotes the hash in an error: errors end up in logs.
func decode(hash string) (p Params, salt, key []byte, err error) {
	malformed := errors.New("a stored password hash is not an argon2id PHC string")
	parts := strings.Split(hash, "$")
	if len(parts) != 6 || parts[0] != "" || parts[1] != "argon2id" || parts[2] != fmt.Sprintf("v=%d", argon2.Version) {
		return p, nil, nil, malformed
	}
	if _, err := fmt.Sscanf(parts[3], "m=%d,t=%d,p=%d", &p.MemoryKiB, &p.Passes, &p.Lanes); err != nil {
		return p, nil, nil, malformed
	}
	salt, saltErr := base64.RawStdEncoding.DecodeString(parts[4])
	key, keyErr := base64.RawStdEncoding.DecodeString(parts[5])
	// argon2 panics on zero passes or lanes, and an empty key would equal
	// whatever is derived for it.
	if saltErr != nil || keyErr != nil || len(key) < 16 || p.Passes == 0 || p.Lanes == 0 {
		return p, nil, nil, malformed
	}
	return p, salt, key, nil
}
