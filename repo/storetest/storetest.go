// Package storetest is the suite that every repo.Store passes whole. What it
// checks is the contract in package repo; a store's own tests hold only what is
// its own, such as files and scripts.
package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// Harness tells the suite how to get at a store. The suite closes what it gets.
type Harness struct {
	// Open returns a store with no records, which shares them with no other.
	Open func(t *testing.T) repo.Store

	// Peer returns another handle on the records of s, which Open returned, as
	// another replica has it. s may be closed by then. Nil for a store that
	// lives and dies with its process; one handle then plays all replicas.
	Peer func(t *testing.T, s repo.Store) repo.Store

	// SweptByServer: expired records are removed by the store's server, so that
	// Sweep has nothing to do.
	SweptByServer bool
}

// Run tests the store behind h as subtests of t.
func Run(t *testing.T, h Harness) {
	for _, group := range []struct {
		name  string
		cases []testCase
	}{
		{"Records", recordCases},
		{"Leases", leaseCases},
		{"Deletes", deleteCases},
		{"Lists", listCases},
		{"Keys", keyCases},
		{"Revocations", revocationCases},
		{"Events", eventCases},
		{"Handles", handleCases},
	} {
		t.Run(group.name, func(t *testing.T) {
			for _, c := range group.cases {
				t.Run(c.name, func(t *testing.T) { c.run(open(t, h)) })
			}
		})
	}
}

type testCase struct {
	name string
	run  func(*fixture)
}

// fixture is a fresh store with what tests say about it most.
type fixture struct {
	*testing.T
	Harness
	s   repo.Store // the store
	far repo.Store // the same records by another handle, if there are such

	unclosed []repo.Store
}

func open(t *testing.T, h Harness) *fixture {
	f := &fixture{T: t, Harness: h, s: h.Open(t)}
	f.unclosed = []repo.Store{f.s}
	t.Cleanup(func() {
		for len(f.unclosed) > 0 {
			f.close(f.unclosed[len(f.unclosed)-1])
		}
	})
	f.far = f.s
	if h.Peer != nil {
		f.far = f.peer()
	}
	return f
}

func (f *fixture) peer() repo.Store {
	s := f.Peer(f.T, f.s)
	f.unclosed = append(f.unclosed, s)
	return s
}

func (f *fixture) close(s repo.Store) {
	f.unclosed = slices.DeleteFunc(f.unclosed, func(u repo.Store) bool { return u == s })
	if err := s.Close(); err != nil {
		f.Errorf("Close: %v", err)
	}
}

// handle spreads the callers of a race over the handles.
func (f *fixture) handle(i int) repo.Store { return [...]repo.Store{f.s, f.far}[i%2] }

// create stores records and returns them as they are to be found.
func (f *fixture) create(records ...domain.Record) []domain.Record {
	f.Helper()
	var stored []domain.Record
	for _, r := range records {
		if err := f.s.Create(f.Context(), r); err != nil {
			f.Fatalf("Create: %v", err)
		}
		stored = append(stored, asCreated(r))
	}
	return stored
}

// createMany is create for many records, by many callers at once.
func (f *fixture) createMany(records []domain.Record) {
	f.Helper()
	const callers = 64
	race(callers, func(i int) {
		for n := i; n < len(records); n += callers {
			if err := f.s.Create(f.Context(), records[n]); err != nil {
				f.Errorf("Create: %v", err)
				return
			}
		}
	})
	if f.Failed() {
		f.FailNow()
	}
}

func asCreated(r domain.Record) domain.Record {
	r.Version, r.Lease = 1, domain.Lease{}
	return r
}

// get reads a record that has to be there.
func (f *fixture) get(id domain.DeviceID) domain.Record {
	f.Helper()
	r, err := f.s.Get(f.Context(), id)
	if err != nil {
		f.Fatalf("Get: %v", err)
	}
	return r
}

// stored checks that a record is found, by both handles, as it should be.
func (f *fixture) stored(want domain.Record) {
	f.Helper()
	for _, s := range []repo.Store{f.s, f.far} {
		got, err := s.Get(f.Context(), want.DeviceID)
		if err != nil {
			f.Fatalf("Get: %v", err)
		}
		f.same("Get", got, want)
	}
}

// same checks that two records agree in every field.
func (f *fixture) same(what string, got, want domain.Record) {
	f.Helper()
	for _, d := range differences(got, want) {
		f.Errorf("%s: %s", what, d)
	}
}

// gone checks that nothing is left of the devices, neither by id nor in a list.
func (f *fixture) gone(records ...domain.Record) {
	f.Helper()
	for _, r := range records {
		f.outcome("Get of what is gone", errOf(f.s.Get(f.Context(), r.DeviceID)), domain.ErrNotFound)
	}
	// Those of one owner and one address stand in the same lists.
	type keys struct {
		owner domain.Owner
		email string
	}
	looked := make(map[keys]bool)
	for _, k := range records {
		if looked[keys{k.Owner, k.Email}] {
			continue
		}
		looked[keys{k.Owner, k.Email}] = true
		for _, list := range f.lists(k) {
			for _, r := range records {
				if _, listed := list.byID[r.DeviceID]; listed {
					f.Errorf("%s still has a device that is gone", list.name)
				}
			}
		}
	}
}

// outcome checks that err is want; a nil want is success.
func (f *fixture) outcome(what string, err, want error) {
	f.Helper()
	if !errors.Is(err, want) {
		f.Errorf("%s: error %v, want %v", what, err, want)
	}
}

func errOf[T any](_ T, err error) error { return err }

// race runs work for callers 0 to n-1 at once and waits for all of them.
func race(n int, work func(caller int)) {
	var ready, done sync.WaitGroup
	start := make(chan struct{})
	for i := range n {
		ready.Add(1)
		done.Go(func() {
			ready.Done()
			<-start
			work(i)
		})
	}
	ready.Wait()
	close(start)
	done.Wait()
}

// patience bounds every wait for something that will come.
const patience = 20 * time.Second

// eventually waits until condition holds.
func (f *fixture) eventually(what string, condition func() bool) {
	f.Helper()
	ctx, cancel := context.WithTimeout(f.Context(), patience)
	defer cancel()
	tick := time.NewTicker(time.Millisecond)
	defer tick.Stop()
	for !condition() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			f.Fatalf("%s: not within %v", what, patience)
		}
	}
}
