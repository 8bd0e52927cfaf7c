package routes

import (
	"context"
	"errors"
	"sync"

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
	mu        sync.Mutex
	exchanges map[domain.DeviceID]map[*exchange]struct{}
}

func (l *live) shard(id domain.DeviceID) *liveShard { return &l.shards[int(id[0])%len(l.shards)] }

// add notes an exchange of a device.
func (l *live) add(id domain.DeviceID, x *exchange) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.exchanges == nil {
		s.exchanges = make(map[domain.DeviceID]map[*exchange]struct{})
	}
	if s.exchanges[id] == nil {
		s.exchanges[id] = make(map[*exchange]struct{})
	}
	s.exchanges[id][x] = struct{}{}
}

// remove forgets an exchange that is over.
func (l *live) remove(id domain.DeviceID, x *exchange) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.exchanges[id], x)
	if len(s.exchanges[id]) == 0 {
		delete(s.exchanges, id)
	}
}

// cut ends every exchange of a device.
func (l *live) cut(id domain.DeviceID) {
	s := l.shard(id)
	s.mu.Lock()
	defer s.mu.Unlock()
	for x := range s.exchanges[id] {
		x.cut(errDeviceEnded)
	}
}

// devices returns those that have an exchange under way.
func (l *live) devices() []domain.DeviceID {
	var ids []domain.DeviceID
	for i := range l.shards {
		s := &l.shards[i]
		s.mu.Lock()
		for id := range s.exchanges {
			ids = append(ids, id)
		}
		s.mu.Unlock()
	}
	return ids
}

// DeviceEnded cuts what a device has under way. It is called when the store
// tells that the device is gone, on whatever replica it was signed out.
func (h *Handlers) DeviceEnded(id domain.DeviceID) { h.underway.cut(id) }

// Recheck cuts what devices have under way that are gone. It is called when the
// store may have missed telling so. An error of the store cuts nobody.
func (h *Handlers) Recheck(ctx context.Context) {
	for _, id := range h.underway.devices() {
		if h.broker.Gone(ctx, id) {
			h.underway.cut(id)
		}
	}
}
