package sealstore

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"time"

	"cloakroom/domain"
)

// revocationFields are sealed under the revocation's name too, so that a pair
// that is to be forgotten cannot be put back into its device's record.
func revocationFields(r *domain.Revocation) []field {
	return []field{{"revoked_access_token of " + r.ID, &r.Access}, {"revoked_refresh_token of " + r.ID, &r.Refresh}}
}

// QueueRevocations implements repo.Store.
func (s *Store) QueueRevocations(ctx context.Context, list []domain.Revocation) error {
	list = slices.Clone(list)
	for i := range list {
		if err := s.sealFields(list[i].DeviceID, revocationFields(&list[i])); err != nil {
			return err
		}
	}
	return s.Store.QueueRevocations(ctx, list)
}

// unopenedFor is how long a revocation that does not open is left alone, for a
// replica that has the key.
const unopenedFor = time.Hour

// ClaimRevocations implements repo.Store. What does not open is not returned, but
// put back for long, so that it does not stand in the way of the others.
func (s *Store) ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error) {
	list, claimed := s.Store.ClaimRevocations(ctx, now, until, limit)
	opened, sealed := s.openRevocations(ctx, list)
	for i := range sealed {
		sealed[i].NotBefore = until.Add(unopenedFor)
	}
	if len(sealed) > 0 {
		claimed = errors.Join(claimed, s.Store.QueueRevocations(ctx, sealed))
	}
	return opened, claimed
}

// PageRevocations implements repo.Store. What does not open is left out.
func (s *Store) PageRevocations(ctx context.Context, cursor string, limit int) ([]domain.Revocation, string, error) {
	list, next, err := s.Store.PageRevocations(ctx, cursor, limit)
	opened, _ := s.openRevocations(ctx, list)
	return opened, next, err
}

// openRevocations opens revocations and returns apart, as they are, those that do
// not open.
func (s *Store) openRevocations(ctx context.Context, list []domain.Revocation) (opened, sealed []domain.Revocation) {
	for _, r := range list {
		as := r
		if err := s.openFields(r.DeviceID, revocationFields(&r)); err != nil {
			s.log.WarnContext(ctx, "the tokens of a device that has ended do not open; they are not revoked",
				slog.String("device", r.DeviceID.String()), slog.Any("error", fmt.Errorf("revocation %s: %w", r.ID, err)))
			sealed = append(sealed, as)
			continue
		}
		opened = append(opened, r)
	}
	return opened, sealed
}
