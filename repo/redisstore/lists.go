package redisstore

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo"
)

// batch is how many records are asked for or deleted in one round trip.
const batch = 250

// ListByOwner implements repo.Store.
func (s *Store) ListByOwner(ctx context.Context, o domain.Owner) ([]domain.Record, error) {
	if o.IsZero() {
		return nil, ctx.Err()
	}
	return s.list(ctx, s.ownerKey(o), func(r domain.Record) bool { return r.Owner == o })
}

// ListByEmail implements repo.Store.
func (s *Store) ListByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	if email == "" {
		return nil, ctx.Err()
	}
	return s.list(ctx, s.emailKey(email), func(r domain.Record) bool { return r.EmailVerified && r.Email == email })
}

// list returns the records that an index names and that belong there.
func (s *Store) list(ctx context.Context, key string, belongs func(domain.Record) bool) ([]domain.Record, error) {
	ids, err := s.devices(ctx, key)
	if err != nil {
		return nil, failed(ctx, "list", err)
	}
	var list []domain.Record
	for some := range slices.Chunk(ids, batch) {
		found, err := s.listed(ctx, some)
		if err != nil {
			return nil, failed(ctx, "list", err)
		}
		for _, r := range found {
			if belongs(r) {
				list = append(list, r)
			}
		}
	}
	slices.SortFunc(list, func(a, b domain.Record) int {
		if c := b.LastSeenAt.Compare(a.LastSeenAt); c != 0 {
			return c
		}
		return bytes.Compare(a.DeviceID[:], b.DeviceID[:])
	})
	return list, nil
}

// devices returns the ids that stand in the sets of some keys, each once, in
// their order.
func (s *Store) devices(ctx context.Context, keys ...string) ([]domain.DeviceID, error) {
	sets, err := s.entries(ctx, keys...)
	if err != nil {
		return nil, err
	}
	var ids []domain.DeviceID
	for _, set := range sets {
		for _, e := range set {
			ids = append(ids, e.id)
		}
	}
	slices.SortFunc(ids, func(a, b domain.DeviceID) int { return bytes.Compare(a[:], b[:]) })
	return slices.Compact(ids), nil
}

// listed returns those of the records that are there, in the form of lists.
func (s *Store) listed(ctx context.Context, ids []domain.DeviceID) ([]domain.Record, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	pipe := s.client.Pipeline()
	var answers []*redis.StringSliceCmd
	for _, id := range ids {
		a := valuesOf(ctx, s.deviceKey(id), listedNames)
		_ = pipe.Process(ctx, a)
		answers = append(answers, a)
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var found []domain.Record
	for i, a := range answers {
		values, err := a.Result()
		if err != nil {
			return nil, err
		}
		r, err := parse(ids[i], listedFields, values)
		if errors.Is(err, domain.ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	return found, nil
}

// DeleteByOwner implements repo.Store.
func (s *Store) DeleteByOwner(ctx context.Context, o domain.Owner, except domain.DeviceID) ([]domain.Record, error) {
	if o.IsZero() {
		return nil, ctx.Err()
	}
	return s.deleteAll(ctx, s.ownerKey(o), except, "issuer", o.Issuer, "subject", o.Subject)
}

// DeleteByEmail implements repo.Store.
func (s *Store) DeleteByEmail(ctx context.Context, email string) ([]domain.Record, error) {
	if email == "" {
		return nil, ctx.Err()
	}
	return s.deleteAll(ctx, s.emailKey(email), domain.DeviceID{}, "email", email, "email_verified", "1")
}

// DeleteBySID implements repo.Store.
func (s *Store) DeleteBySID(ctx context.Context, issuer, sid string) ([]domain.Record, error) {
	if sid == "" {
		return nil, ctx.Err()
	}
	return s.deleteAll(ctx, s.sidKey(issuer, sid), domain.DeviceID{}, "issuer", issuer, "oidc_sid", sid)
}

// deleteAll deletes the devices that an index names, if their fields have the
// values that they must have at that moment. With an error comes what went
// before it.
func (s *Store) deleteAll(ctx context.Context, key string, except domain.DeviceID, fields ...any) ([]domain.Record, error) {
	ids, err := s.devices(ctx, key)
	if err != nil {
		return nil, failed(ctx, "delete all", err)
	}
	ids = slices.DeleteFunc(ids, func(id domain.DeviceID) bool { return id == except })
	var went []domain.Record
	for some := range slices.Chunk(ids, batch) {
		var calls []*call
		for _, id := range some {
			calls = append(calls, s.deletion(id, repo.AnyVersion, fields...))
		}
		err := s.run(ctx, calls...)
		var gone []redis.Cmder
		for i, c := range calls {
			if c.reply.status() != "ok" {
				continue
			}
			r, entries, damaged := s.deleted(some[i], c.reply)
			if damaged != nil {
				err = damaged
				continue
			}
			went, gone = append(went, r), append(gone, entries...)
		}
		s.unindex(ctx, gone)
		if err != nil {
			return went, failed(ctx, "delete all", err)
		}
	}
	return went, nil
}

// Page implements repo.Store. It goes by device id, through the pages one after
// the other; the cursor is the last id, so it holds whatever happens to the
// server meanwhile. SCAN would need no index of its own, but may show a key
// twice, and its cursors mean nothing to the node that takes over.
func (s *Store) Page(ctx context.Context, cursor string, limit int) ([]domain.Record, string, error) {
	var after domain.DeviceID
	if cursor != "" {
		id, err := domain.ParseDeviceID(cursor)
		if err != nil {
			return nil, "", fmt.Errorf("a cursor that no page has returned: %w", domain.ErrBadInput)
		}
		after = id
	}
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d records: %w", limit, domain.ErrBadInput)
	}
	var records []domain.Record
	// A full store gives a page of records from a few sets. The emptier it is,
	// the more sets are read at once.
	for page, width := pageOf(after), 8; page < pages; page, width = page+width, min(2*width, 512) {
		var keys []string
		for p := page; p < min(page+width, pages); p++ {
			keys = append(keys, s.pageKey(p))
		}
		ids, err := s.devices(ctx, keys...)
		if err != nil {
			return nil, "", failed(ctx, "page", err)
		}
		ids = slices.DeleteFunc(ids, func(id domain.DeviceID) bool {
			return cursor != "" && bytes.Compare(id[:], after[:]) <= 0
		})
		for some := range slices.Chunk(ids, batch) {
			found, err := s.listed(ctx, some)
			if err != nil {
				return nil, "", failed(ctx, "page", err)
			}
			records = append(records, found...)
			if len(records) >= limit {
				return records[:limit], records[limit-1].DeviceID.String(), nil
			}
		}
	}
	return records, "", nil
}
