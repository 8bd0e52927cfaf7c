package usecase

import (
	"context"
	"sync"

	"cloakroom/domain"
)

// flights lets one piece of work run per device at a time and hands its result
// to everybody who asked meanwhile, by value: nobody reads a token out of
// somebody else's struct. The work does not belong to whoever began it. It runs
// on in a goroutine of its own, with the values of the first caller's context
// but without its end; each caller leaves when its own context ends.
//
// The zero value is ready.
type flights struct {
	mu      sync.Mutex
	running map[domain.DeviceID]*flight
	idle    chan struct{} // closed when running is empty; nil if nobody waits
}

type flight struct {
	done   chan struct{} // closed once record and err are set
	record domain.Record
	err    error
}

// wait returns the result of the flight, or ctx's error if that ends first.
func (fl *flight) wait(ctx context.Context) (domain.Record, error) {
	select {
	case <-fl.done:
		return fl.record, fl.err
	case <-ctx.Done():
		return domain.Record{}, ctx.Err()
	}
}

// begin begins a flight with work, or joins the one that is under way for the
// device, and does not wait.
func (f *flights) begin(ctx context.Context, id domain.DeviceID, work func(context.Context) (domain.Record, error)) (fl *flight, joined bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if fl, ok := f.running[id]; ok {
		return fl, true
	}
	if f.running == nil {
		f.running = make(map[domain.DeviceID]*flight)
	}
	fl = &flight{done: make(chan struct{})}
	f.running[id] = fl
	go func() {
		fl.record, fl.err = work(context.WithoutCancel(ctx))
		f.end(id)
		close(fl.done)
	}()
	return fl, false
}

func (f *flights) end(id domain.DeviceID) {
	f.mu.Lock()
	defer f.mu.Unlock()
	delete(f.running, id)
	if len(f.running) == 0 && f.idle != nil {
		close(f.idle)
		f.idle = nil
	}
}

// wait returns true once no flight is running, false if ctx ends first.
func (f *flights) wait(ctx context.Context) bool {
	f.mu.Lock()
	if len(f.running) == 0 {
		f.mu.Unlock()
		return true
	}
	if f.idle == nil {
		f.idle = make(chan struct{})
	}
	idle := f.idle
	f.mu.Unlock()
	select {
	case <-idle:
		return true
	case <-ctx.Done():
		return false
	}
}

func (f *flights) count() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.running)
}
