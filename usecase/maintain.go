package usecase

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"cloakroom/domain"
)

// maintained is what the operator's work on a whole store needs of it.
type maintained interface {
	Create(ctx context.Context, r domain.Record) error
	Get(ctx context.Context, id domain.DeviceID) (domain.Record, error)
	Overwrite(ctx context.Context, r domain.Record, from int64) error
	ReplaceTokens(ctx context.Context, id domain.DeviceID, leaseOwner string, from int64, t domain.Tokens, expiresAt time.Time) error
	Delete(ctx context.Context, id domain.DeviceID, from int64) (domain.Record, error)
	TakeLease(ctx context.Context, id domain.DeviceID, owner string, ttl time.Duration) (domain.Record, error)
	ReleaseLease(ctx context.Context, id domain.DeviceID, owner string) error
	Page(ctx context.Context, cursor string, limit int) (records []domain.Record, next string, err error)
	QueueRevocations(ctx context.Context, r []domain.Revocation) error
	PageRevocations(ctx context.Context, cursor string, limit int) (r []domain.Revocation, next string, err error)
}

const (
	maintainPage    = 200
	maintainWorkers = 16
	// resealLease is how long one record is held; a refresh waits meanwhile.
	resealLease = 5 * time.Second
	// resealWithin bounds the wait for a record that is being refreshed.
	resealWithin = time.Minute
)

// Resealed is what a Reseal has done.
type Resealed struct {
	Done   int // records whose tokens are sealed with the first key now
	Failed int // records that were left as they were; Problems says why
	// Problems are the first few errors.
	Problems []error
}

// Reseal writes the tokens of every record anew, so that the store's sealing
// key seals them. Brokers may run meanwhile: each record is held by its lease
// for that moment, so no refresh is lost. A record that cannot be opened or
// stays in use is left alone and counted. The pairs that wait to be revoked are
// sealed anew too; one that cannot be opened is not counted.
func Reseal(ctx context.Context, store maintained) (Resealed, error) {
	var out Resealed
	var mu sync.Mutex
	owner := uuid.NewString()
	err := each(ctx, store, func(r domain.Record) error {
		err := reseal(ctx, store, r.DeviceID, owner)
		mu.Lock()
		defer mu.Unlock()
		switch {
		case err == nil:
			out.Done++
		case errors.Is(err, domain.ErrNotFound): // signed out meanwhile
		case ctx.Err() != nil:
			return ctx.Err()
		default:
			out.Failed++
			if len(out.Problems) < 10 {
				out.Problems = append(out.Problems, fmt.Errorf("device %v: %w", r.DeviceID, err))
			}
		}
		return nil
	})
	if err != nil {
		return out, err
	}
	// One that a broker finishes at this moment is queued again and revoked
	// twice, which does no harm.
	return out, copyRevocations(ctx, store, store)
}

// copyRevocations queues at the target what waits at the source.
func copyRevocations(ctx context.Context, source, target maintained) error {
	for cursor := ""; ; {
		page, next, err := source.PageRevocations(ctx, cursor, mostRevocations)
		if err != nil {
			return fmt.Errorf("page through the revocations: %w", err)
		}
		for some := range slices.Chunk(page, mostRevocations) {
			if err := target.QueueRevocations(ctx, some); err != nil {
				return fmt.Errorf("write revocations: %w", err)
			}
		}
		if cursor = next; cursor == "" {
			return nil
		}
	}
}

func reseal(ctx context.Context, store maintained, id domain.DeviceID, owner string) error {
	ctx, cancel := context.WithTimeout(ctx, resealWithin)
	defer cancel()
	for pause := pollFirst; ; pause = min(2*pause, pollLast) {
		r, err := store.TakeLease(ctx, id, owner, resealLease)
		if err == nil {
			err = store.ReplaceTokens(ctx, id, owner, r.Version, r.Tokens, r.ExpiresAt)
			if err != nil {
				err = errors.Join(err, store.ReleaseLease(ctx, id, owner))
			}
		}
		if !errors.Is(err, domain.ErrLeaseHeld) && !errors.Is(err, domain.ErrConflict) {
			return err
		}
		if sleep(ctx, pause) != nil {
			return err
		}
	}
}

// Migrated is what a Migrate has done.
type Migrated struct {
	Copied  int // records that the target did not have
	Updated int // records that the target had otherwise
	Same    int // records that the target had already
	Removed int // records that only the target had
}

