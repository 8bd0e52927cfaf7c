package timedstore_test

import (
	"testing"
	"time"

	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/repo/storetest"
	"cloakroom/repo/timedstore"
)

// TestStore: a store that is measured is the store that it was, and everything
// that is told is among Ops.
func TestStore(t *testing.T) {
	known := make(map[string]bool)
	for _, op := range timedstore.Ops {
		known[op] = true
	}
	storetest.Run(t, storetest.Harness{Open: func(t *testing.T) repo.Store {
		return timedstore.New(memstore.New(time.Now), time.Now, func(op string, took time.Duration, _ bool) {
			if !known[op] || took < 0 {
				t.Errorf("told of %s, which took %v", op, took)
			}
		})
	}})
}
