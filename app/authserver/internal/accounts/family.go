package accounts

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/base64"
	"errors"
	"fmt"
	"time"
)

// keptGenerations is how many tokens of a family are kept. A used token is kept
// so that its reuse is noticed; this bounds what a client that refreshes
// without end can make the database hold. An older token is refused all the
// same, only without ending the family.
const keptGenerations = 1000

// Reasons of a Refusal.
const (
	Unknown  = "unknown"  // never issued, or long gone
	Expired  = "expired"  // not used in time, or its family is over
	Revoked  = "revoked"  // its family was ended before
	Reused   = "reused"   // used a second time; its family has just been ended for it
	Disabled = "disabled" // its account is disabled
)

// Refusal is the error of a refresh token that cannot be exchanged.
type Refusal struct {
	Reason    string
	AccountID string // empty if the token is unknown
	FamilyID  int64
}

func (r *Refusal) Error() string { return "refresh token refused: " + r.Reason }

// Grant is a refresh token that has just been given out.
type Grant struct {
	Account   Account
	FamilyID  int64
	Token     string
	ExpiresAt time.Time
	Replayed  bool // the presented token was used before, and this is the successor it got then
}

// Start begins a family for the account and returns its first token.
func (s *Store) Start(ctx context.Context, a Account, now time.Time) (Grant, error) {
	ends := now.Add(s.rules.Lifetime)
	grant := Grant{Account: a, Token: newToken(), ExpiresAt: s.tokenExpiry(now, ends)}
	err := s.transact(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `INSERT INTO family (account_id, started_at, ends_at, expires_at) VALUES (?, ?, ?, ?)`,
			a.ID, now.UnixMilli(), ends.UnixMilli(), grant.ExpiresAt.UnixMilli())
		if err != nil {
			return err
		}
		if grant.FamilyID, err = result.LastInsertId(); err != nil {
			return err
		}
		return insertToken(ctx, tx, grant.Token, grant.FamilyID, 1, grant.ExpiresAt)
	})
	if err != nil {
		return Grant{}, fmt.Errorf("start a family: %w", err)
	}
	return grant, nil
}

// presented is a stored token together with what decides over it.
type presented struct {
	token           string
	account         Account
	familyID        int64
	generation      int64
	expiresAt       int64
	usedAt          sql.NullInt64
	sealedSuccessor []byte
	endsAt          int64
	revokedAt       sql.NullInt64
}

// Rotate exchanges a token for its successor. Exactly one call advances the
// family, whatever runs beside it, in this process or another. A token that was
// used before gives the same successor again while the reuse window is open and
// the successor has not been used itself: that is a client whose answer got
// lost, or two that share a token. Otherwise it was copied, nobody can tell
// which of the two holders is the thief, and the family ends (RFC 9700,
// section 4.14.2). The error is then, and for any other token that cannot be
// exchanged, a *Refusal.
func (s *Store) Rotate(ctx context.Context, token string, now time.Time) (Grant, error) {
	var grant Grant
	var refusal *Refusal
	err := s.transact(ctx, func(tx *sql.Tx) error {
		p, err := find(ctx, tx, token)
		if err != nil {
			return err
		}
		// A refusal is no error in here: ending the family has to be committed.
		grant, refusal, err = s.exchange(ctx, tx, p, now)
		return err
	})
	if errors.Is(err, sql.ErrNoRows) {
		return Grant{}, &Refusal{Reason: Unknown}
	}
	if err != nil {
		return Grant{}, fmt.Errorf("rotate a refresh token: %w", err)
	}
	if refusal != nil {
		return Grant{}, refusal
	}
	return grant, nil
}

