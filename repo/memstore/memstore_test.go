package memstore_test

import (
	"testing"
	"time"

	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/repo/storetest"
)

func TestStore(t *testing.T) {
	storetest.Run(t, storetest.Harness{
		Open: func(*testing.T) repo.Store { return memstore.New(time.Now) },
	})
}