// Changed reports whether the target was not equal to the source before.
func (m Migrated) Changed() bool { return m.Copied+m.Updated+m.Removed > 0 }

// ErrNothingToCopy is a Migrate from a store that has no records, into one that
// would lose all of its own by it. Most likely the source is not the one meant.
var ErrNothingToCopy = errors.New("the source store has no devices")

// ErrNotEmpty is a Migrate into a store that has records already.
var ErrNotEmpty = errors.New("the target store has devices already")

// Migrate makes the target hold what the source holds. Into a target that is
// not empty it does so only if again is true, because whatever the target has
// beyond the source is removed then: those devices were signed out since. The
// pairs that wait to be revoked are copied too; spent keys are not.
//
// Brokers may run on the source meanwhile; what changes there during one pass
// is brought over by the next. The last pass has to be made while none runs.
func Migrate(ctx context.Context, source, target maintained, again bool) (Migrated, error) {
	var out Migrated
	if !again {
		first, next, err := target.Page(ctx, "", 1)
		switch {
		case err != nil:
			return out, fmt.Errorf("look into the target: %w", err)
		case len(first) > 0 || next != "":
			return out, ErrNotEmpty
		}
	}
	var mu sync.Mutex
	count := func(n *int) {
		mu.Lock()
		defer mu.Unlock()
		*n++
	}
	err := each(ctx, source, func(listed domain.Record) error {
		r, err := source.Get(ctx, listed.DeviceID)
		if errors.Is(err, domain.ErrNotFound) {
			return nil
		} else if err != nil {
			return fmt.Errorf("read device %v: %w", listed.DeviceID, err)
		}
		err = target.Create(ctx, r)
		if err == nil {
			count(&out.Copied)
			return nil
		}
		if !errors.Is(err, domain.ErrExists) {
			return fmt.Errorf("write device %v: %w", r.DeviceID, err)
		}
		have, err := target.Get(ctx, r.DeviceID)
		switch {
		case err != nil:
			return fmt.Errorf("compare device %v: %w", r.DeviceID, err)
		case sameDevice(have, r):
			count(&out.Same)
			return nil
		}
		if err := target.Overwrite(ctx, r, have.Version); err != nil {
			return fmt.Errorf("write device %v: %w", r.DeviceID, err)
		}
		count(&out.Updated)
		return nil
	})
	if err != nil {
		return out, err
	}
	if again && out == (Migrated{}) {
		return out, ErrNothingToCopy
	}
	if err := copyRevocations(ctx, source, target); err != nil || !again {
		return out, err
	}
	return out, each(ctx, target, func(r domain.Record) error {
		_, err := source.Get(ctx, r.DeviceID)
		if !errors.Is(err, domain.ErrNotFound) {
			return err
		}
		if _, err := target.Delete(ctx, r.DeviceID, anyVersion); err != nil && !errors.Is(err, domain.ErrNotFound) {
			return fmt.Errorf("remove device %v: %w", r.DeviceID, err)
		}
		count(&out.Removed)
		return nil
	})
}

// sameDevice compares what makes two records interchangeable for their browser
// and their person.
func sameDevice(a, b domain.Record) bool {
	return a.TicketHash == b.TicketHash && a.Name == b.Name &&
		a.Tokens.Access.Equal(b.Tokens.Access) && a.Tokens.Refresh.Equal(b.Tokens.Refresh) &&
		a.LastSeenAt.Equal(b.LastSeenAt) && a.ExpiresAt.Equal(b.ExpiresAt)
}

// each calls work for every record of a store, by a few workers at once, until
// one of them fails or ctx ends.
func each(ctx context.Context, store maintained, work func(domain.Record) error) error {
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	queue := make(chan domain.Record)
	var workers sync.WaitGroup
	for range maintainWorkers {
		workers.Go(func() {
			for r := range queue {
				if err := work(r); err != nil {
					fail(err)
				}
			}
		})
	}
	err := feed(ctx, store, queue)
	close(queue)
	workers.Wait()
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

func feed(ctx context.Context, store maintained, queue chan<- domain.Record) error {
	for cursor := ""; ; {
		records, next, err := store.Page(ctx, cursor, maintainPage)
		if err != nil {
			return fmt.Errorf("page through the store: %w", err)
		}
		for _, r := range records {
			select {
			case queue <- r:
			case <-ctx.Done():
				return nil
			}
		}
		if cursor = next; cursor == "" {
			return nil
		}
	}
}
