package accounts

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"net/mail"
	"regexp"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"
)

// Outcomes that callers tell apart.
var (
	ErrNotFound        = errors.New("no such account")
	ErrEmailTaken      = errors.New("email address taken")
	ErrUsernameTaken   = errors.New("user name taken")
	ErrEmailInvalid    = errors.New("email address invalid")
	ErrUsernameInvalid = errors.New("user name invalid")
	ErrNameInvalid     = errors.New("name invalid")
)

// RoleUser is what every account begins with.
const RoleUser = "user"

// Account is somebody who can log in. Its password hash is not part of it, so
// that it can be printed and sent.
type Account struct {
	ID        string // UUID
	Email     string // as it was typed, or as a provider says
	Verified  bool   // a provider vouches for Email
	Username  string // empty, or a second name to log in with
	Name      string // for people to read, may be empty
	Role      string
	CreatedAt time.Time
	Disabled  bool
}

// Validate returns why the account cannot be created, or nil.
func (a Account) Validate() error {
	return errors.Join(validEmail(a.Email), validUsername(a.Username), validName(a.Name))
}

// validEmail wants a bare address. net/mail also reads display names, comments
// and quoted local parts; what it returns then differs from what it was given,
// and two spellings of one address would make two accounts.
func validEmail(email string) error {
	address, err := mail.ParseAddress(email)
	// 254 octets: RFC 5321, section 4.5.3.1.3, less the angle brackets.
	if err != nil || address.Name != "" || address.Address != email || len(email) > 254 {
		return ErrEmailInvalid
	}
	return nil
}

// usernames hold no @, so that none can be taken for somebody's address.
var usernames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{2,31}$`)

func validUsername(username string) error {
	if username != "" && !usernames.MatchString(username) {
		return ErrUsernameInvalid
	}
	return nil
}

func validName(name string) error {
	if utf8.RuneCountInString(name) > 100 || strings.ContainsFunc(name, unicode.IsControl) {
		return ErrNameInvalid
	}
	return nil
}

// Create stores a new account. It fails with ErrEmailTaken or ErrUsernameTaken
// if another has the same, upper and lower case being the same.
func (s *Store) Create(ctx context.Context, a Account, passwordHash string) error {
	err := s.transact(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `
			INSERT INTO account (id, email, email_key, username, username_key, name, role, password_hash, created_at)
			VALUES (?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?, ?)
			ON CONFLICT DO NOTHING`,
			a.ID, a.Email, strings.ToLower(a.Email), a.Username, strings.ToLower(a.Username),
			a.Name, a.Role, passwordHash, a.CreatedAt.UnixMilli())
		if err != nil {
			return err
		}
		created, err := result.RowsAffected()
		if err != nil || created == 1 {
			return err
		}
		var sameEmail bool
		err = tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT 1 FROM account WHERE email_key = ?)`, strings.ToLower(a.Email)).Scan(&sameEmail)
		if err != nil {
			return err
		}
		if sameEmail {
			return ErrEmailTaken
		}
		return ErrUsernameTaken
	})
	if err != nil {
		return fmt.Errorf("create an account: %w", err)
	}
	return nil
}

const accountColumns = `a.id, a.email, coalesce(a.username, ''), a.name, a.role, a.created_at, a.disabled_at IS NOT NULL,
	EXISTS (SELECT 1 FROM identity i WHERE i.account_id = a.id AND i.email_verified = 1)`

// fields are where a row of accountColumns is scanned to; createdAt is filled
// in by the caller, from milliseconds.
func (a *Account) fields(createdAt *int64) []any {
	return []any{&a.ID, &a.Email, &a.Username, &a.Name, &a.Role, createdAt, &a.Disabled, &a.Verified}
}

// ByID returns the account, disabled or not, or ErrNotFound.
func (s *Store) ByID(ctx context.Context, id string) (Account, error) {
	var a Account
	var createdAt int64
	err := s.read.QueryRowContext(ctx, `SELECT `+accountColumns+` FROM account a WHERE a.id = ?`, id).Scan(a.fields(&createdAt)...)
	if err != nil {
		return Account{}, fmt.Errorf("read an account: %w", notFound(err))
	}
	a.CreatedAt = time.UnixMilli(createdAt).UTC()
	return a, nil
}

// ByLogin returns the account that somebody means who logs in with an email
// address or a user name, and its password hash. It returns disabled accounts
// too, and ErrNotFound.
func (s *Store) ByLogin(ctx context.Context, login string) (Account, string, error) {
	column := "a.username_key"
	if strings.Contains(login, "@") {
		column = "a.email_key"
	}
	var a Account
	var createdAt int64
	var hash string
	err := s.read.QueryRowContext(ctx, `SELECT `+accountColumns+`, a.password_hash FROM account a WHERE `+column+` = ?`, strings.ToLower(login)).
		Scan(append(a.fields(&createdAt), &hash)...)
	if err != nil {
		return Account{}, "", fmt.Errorf("read an account: %w", notFound(err))
	}
	a.CreatedAt = time.UnixMilli(createdAt).UTC()
	return a, hash, nil
}

// ReplaceHash stores another hash of the same password. It does nothing if the
// hash is no longer old: the password has been changed meanwhile.
func (s *Store) ReplaceHash(ctx context.Context, accountID, old, next string) error {
	_, err := s.write.ExecContext(ctx, `UPDATE account SET password_hash = ? WHERE id = ? AND password_hash = ?`, next, accountID, old)
	if err != nil {
		return fmt.Errorf("replace a password hash: %w", err)
	}
	return nil
}

func notFound(err error) error {
	if errors.Is(err, sql.ErrNoRows) {
		return ErrNotFound
	}
	return err
}