func (s *Store) exchange(ctx context.Context, tx *sql.Tx, p presented, now time.Time) (Grant, *Refusal, error) {
	refuse := func(reason string) (Grant, *Refusal, error) {
		return Grant{}, &Refusal{Reason: reason, AccountID: p.account.ID, FamilyID: p.familyID}, nil
	}
	at := now.UnixMilli()
	switch {
	case p.revokedAt.Valid:
		return refuse(Revoked)
	case p.account.Disabled:
		return refuse(Disabled)
	case at >= p.endsAt:
		return refuse(Expired)
	case !p.usedAt.Valid && at >= p.expiresAt:
		return refuse(Expired)
	case !p.usedAt.Valid:
		grant, err := s.advance(ctx, tx, p, now)
		return grant, nil, err
	}

	// The distance is taken without its sign, so that a clock that was set back
	// does not hold the window open for longer. The sealed successor is erased
	// when the successor is used: its absence means that the client has moved on.
	distance := now.Sub(time.UnixMilli(p.usedAt.Int64)).Abs()
	if p.sealedSuccessor != nil && distance <= s.rules.ReuseWindow {
		grant, err := replay(ctx, tx, p)
		return grant, nil, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE family SET revoked_at = ?, revoked_by = 'reuse' WHERE id = ?`, at, p.familyID); err != nil {
		return Grant{}, nil, err
	}
	return refuse(Reused)
}

// advance uses the token up and adds its successor to the family.
func (s *Store) advance(ctx context.Context, tx *sql.Tx, p presented, now time.Time) (Grant, error) {
	grant := Grant{
		Account:   p.account,
		FamilyID:  p.familyID,
		Token:     newToken(),
		ExpiresAt: s.tokenExpiry(now, time.UnixMilli(p.endsAt)),
	}
	var sealed []byte
	if s.rules.ReuseWindow > 0 {
		var err error
		if sealed, err = seal(p.token, grant.Token); err != nil {
			return Grant{}, err
		}
	}
	// The condition on used_at decides the race by itself, even if somebody
	// gives the transaction a weaker lock one day.
	result, err := tx.ExecContext(ctx, `UPDATE refresh_token SET used_at = ?, sealed_successor = ? WHERE hash = ? AND used_at IS NULL`,
		now.UnixMilli(), sealed, hash(p.token))
	if err != nil {
		return Grant{}, err
	}
	if won, err := result.RowsAffected(); err != nil || won != 1 {
		return Grant{}, errors.Join(err, errors.New("the token was used inside the transaction that found it unused"))
	}
	next := p.generation + 1
	if err := insertToken(ctx, tx, grant.Token, p.familyID, next, grant.ExpiresAt); err != nil {
		return Grant{}, err
	}
	if _, err := tx.ExecContext(ctx, `UPDATE refresh_token SET sealed_successor = NULL WHERE family_id = ? AND generation = ?`,
		p.familyID, p.generation-1); err != nil {
		return Grant{}, err
	}
	if _, err := tx.ExecContext(ctx, `DELETE FROM refresh_token WHERE family_id = ? AND generation <= ?`,
		p.familyID, next-keptGenerations); err != nil {
		return Grant{}, err
	}
	_, err = tx.ExecContext(ctx, `UPDATE family SET expires_at = ? WHERE id = ?`, grant.ExpiresAt.UnixMilli(), p.familyID)
	return grant, err
}

// replay returns the successor that the token got when it was used.
func replay(ctx context.Context, tx *sql.Tx, p presented) (Grant, error) {
	successor, err := unseal(p.token, p.sealedSuccessor)
	if err != nil {
		return Grant{}, err
	}
	var expiresAt int64
	err = tx.QueryRowContext(ctx, `SELECT expires_at FROM refresh_token WHERE hash = ?`, hash(successor)).Scan(&expiresAt)
	if err != nil {
		return Grant{}, fmt.Errorf("read the successor: %w", err)
	}
	return Grant{
		Account:   p.account,
		FamilyID:  p.familyID,
		Token:     successor,
		ExpiresAt: time.UnixMilli(expiresAt).UTC(),
		Replayed:  true,
	}, nil
}

// Revoke ends the family of the token, used or not, and returns the account it
// belonged to. Where there was nothing to end, for a token that is unknown or
// of a family that has ended before, the id is empty and nothing has failed.
func (s *Store) Revoke(ctx context.Context, token string, now time.Time) (accountID string, err error) {
	err = s.write.QueryRowContext(ctx, `
		UPDATE family SET revoked_at = ?, revoked_by = 'logout'
		WHERE id = (SELECT family_id FROM refresh_token WHERE hash = ?) AND revoked_at IS NULL
		RETURNING account_id`, now.UnixMilli(), hash(token)).Scan(&accountID)
	if err != nil && !errors.Is(err, sql.ErrNoRows) {
		return "", fmt.Errorf("revoke a family: %w", err)
	}
	return accountID, nil
}

// Sweep erases the successors that no reuse can ask for any more, deletes up to
// limit families that are over, and returns how many it deleted. Nothing else
// relies on it. A revoked family stays until it would have been over anyway, so
// that its tokens are still known for what they are.
func (s *Store) Sweep(ctx context.Context, now time.Time, limit int) (deleted int64, err error) {
	_, err = s.write.ExecContext(ctx, `UPDATE refresh_token SET sealed_successor = NULL WHERE sealed_successor IS NOT NULL AND used_at < ?`,
		now.Add(-s.rules.ReuseWindow).UnixMilli())
	if err != nil {
		return 0, fmt.Errorf("erase old successors: %w", err)
	}
	result, err := s.write.ExecContext(ctx, `DELETE FROM family WHERE id IN (SELECT id FROM family WHERE expires_at <= ? LIMIT ?)`, now.UnixMilli(), limit)
	if err != nil {
		return 0, fmt.Errorf("delete dead families: %w", err)
	}
	return result.RowsAffected()
}

func (s *Store) tokenExpiry(now, familyEnds time.Time) time.Time {
	expires := familyEnds
	if idle := now.Add(s.rules.IdleTimeout); s.rules.IdleTimeout > 0 && idle.Before(expires) {
		expires = idle
	}
	return expires.UTC().Truncate(time.Millisecond)
}

func find(ctx context.Context, tx *sql.Tx, token string) (presented, error) {
	p := presented{token: token}
	var createdAt int64
	err := tx.QueryRowContext(ctx, `
		SELECT t.family_id, t.generation, t.expires_at, t.used_at, t.sealed_successor, f.ends_at, f.revoked_at, `+accountColumns+`
		FROM refresh_token t JOIN family f ON f.id = t.family_id JOIN account a ON a.id = f.account_id
		WHERE t.hash = ?`, hash(token)).
		Scan(append([]any{&p.familyID, &p.generation, &p.expiresAt, &p.usedAt, &p.sealedSuccessor, &p.endsAt, &p.revokedAt},
			p.account.fields(&createdAt)...)...)
	p.account.CreatedAt = time.UnixMilli(createdAt).UTC()
	return p, err
}

func insertToken(ctx context.Context, tx *sql.Tx, token string, familyID, generation int64, expires time.Time) error {
	_, err := tx.ExecContext(ctx, `INSERT INTO refresh_token (hash, family_id, generation, expires_at) VALUES (?, ?, ?, ?)`,
		hash(token), familyID, generation, expires.UnixMilli())
	return err
}

func newToken() string {
	secret := make([]byte, 32)
	rand.Read(secret)
	return base64.RawURLEncoding.EncodeToString(secret)
}

// hash is what the database knows of a token. A fast hash is right for a secret
// of 256 random bits: there is nothing to guess.
func hash(token string) []byte {
	sum := sha256.Sum256([]byte(token))
	return sum[:]
}
