package sqlitestore

import (
	"fmt"
	"strings"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// The columns of a device, in the order of scan and of values.
const (
	listColumns = "id, ticket_hash, issuer, subject, email, email_verified, roles, provider, sid, " +
		"token_type, access_issued, access_expiry, refresh_expiry, " +
		"name, user_agent, persistent, created_at, created_ip, last_seen_at, last_seen_ip, auth_time, expires_at, " +
		"version, lease_owner, lease_until, scope, acr, amr, proved_at, person_name"
	columns = listColumns + ", access_token, refresh_token, id_token, dpop_key"
)

// placeholders is one parameter for each of columns.
var placeholders = strings.Repeat("?, ", strings.Count(columns, ",")) + "?"

// values returns what columns hold for r.
func values(r domain.Record) []any {
	t := r.Tokens
	return []any{
		r.DeviceID[:], r.TicketHash[:], r.Owner.Issuer, r.Owner.Subject, r.Email, r.EmailVerified, repo.JoinNames(r.Roles), r.Provider, r.SID,
		t.TokenType, t.AccessIssued.UnixMilli(), t.AccessExpiry.UnixMilli(), t.RefreshExpiry.UnixMilli(),
		r.Name, r.UserAgent, r.Persistent, r.CreatedAt.UnixMilli(), r.CreatedIP,
		r.LastSeenAt.UnixMilli(), r.LastSeenIP, r.AuthTime.UnixMilli(), r.ExpiresAt.UnixMilli(),
		r.Version, r.Lease.Owner, r.Lease.Until.UnixMilli(), t.Scope, r.ACR, repo.JoinNames(r.AMR), r.ProvedAt.UnixMilli(), r.PersonName,
		blob(t.Access), blob(t.Refresh), blob(t.ID), blob(t.DPoPKey),
	}
}

// blob is never nil, which would be NULL.
func blob(s domain.Secret) []byte { return []byte(s.Reveal()) }

// scanner is a row that stands still.
type scanner interface{ Scan(...any) error }

// scan reads columns.
func scan(row scanner) (domain.Record, error) {
	var r domain.Record
	err := row.Scan(append(listTargets(&r), secret{&r.Tokens.Access}, secret{&r.Tokens.Refresh}, secret{&r.Tokens.ID}, secret{&r.Tokens.DPoPKey})...)
	return r, err
}

// scanListed reads listColumns.
func scanListed(row scanner) (domain.Record, error) {
	var r domain.Record
	err := row.Scan(listTargets(&r)...)
	return r, err
}

func listTargets(r *domain.Record) []any {
	t := &r.Tokens
	return []any{
		fixed(r.DeviceID[:]), fixed(r.TicketHash[:]), &r.Owner.Issuer, &r.Owner.Subject, &r.Email, &r.EmailVerified, names{&r.Roles}, &r.Provider, &r.SID,
		&t.TokenType, millis{&t.AccessIssued}, millis{&t.AccessExpiry}, millis{&t.RefreshExpiry},
		&r.Name, &r.UserAgent, &r.Persistent, millis{&r.CreatedAt}, &r.CreatedIP,
		millis{&r.LastSeenAt}, &r.LastSeenIP, millis{&r.AuthTime}, millis{&r.ExpiresAt},
		&r.Version, &r.Lease.Owner, millis{&r.Lease.Until}, &t.Scope, &r.ACR, names{&r.AMR}, millis{&r.ProvedAt}, &r.PersonName,
	}
}

// The types below implement sql.Scanner for what a column becomes. The zero
// time is the millisecond that it is, so it needs no exception.
type (
	fixed  []byte
	millis struct{ to *time.Time }
	secret struct{ to *domain.Secret }
	names  struct{ to *[]string }
)

func (f fixed) Scan(value any) error {
	got, ok := value.([]byte)
	if !ok || len(got) != len(f) {
		return fmt.Errorf("not a blob of %d bytes", len(f))
	}
	copy(f, got)
	return nil
}

func (m millis) Scan(value any) error {
	got, ok := value.(int64)
	if !ok {
		return fmt.Errorf("%T is no time", value)
	}
	*m.to = time.UnixMilli(got).UTC()
	return nil
}

func (s secret) Scan(value any) error {
	got, ok := value.([]byte)
	if !ok {
		return fmt.Errorf("%T is no blob", value)
	}
	*s.to = domain.NewSecret(string(got))
	return nil
}

func (n names) Scan(value any) (err error) {
	got, ok := value.(string)
	if !ok {
		return fmt.Errorf("%T is no text", value)
	}
	*n.to, err = repo.SplitNames(got)
	return err
}
