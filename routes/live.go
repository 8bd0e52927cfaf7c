package routes

import (
	"context"
	"errors"
	"sync"
	"time"

	"cloakroom/domain"
)

// errDeviceEnded is why an exchange is cut whose device was signed out.
var errDeviceEnded = errors.New("the device was signed out")

// live knows the exchanges that are under way, by device, so that those of a
// device that ends can be cut: an open stream would go on otherwise for as long
// as its client likes. An exchange is here from before its ticket is checked,
// so that no end is missed in between.
//
// The zero value is ready.
type live struct {
	shards [64]liveShard
}

type liveShard struct {
	mu      sync.Mutex
	devices map[domain.DeviceID]liveDevice
}

type liveDevice struct {
	exchanges map[*exchange]struct{}
	until     time.Time // when the device is to be looked at again; zero if never
}

func (l *live) shard(id domain.DeviceID) *liveShard { return &l.shards[int(id[0])%len(l.shards)] }

// add notes an exchange of a device.
func (l *live) add(id domain.DeviceID, x *exchange) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.devices == nil {
		s.devices = make(map[domain.DeviceID]liveDevice)
	}
	d, ok := s.devices[id]
	if !ok {
		d.exchanges = make(map[*exchange]struct{})
		s.devices[id] = d
	}
	d.exchanges[x] = struct{}{}
}

// remove forgets an exchange that is over.
func (l *live) remove(id domain.DeviceID, x *exchange) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.devices[id].exchanges, x)
	if len(s.devices[id].exchanges) == 0 {
		delete(s.devices, id)
	}
}

// until notes when a device ends, as far as is known, if it has an exchange
// under way.
func (l *live) until(id domain.DeviceID, t time.Time) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if d, ok := s.devices[id]; ok {
		d.until = t
		s.devices[id] = d
	}
}

// cut ends every exchange of a device.
func (l *live) cut(id domain.DeviceID) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.devices[id].exchanges {
		x.cut(errDeviceEnded)
	}
}

// where returns the devices with an exchange under way that ok holds for.
func (l *live) where(ok func(liveDevice) bool) []domain.DeviceID {
	var ids []domain.DeviceID
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id, d := range s.devices {
			if ok(d) {
				ids = append(ids, id)
			}
		}
		s.mu.Unlock()
	}
	return ids
}

// DeviceEnded cuts what a device has under way. It is called when the store
// tells that the device is gone, on whatever replica it was signed out.
func (h *Handlers) DeviceEnded(id domain.DeviceID) { h.underway.cut(id) }

// DeviceChanged has Watch look at a device's end anew. It is called when the
// store tells that the record is another than before.
func (h *Handlers) DeviceChanged(id domain.DeviceID) { h.underway.until(id, time.Unix(0, 0)) }

// Recheck cuts what devices have under way that are gone. It is called when the
// store may have missed telling so. An error of the store cuts nobody; Watch asks
// again then.
func (h *Handlers) Recheck(ctx context.Context) {
	h.recheck(ctx, h.underway.where(func(liveDevice) bool { return true }))
}

// watchEvery is how often Watch looks for devices that time has ended.
const watchEvery = 250 * time.Millisecond

// Watch cuts what devices have under way whose records end by time, until ctx
// ends. One tick for all, because nearly every exchange is over long before its
// device is.
func (h *Handlers) Watch(ctx context.Context) {
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		now := h.Now()
		h.recheck(ctx, h.underway.where(func(d liveDevice) bool { return !d.until.IsZero() && !now.Before(d.until) }))
	}
}

const (
	recheckWorkers = 8
	recheckTimeout = 5 * time.Second
)

// recheck asks the store when the devices end, and cuts those that have ended.
// The others' end is noted: another replica may have seen them since.
func (h *Handlers) recheck(ctx context.Context, ids []domain.DeviceID) {
	var running sync.WaitGroup
	defer running.Wait()
	free := make(chan struct{}, recheckWorkers)
	for _, id := range ids {
		free <- struct{}{}
		running.Go(func() {
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(ctx, recheckTimeout)
			defer cancel()
			switch end, err := h.broker.End(ctx, id); {
			case err == nil:
				h.underway.until(id, end)
			case errors.Is(err, domain.ErrSignedOut):
				h.underway.cut(id)
			default:
				h.underway.until(id, time.Unix(0, 0))
			}
		})
	}
}
