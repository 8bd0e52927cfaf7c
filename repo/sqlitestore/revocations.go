package sqlitestore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// The columns of a revocation, in the order of scanRevocation and of
// QueueRevocations.
const revocationColumns = "id, device, provider, issuer, refresh_token, access_token, access_expiry, unless, tries, not_before, expires_at, subject, sid"

var revocationPlaceholders = strings.Repeat("?, ", strings.Count(revocationColumns, ",")) + "?"

func scanRevocation(row scanner) (domain.Revocation, error) {
	var r domain.Revocation
	err := row.Scan(&r.ID, fixed(r.DeviceID[:]), &r.Provider, &r.Owner.Issuer, secret{&r.Refresh}, secret{&r.Access}, millis{&r.AccessExpiry},
		fixed(r.Unless[:]), &r.Tries, millis{&r.NotBefore}, millis{&r.ExpiresAt}, &r.Owner.Subject, &r.SID)
	return r, err
}

// QueueRevocations implements repo.Store.
func (s *Store) QueueRevocations(ctx context.Context, list []domain.Revocation) error {
	if err := repo.CheckRevocations(list); err != nil {
		return err
	}
	return s.change(ctx, "queue revocations", true, func(ctx context.Context) error {
		for _, r := range list {
			if _, err := s.queueRevocation.ExecContext(ctx, r.ID, r.DeviceID[:], r.Provider, r.Owner.Issuer, blob(r.Refresh), blob(r.Access), r.AccessExpiry.UnixMilli(),
				r.Unless[:], r.Tries, r.NotBefore.UnixMilli(), r.ExpiresAt.UnixMilli(), r.Owner.Subject, r.SID); err != nil {
				return err
			}
		}
		return nil
	})
}

// ClaimRevocations implements repo.Store. Most of the time none is due, and that
// is a reader's work.
func (s *Store) ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error) {
	due := false
	if err := s.anyDue.QueryRowContext(ctx, now.UnixMilli()).Scan(&due); err != nil || !due {
		return nil, failed(ctx, "claim revocations", err)
	}
	claimed, err := write(ctx, s.writer, false, func(ctx context.Context) ([]domain.Revocation, error) {
		return all(scanRevocation)(s.claimRevocations.QueryContext(ctx, until.UnixMilli(), now.UnixMilli(), max(limit, 0)))
	})
	return claimed, failed(ctx, "claim revocations", err)
}

// FinishRevocation implements repo.Store. Lost to a power cut, it is told to the
// auth server once more, which does no harm.
func (s *Store) FinishRevocation(ctx context.Context, id string) error {
	return s.change(ctx, "finish a revocation", false, func(ctx context.Context) error {
		_, err := s.finishRevocation.ExecContext(ctx, id)
		return err
	})
}

// PageRevocations implements repo.Store. It goes by id; the cursor is the last
// one.
func (s *Store) PageRevocations(ctx context.Context, cursor string, limit int) ([]domain.Revocation, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d revocations: %w", limit, domain.ErrBadInput)
	}
	page, err := all(scanRevocation)(s.pageRevocations.QueryContext(ctx, cursor, limit))
	if err != nil || len(page) < limit {
		return page, "", failed(ctx, "page revocations", err)
	}
	return page, page[limit-1].ID, nil
}
