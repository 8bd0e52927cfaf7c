package redisstore

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/domain"
	"cloakroom/repo"
)

// The revocations and the schedule of when each is to be tried bear one hash
// tag, so that they lie on one node of a Cluster and change in one step. They are
// few: each is gone as soon as an auth server has heard of it.
//
// A revocation goes at its end by itself. What the schedule still says of it is
// removed by whoever comes upon it.

func (s *Store) scheduleKey() string            { return s.config.Prefix + "{revocations}" }
func (s *Store) revocationKey(id string) string { return s.scheduleKey() + ":" + id }

// QueueRevocations implements repo.Store.
func (s *Store) QueueRevocations(ctx context.Context, list []domain.Revocation) error {
	if err := repo.CheckRevocations(list); err != nil {
		return err
	}
	var calls []*call
	for _, r := range list {
		calls = append(calls, &call{
			script: queueScript, key: s.scheduleKey(), with: s.revocationKey(r.ID), durable: true,
			args: append([]any{r.ID, millis(r.NotBefore), millis(r.ExpiresAt)}, revocationPairs(r)...),
		})
	}
	return failed(ctx, "queue revocations", s.run(ctx, calls...))
}

// ClaimRevocations implements repo.Store.
func (s *Store) ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error) {
	if limit < 1 {
		return nil, ctx.Err()
	}
	c := &call{script: claimScript, key: s.scheduleKey(), args: []any{millis(now), millis(until), limit}}
	if err := s.done(ctx, c); err != nil {
		return nil, failed(ctx, "claim revocations", err)
	}
	var claimed []redis.Z
	for i := range c.reply[1:] {
		claimed = append(claimed, redis.Z{Member: c.reply.text(i + 1), Score: float64(until.UnixMilli())})
	}
	list, err := s.revocations(ctx, claimed)
	return list, failed(ctx, "claim revocations", err)
}

// FinishRevocation implements repo.Store.
func (s *Store) FinishRevocation(ctx context.Context, id string) error {
	c := &call{script: finishScript, key: s.scheduleKey(), with: s.revocationKey(id), args: []any{id}}
	return failed(ctx, "finish a revocation", s.done(ctx, c))
}

// PageRevocations implements repo.Store. The cursor is that of ZSCAN.
func (s *Store) PageRevocations(ctx context.Context, cursor string, limit int) ([]domain.Revocation, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d revocations: %w", limit, domain.ErrBadInput)
	}
	if err := ctx.Err(); err != nil {
		return nil, "", failed(ctx, "page revocations", err)
	}
	at := uint64(0)
	if cursor != "" {
		var err error
		if at, err = strconv.ParseUint(cursor, 10, 64); err != nil {
			return nil, "", fmt.Errorf("a cursor that no page has returned: %w", domain.ErrBadInput)
		}
	}
	found, at, err := s.client.ZScan(ctx, s.scheduleKey(), at, "", int64(limit)).Result()
	if err != nil {
		return nil, "", failed(ctx, "page revocations", err)
	}
	var scheduled []redis.Z
	for i := 0; i+1 < len(found); i += 2 { // ids and times
		score, err := strconv.ParseFloat(found[i+1], 64)
		if err != nil {
			return nil, "", failed(ctx, "page revocations", err)
		}
		scheduled = append(scheduled, redis.Z{Member: found[i], Score: score})
	}
	list, err := s.revocations(ctx, scheduled)
	if err != nil || at == 0 {
		return list, "", failed(ctx, "page revocations", err)
	}
	return list, strconv.FormatUint(at, 10), nil
}

// revocations reads what the schedule names, and tidies it up.
func (s *Store) revocations(ctx context.Context, scheduled []redis.Z) ([]domain.Revocation, error) {
	if len(scheduled) == 0 {
		return nil, nil
	}
	pipe := s.client.Pipeline()
	var answers []*redis.MapStringStringCmd
	for _, z := range scheduled {
		answers = append(answers, pipe.HGetAll(ctx, s.revocationKey(z.Member.(string))))
	}
	_, _ = pipe.Exec(ctx) // each command has its own error
	var list []domain.Revocation
	var over []*call
	var damaged []error
	for i, a := range answers {
		id := scheduled[i].Member.(string)
		values, err := a.Result()
		if err != nil {
			return nil, err
		}
		if len(values) == 0 {
			over = append(over, &call{script: unscheduleScript, key: s.scheduleKey(), with: s.revocationKey(id), args: []any{id}})
			continue
		}
		r, err := parseRevocation(id, values)
		if err != nil {
			damaged = append(damaged, err) // the others have been claimed with it
			continue
		}
		r.NotBefore = time.UnixMilli(int64(scheduled[i].Score)).UTC()
		list = append(list, r)
	}
	if len(over) > 0 {
		_ = s.run(ctx, over...) // or the next one does
	}
	return list, errors.Join(damaged...)
}

// revocationPairs returns names and values of what a revocation has to keep,
// beside what the schedule says.
func revocationPairs(r domain.Revocation) []any {
	return []any{
		"device", r.DeviceID.String(), "provider", r.Provider, "issuer", r.Owner.Issuer, "subject", r.Owner.Subject, "oidc_sid", r.SID,
		"refresh_token", r.Refresh.Reveal(), "access_token", r.Access.Reveal(), "access_expiry", millis(r.AccessExpiry),
		"unless", base64.RawURLEncoding.EncodeToString(r.Unless[:]), "tries", r.Tries, "expires_at", millis(r.ExpiresAt),
	}
}

// parseRevocation reads what revocationPairs wrote. The error names no value.
func parseRevocation(id string, values map[string]string) (domain.Revocation, error) {
	r := domain.Revocation{
		ID: id, Provider: values["provider"], Owner: domain.Owner{Issuer: values["issuer"], Subject: values["subject"]}, SID: values["oidc_sid"],
		Refresh: domain.NewSecret(values["refresh_token"]), Access: domain.NewSecret(values["access_token"]),
	}
	device, err := domain.ParseDeviceID(values["device"])
	unless, badTicket := base64.RawURLEncoding.DecodeString(values["unless"])
	tries, badNumber := strconv.Atoi(values["tries"])
	access, badAccess := strconv.ParseInt(values["access_expiry"], 10, 64)
	ends, badEnd := strconv.ParseInt(values["expires_at"], 10, 64)
	if err != nil || badTicket != nil || badNumber != nil || badAccess != nil || badEnd != nil || len(unless) != len(r.Unless) {
		return domain.Revocation{}, fmt.Errorf("revocation %s is damaged", id)
	}
	r.DeviceID, r.Tries = device, tries
	copy(r.Unless[:], unless)
	r.AccessExpiry, r.ExpiresAt = time.UnixMilli(access).UTC(), time.UnixMilli(ends).UTC()
	return r, nil
}
