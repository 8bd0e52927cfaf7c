package redisstore

import (
	"encoding/base64"
	"fmt"
	"slices"
	"strconv"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// field is one field of the hash that a record is. What is empty, false or the
// zero time has no field.
type field struct {
	name  string
	kind  fieldKind
	read  func(*domain.Record) string
	write func(*domain.Record, string) error
}

type fieldKind int

const (
	plain  fieldKind = iota
	token            // one of domain.Tokens
	secret           // one of domain.Tokens that stands in no list
)

var fields = []field{
	{"ticket_hash", plain, readTicketHash, writeTicketHash},
	text("issuer", func(r *domain.Record) *string { return &r.Owner.Issuer }),
	text("subject", func(r *domain.Record) *string { return &r.Owner.Subject }),
	text("email", func(r *domain.Record) *string { return &r.Email }),
	flag("email_verified", func(r *domain.Record) *bool { return &r.EmailVerified }),
	text("person_name", func(r *domain.Record) *string { return &r.PersonName }),
	names("roles", func(r *domain.Record) *[]string { return &r.Roles }),
	text("provider", func(r *domain.Record) *string { return &r.Provider }),
	text("oidc_sid", func(r *domain.Record) *string { return &r.SID }),

	text("token_type", func(r *domain.Record) *string { return &r.Tokens.TokenType }).as(token),
	text("scope", func(r *domain.Record) *string { return &r.Tokens.Scope }).as(token),
	sealed("access_token", func(r *domain.Record) *domain.Secret { return &r.Tokens.Access }),
	moment("access_issued", func(r *domain.Record) *time.Time { return &r.Tokens.AccessIssued }).as(token),
	moment("access_expiry", func(r *domain.Record) *time.Time { return &r.Tokens.AccessExpiry }).as(token),
	sealed("refresh_token", func(r *domain.Record) *domain.Secret { return &r.Tokens.Refresh }),
	moment("refresh_expiry", func(r *domain.Record) *time.Time { return &r.Tokens.RefreshExpiry }).as(token),
	sealed("id_token", func(r *domain.Record) *domain.Secret { return &r.Tokens.ID }),
	sealed("dpop_key", func(r *domain.Record) *domain.Secret { return &r.Tokens.DPoPKey }),

	text("name", func(r *domain.Record) *string { return &r.Name }),
	text("user_agent", func(r *domain.Record) *string { return &r.UserAgent }),
	flag("persistent", func(r *domain.Record) *bool { return &r.Persistent }),
	moment("created_at", func(r *domain.Record) *time.Time { return &r.CreatedAt }),
	text("created_ip", func(r *domain.Record) *string { return &r.CreatedIP }),
	moment("last_seen_at", func(r *domain.Record) *time.Time { return &r.LastSeenAt }),
	text("last_seen_ip", func(r *domain.Record) *string { return &r.LastSeenIP }),
	moment("auth_time", func(r *domain.Record) *time.Time { return &r.AuthTime }),
	moment("proved_at", func(r *domain.Record) *time.Time { return &r.ProvedAt }),
	text("acr", func(r *domain.Record) *string { return &r.ACR }),
	names("amr", func(r *domain.Record) *[]string { return &r.AMR }),
	moment("expires_at", func(r *domain.Record) *time.Time { return &r.ExpiresAt }),

	{"version", plain, readVersion, writeVersion},
	text("lease_owner", func(r *domain.Record) *string { return &r.Lease.Owner }),
	moment("lease_until", func(r *domain.Record) *time.Time { return &r.Lease.Until }),
}

// listedFields are those that stand in lists.
var listedFields = slices.DeleteFunc(slices.Clone(fields), func(f field) bool { return f.kind == secret })

// The same as arguments of a command.
var fieldNames, listedNames = namesOf(fields), namesOf(listedFields)

func namesOf(fields []field) []any {
	names := make([]any, len(fields))
	for i, f := range fields {
		names[i] = f.name
	}
	return names
}

func (f field) as(kind fieldKind) field {
	f.kind = kind
	return f
}

func text(name string, at func(*domain.Record) *string) field {
	return field{name, plain,
		func(r *domain.Record) string { return *at(r) },
		func(r *domain.Record, value string) error { *at(r) = value; return nil },
	}
}

func sealed(name string, at func(*domain.Record) *domain.Secret) field {
	return field{name, secret,
		func(r *domain.Record) string { return at(r).Reveal() },
		func(r *domain.Record, value string) error { *at(r) = domain.NewSecret(value); return nil },
	}
}

func flag(name string, at func(*domain.Record) *bool) field {
	return field{name, plain,
		func(r *domain.Record) string {
			if *at(r) {
				return "1"
			}
			return ""
		},
		func(r *domain.Record, value string) error { *at(r) = value == "1"; return nil },
	}
}

func moment(name string, at func(*domain.Record) *time.Time) field {
	return field{name, plain,
		func(r *domain.Record) string {
			if at(r).UnixMilli() == (time.Time{}).UnixMilli() {
				return ""
			}
			return millis(*at(r))
		},
		func(r *domain.Record, value string) error {
			n, err := strconv.ParseInt(value, 10, 64)
			*at(r) = time.UnixMilli(n).UTC()
			return err
		},
	}
}

// millis is how a time stands in Redis: as the milliseconds since 1970.
func millis(t time.Time) string { return strconv.FormatInt(t.UnixMilli(), 10) }

func readTicketHash(r *domain.Record) string {
	if r.TicketHash == (domain.TicketHash{}) {
		return ""
	}
	return base64.RawURLEncoding.EncodeToString(r.TicketHash[:])
}

func writeTicketHash(r *domain.Record, value string) error {
	raw, err := base64.RawURLEncoding.DecodeString(value)
	if err == nil && len(raw) != len(r.TicketHash) {
		err = fmt.Errorf("%d bytes", len(raw))
	}
	copy(r.TicketHash[:], raw)
	return err
}

func names(name string, at func(*domain.Record) *[]string) field {
	return field{name, plain,
		func(r *domain.Record) string {
			if len(*at(r)) == 0 {
				return ""
			}
			return repo.JoinNames(*at(r))
		},
		func(r *domain.Record, value string) (err error) { *at(r), err = repo.SplitNames(value); return err },
	}
}

func readVersion(r *domain.Record) string { return strconv.FormatInt(r.Version, 10) }

func writeVersion(r *domain.Record, value string) (err error) {
	r.Version, err = strconv.ParseInt(value, 10, 64)
	return err
}

// pairs returns names and values of what a record has to keep.
func pairs(r domain.Record) []any {
	var all []any
	for _, f := range fields {
		if value := f.read(&r); value != "" {
			all = append(all, f.name, value)
		}
	}
	return all
}

// tokenPairs returns names and values of all that a refresh replaces; an empty
// value means that the field goes.
func tokenPairs(t domain.Tokens) []any {
	r := domain.Record{Tokens: t}
	var all []any
	for _, f := range fields {
		if f.kind != plain {
			all = append(all, f.name, f.read(&r))
		}
	}
	return all
}

// parse makes a record of the values of some fields, in their order; one that is
// empty is missing. The error names the field and not its value, and is
// domain.ErrNotFound if there is no record.
func parse(id domain.DeviceID, fields []field, values []string) (domain.Record, error) {
	r := domain.Record{DeviceID: id}
	for i, f := range fields {
		if values[i] == "" {
			continue
		}
		if err := f.write(&r, values[i]); err != nil {
			return domain.Record{}, fmt.Errorf("device %v: field %s is damaged", id, f.name)
		}
	}
	if r.Version == 0 {
		return domain.Record{}, domain.ErrNotFound
	}
	return r, nil
}

// parseAll makes a record of a whole hash. Fields that it does not know are the
// store's own.
func parseAll(id domain.DeviceID, hash map[string]string) (domain.Record, error) {
	values := make([]string, len(fields))
	for i, f := range fields {
		values[i] = hash[f.name]
	}
	return parse(id, fields, values)
}
