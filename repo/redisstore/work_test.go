package redisstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// work is what goes on while servers come and go: devices are created,
// refreshed, read and deleted, and their pairs queued to be revoked, each by one
// worker who knows what was acknowledged and so what every answer has to be.
type work struct {
	stop, done chan struct{}
	good, bad  atomic.Int64 // calls that went well, and that failed
	mu         sync.Mutex
	wrong      []string // false answers
	kept       map[domain.DeviceID]domain.Record
	deleted    []domain.DeviceID
	queued     map[string]bool // revocations that are not finished
	handles    [2]*Store
}

// begin begins the work, half of it by each handle.
func begin(t *testing.T, near, far *Store) *work {
	w := &work{
		stop: make(chan struct{}), done: make(chan struct{}),
		kept: make(map[domain.DeviceID]domain.Record), queued: make(map[string]bool), handles: [2]*Store{near, far},
	}
	var workers sync.WaitGroup
	for n, s := range []*Store{near, far, near, far} {
		workers.Go(func() {
			for round := 0; w.life(t.Context(), s, device(1000*n+round), round%2 == 0); round++ {
			}
		})
	}
	go func() { workers.Wait(); close(w.done) }()
	return w
}

// life leads one device through its life. It returns false when the work ends.
func (w *work) life(ctx context.Context, s *Store, r domain.Record, dies bool) bool {
	created := w.try(ctx, "Create", func(ctx context.Context, unsure bool) error {
		err := s.Create(ctx, r)
		if unsure && errors.Is(err, domain.ErrExists) {
			return nil // by the try before
		}
		return err
	})
	if !created {
		return false
	}
	r.Version = 1
	for n := range 5 {
		next := r.Tokens
		next.Access = domain.NewSecret(fmt.Sprint("access ", n))
		from := r.Version
		stored := w.try(ctx, "ReplaceTokens", func(ctx context.Context, unsure bool) error {
			err := s.ReplaceTokens(ctx, r.DeviceID, "", from, next, r.ExpiresAt)
			if unsure && errors.Is(err, domain.ErrConflict) {
				got, err := s.Get(ctx, r.DeviceID)
				if err == nil && (got.Version != from+1 || !got.Tokens.Access.Equal(next.Access)) {
					w.falsehood("somebody else wrote version %d", got.Version)
				}
				return err
			}
			return err
		})
		if !stored {
			break
		}
		r.Tokens, r.Version = next, from+1
		read := w.try(ctx, "Get", func(ctx context.Context, _ bool) error {
			got, err := s.Get(ctx, r.DeviceID)
			if err == nil && (got.Version != r.Version || !got.Tokens.Access.Equal(r.Tokens.Access)) {
				w.falsehood("version %d was acknowledged and %d is read", r.Version, got.Version)
			}
			return err
		})
		if !read {
			break
		}
	}
	if dies && !w.revoke(ctx, s, r) {
		return false
	}
	if dies && w.try(ctx, "Delete", func(ctx context.Context, unsure bool) error {
		_, err := s.Delete(ctx, r.DeviceID, repo.AnyVersion)
		if unsure && errors.Is(err, domain.ErrNotFound) {
			return nil
		}
		return err
	}) {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.deleted = append(w.deleted, r.DeviceID)
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if !dies {
		w.kept[r.DeviceID] = r
	}
	select {
	case <-w.stop:
		return false
	default:
		return true
	}
}

// revoke queues the pair of a device; every second one is finished at once.
func (w *work) revoke(ctx context.Context, s *Store, r domain.Record) bool {
	id := r.DeviceID.String()
	if !w.try(ctx, "QueueRevocations", func(ctx context.Context, _ bool) error {
		return s.QueueRevocations(ctx, []domain.Revocation{{ID: id, DeviceID: r.DeviceID, Refresh: r.Tokens.Refresh, NotBefore: r.CreatedAt, ExpiresAt: r.Tokens.RefreshExpiry}})
	}) {
		return false
	}
	if r.DeviceID[1]%4 > 0 {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.queued[id] = true
		return true
	}
	return w.try(ctx, "FinishRevocation", func(ctx context.Context, _ bool) error { return s.FinishRevocation(ctx, id) })
}

// try calls until the call goes well, or the work ends. Unsure is whether an
// earlier try may have done it. Any outcome but success is a false answer.
func (w *work) try(ctx context.Context, what string, call func(ctx context.Context, unsure bool) error) bool {
	for unsure := false; ; unsure = true {
		select {
		case <-w.stop:
			return false
		default:
		}
		limited, cancel := context.WithTimeout(ctx, 2*time.Second)
		err := call(limited, unsure)
		cancel()
		if err == nil {
			w.good.Add(1)
			return true
		}
		for _, o := range []error{domain.ErrNotFound, domain.ErrExists, domain.ErrConflict} {
			if errors.Is(err, o) {
				w.falsehood("%s: %v", what, err)
				return true
			}
		}
		w.bad.Add(1)
		if sleep(ctx, 5*time.Millisecond) != nil {
			return false
		}
	}
}

func (w *work) falsehood(format string, args ...any) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.wrong = append(w.wrong, fmt.Sprintf(format, args...))
}

// goesOn waits until so many calls more have gone well.
func (w *work) goesOn(t *testing.T, calls int64) {
	t.Helper()
	from := w.good.Load()
	eventually(t, "the work goes on", func() bool { return w.good.Load() >= from+calls })
}

// stumbles waits until a call fails.
func (w *work) stumbles(t *testing.T) {
	t.Helper()
	from := w.bad.Load()
	eventually(t, "a call fails", func() bool { return w.bad.Load() > from })
}

// end ends the work and checks that all is there that was acknowledged.
func (w *work) end(t *testing.T) {
	t.Helper()
	close(w.stop)
	<-w.done
	for _, s := range w.handles {
		// One may notice a second before the other that the server is back.
		eventually(t, "an answer", func() bool { return s.Ping(t.Context()) == nil })
	}
	for i, wrong := range w.wrong {
		if i < 10 {
			t.Errorf("a false answer: %s", wrong)
		}
	}
	for id, want := range w.kept {
		got, err := w.handles[1].Get(t.Context(), id)
		// The last call may have been under way.
		if err != nil || got.Version < want.Version || got.Version > want.Version+1 {
			t.Errorf("device %v: version %d was acknowledged, now %d (%v)", id, want.Version, got.Version, err)
		}
	}
	for _, id := range w.deleted {
		if _, err := w.handles[1].Get(t.Context(), id); !errors.Is(err, domain.ErrNotFound) {
			t.Errorf("device %v was deleted: %v", id, err)
		}
	}
	queued := make(map[string]bool)
	for cursor := ""; ; {
		page, next, err := w.handles[1].PageRevocations(t.Context(), cursor, 100)
		must(t, err)
		for _, r := range page {
			queued[r.ID] = true
		}
		if cursor = next; cursor == "" {
			break
		}
	}
	for id := range w.queued {
		if !queued[id] {
			t.Errorf("revocation %s was queued, and is gone", id)
		}
	}
	t.Logf("%d calls went well and %d failed; %d devices kept, %d deleted", w.good.Load(), w.bad.Load(), len(w.kept), len(w.deleted))
}
