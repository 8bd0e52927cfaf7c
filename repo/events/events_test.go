package events

import (
	"context"
	"errors"
	"slices"
	"testing"
	"testing/synctest"

	"cloakroom/domain"
	"cloakroom/repo"
)

func changed(n byte) repo.Event {
	return repo.Event{Kind: repo.Changed, DeviceID: domain.DeviceID{n}}
}

var gap = repo.Event{Kind: repo.Gap}

func TestEverySubscriberSeesAllFromItsGapOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		ctx, cancel := context.WithCancel(t.Context())
		var got [2][]repo.Event
		var ends [2]error
		for i := range got {
			h.Publish(changed(99)) // before either was there, or the second
			go func() { ends[i] = h.Subscribe(ctx, func(e repo.Event) { got[i] = append(got[i], e) }) }()
			synctest.Wait()
		}
		h.Publish(changed(1), changed(2))
		h.Publish()
		h.Publish(changed(3))
		synctest.Wait()
		cancel()
		synctest.Wait()
		h.Publish(changed(4))

		wants := [2][]repo.Event{
			{gap, changed(99), changed(1), changed(2), changed(3)},
			{gap, changed(1), changed(2), changed(3)},
		}
		for i, want := range wants {
			if !slices.Equal(got[i], want) {
				t.Errorf("subscriber %d got %v, want %v", i, got[i], want)
			}
			if !errors.Is(ends[i], context.Canceled) {
				t.Errorf("subscriber %d ended with %v", i, ends[i])
			}
		}
		if len(h.subscribers) != 0 {
			t.Errorf("%d subscribers are still kept", len(h.subscribers))
		}
	})
}

func TestASlowSubscriberGetsAGapAndHoldsNobodyUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		release := make(chan struct{})
		var slow, quick []repo.Event
		go func() {
			_ = h.Subscribe(t.Context(), func(e repo.Event) { slow = append(slow, e); <-release })
		}()
		go func() { _ = h.Subscribe(t.Context(), func(e repo.Event) { quick = append(quick, e) }) }()
		synctest.Wait()
		for range pending + 1 {
			h.Publish(changed(1))
			synctest.Wait()
		}
		h.Publish(changed(2))
		close(release)
		synctest.Wait()

		if want := []repo.Event{gap, gap, changed(2)}; !slices.Equal(slow, want) {
			t.Errorf("the slow one got %d events, want %v", len(slow), want)
		}
		if len(quick) != pending+3 || slices.Contains(quick[1:], gap) {
			t.Errorf("the quick one got %d events, want %d and no second gap", len(quick), pending+3)
		}
		for s := range h.subscribers {
			if cap(s.waiting) > 2*pending {
				t.Errorf("room for %d events waits", cap(s.waiting))
			}
		}
	})
}

func TestACutIsNeverLost(t *testing.T) {
	cut := repo.Event{Kind: repo.Cut}
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		release := make(chan struct{})
		var slow, late []repo.Event
		go func() {
			_ = h.Subscribe(t.Context(), func(e repo.Event) { slow = append(slow, e); <-release })
		}()
		synctest.Wait()
		for range pending {
			h.Publish(changed(1))
		}
		h.Publish(cut) // there is no room for it
		go func() { _ = h.Subscribe(t.Context(), func(e repo.Event) { late = append(late, e) }) }()
		close(release)
		synctest.Wait()
		h.Publish(gap)
		synctest.Wait()
		want := []repo.Event{gap, gap, cut, gap}
		if !slices.Equal(slow, want) {
			t.Errorf("the slow one got %v, want %v", slow, want)
		}
		if !slices.Equal(late, want[1:]) {
			t.Errorf("the late one got %v, want %v", late, want[1:])
		}
	})
}

func TestCloseEndsSubscriptions(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := NewHub()
		var end error
		go func() { end = h.Subscribe(t.Context(), func(repo.Event) {}) }()
		synctest.Wait()
		h.Close()
		synctest.Wait()
		if !errors.Is(end, ErrClosed) {
			t.Errorf("Subscribe ended with %v", end)
		}
	})
}
