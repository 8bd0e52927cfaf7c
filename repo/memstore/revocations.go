package memstore

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// QueueRevocations implements repo.Store.
func (s *Store) QueueRevocations(ctx context.Context, list []domain.Revocation) error {
	if err := repo.CheckRevocations(list); err != nil {
		return err
	}
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	for _, r := range list {
		r.AccessExpiry, r.NotBefore, r.ExpiresAt = cut(r.AccessExpiry), cut(r.NotBefore), cut(r.ExpiresAt)
		s.revocations[r.ID] = r
	}
	return nil
}

// ClaimRevocations implements repo.Store.
func (s *Store) ClaimRevocations(ctx context.Context, now, until time.Time, limit int) ([]domain.Revocation, error) {
	if err := s.lock(ctx); err != nil {
		return nil, err
	}
	defer s.mu.Unlock()
	var due []domain.Revocation
	for _, r := range s.revocations {
		if !r.NotBefore.After(now) {
			due = append(due, r)
		}
	}
	slices.SortFunc(due, func(a, b domain.Revocation) int {
		return cmp.Or(a.NotBefore.Compare(b.NotBefore), cmp.Compare(a.ID, b.ID))
	})
	due = due[:min(len(due), max(limit, 0))]
	for i := range due {
		due[i].NotBefore = cut(until)
		s.revocations[due[i].ID] = due[i]
	}
	return due, nil
}

// FinishRevocation implements repo.Store.
func (s *Store) FinishRevocation(ctx context.Context, id string) error {
	if err := s.lock(ctx); err != nil {
		return err
	}
	defer s.mu.Unlock()
	delete(s.revocations, id)
	return nil
}

// PageRevocations implements repo.Store. It goes by id; the cursor is the last
// one.
func (s *Store) PageRevocations(ctx context.Context, cursor string, limit int) ([]domain.Revocation, string, error) {
	if limit < 1 {
		return nil, "", fmt.Errorf("a page of %d revocations: %w", limit, domain.ErrBadInput)
	}
	if err := s.lock(ctx); err != nil {
		return nil, "", err
	}
	defer s.mu.Unlock()
	var page []domain.Revocation
	for _, id := range slices.Sorted(maps.Keys(s.revocations)) {
		if id <= cursor {
			continue
		}
		if len(page) == limit {
			return page, page[limit-1].ID, nil
		}
		page = append(page, s.revocations[id])
	}
	return page, "", nil
}
