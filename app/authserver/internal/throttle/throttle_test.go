package throttle

import (
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

var start = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

func TestTakeRefusesWhenAttemptsAreSpent(t *testing.T) {
	l := New(3, time.Minute)
	for i := range 3 {
		if wait := l.Take("a", start); wait != 0 {
			t.Fatalf("attempt %d has to wait %v, want 0", i+1, wait)
		}
	}
	if wait := l.Take("a", start); wait != 20*time.Second {
		t.Errorf("fourth attempt waits %v, want 20s", wait)
	}
	if wait := l.Take("b", start); wait != 0 {
		t.Errorf("another key waits %v, want 0", wait)
	}
}

func TestAttemptsComeBackEvenly(t *testing.T) {
	l := New(3, time.Minute)
	for range 3 {
		l.Take("a", start)
	}
	if wait := l.Take("a", start.Add(19*time.Second)); wait != time.Second {
		t.Errorf("after 19s wait = %v, want 1s", wait)
	}
	if wait := l.Take("a", start.Add(20*time.Second)); wait != 0 {
		t.Errorf("after 20s wait = %v, want 0", wait)
	}
	if wait := l.Take("a", start.Add(20*time.Second)); wait == 0 {
		t.Error("one interval gave back two attempts")
	}
}

func TestReturnGivesOneAttemptBack(t *testing.T) {
	l := New(2, time.Minute)
	l.Take("a", start)
	l.Take("a", start)
	l.Return("a", start)
	if wait := l.Take("a", start); wait != 0 {
		t.Errorf("after Return wait = %v, want 0", wait)
	}
	if wait := l.Take("a", start); wait == 0 {
		t.Error("Return gave back more than one attempt")
	}
}

func TestReturnOfAnUnknownKeySavesNothingUp(t *testing.T) {
	l := New(1, time.Minute)
	l.Return("a", start)
	l.Take("a", start)
	if wait := l.Take("a", start); wait == 0 {
		t.Error("an attempt was saved up beyond the allowance")
	}
}

func TestParallelAttemptsAreCountedBeforeTheyEnd(t *testing.T) {
	l := New(10, time.Minute)
	var allowed atomic.Int32
	var wg sync.WaitGroup
	for range 100 {
		wg.Go(func() {
			if l.Take("a", start) == 0 {
				allowed.Add(1)
			}
		})
	}
	wg.Wait()
	if got := allowed.Load(); got != 10 {
		t.Errorf("%d attempts were allowed, want 10", got)
	}
}

func TestFloodOfKeysIsBoundedAndDoesNotForgiveTheGuesser(t *testing.T) {
	l := New(5, time.Hour)
	for range 5 {
		l.Take("victim", start)
	}
	for i := range 2 * maxKeys {
		l.Take(strconv.Itoa(i), start)
	}
	if len(l.full) > maxKeys {
		t.Errorf("%d keys are kept, want at most %d", len(l.full), maxKeys)
	}
	if wait := l.Take("victim", start); wait == 0 {
		t.Error("a flood of other keys gave the spent key its attempts back")
	}
}
