package storetest

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
)

// benchmarkVariable says how many records the benchmarks' stores hold, separated
// by commas; to make 100000 takes a minute or two.
const benchmarkVariable = "CLOAKROOM_BENCH_RECORDS"

const devicesPerPerson = 5

// Benchmark measures what requests, refreshes and sign-ins ask of a store, with
// one caller and with 64, at several numbers of records. open returns a store
// without records; Benchmark closes it.
func Benchmark(b *testing.B, open func(b *testing.B) repo.Store) {
	sizes := os.Getenv(benchmarkVariable)
	if sizes == "" {
		sizes = "10,1000"
	}
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			b.Fatalf("%s: %v", benchmarkVariable, err)
		}
		b.Run("records="+size, func(b *testing.B) {
			s := open(b)
			defer s.Close()
			records := Fill(b, s, n)
			var created atomic.Int64
			taken := make([]sync.Mutex, n) // one refresh for each device at a time
			for _, op := range []struct {
				name string
				call func(ctx context.Context, i int) error
			}{
				{"get", func(ctx context.Context, i int) error {
					_, err := s.Get(ctx, records[i%n].DeviceID)
					return err
				}},
				{"list", func(ctx context.Context, i int) error {
					list, err := s.ListByEmail(ctx, records[i%n].Email)
					if err == nil && len(list) != devicesPerPerson {
						err = fmt.Errorf("%d devices", len(list))
					}
					return err
				}},
				{"replace", func(ctx context.Context, i int) error {
					taken[i%n].Lock()
					defer taken[i%n].Unlock()
					r := &records[i%n]
					r.Version++
					return s.ReplaceTokens(ctx, r.DeviceID, "", r.Version, r.Tokens, r.ExpiresAt)
				}},
				{"create", func(ctx context.Context, i int) error {
					return s.Create(ctx, Realistic(n+devicesPerPerson+int(created.Add(1))))
				}},
			} {
				for _, callers := range []int{1, 64} {
					b.Run(fmt.Sprintf("%s/callers=%d", op.name, callers), func(b *testing.B) {
						spread(b, callers, op.call)
					})
				}
			}
		})
	}
}

// spread spreads the calls of a benchmark over callers.
func spread(b *testing.B, callers int, call func(ctx context.Context, i int) error) {
	b.ReportAllocs()
	var next atomic.Int64
	if callers == 1 {
		for b.Loop() {
			if err := call(b.Context(), int(next.Add(1))); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(b.Context(), int(next.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// Fill stores n realistic records and returns them.
func Fill(tb testing.TB, s repo.Store, n int) []domain.Record {
	tb.Helper()
	records := make([]domain.Record, n)
	var fillers sync.WaitGroup
	const callers = 64
	for c := range callers {
		fillers.Go(func() {
			for i := c; i < n; i += callers {
				records[i] = Realistic(i)
				if err := s.Create(context.Background(), records[i]); err != nil {
					tb.Error(err)
					return
				}
			}
		})
	}
	fillers.Wait()
	if tb.Failed() {
		tb.FailNow()
	}
	return records
}

// Realistic returns a record of the size that records have, with tokens of 900
// and 100 bytes as they are when sealed: random. Five devices in a row are the
// same person's.
func Realistic(n int) domain.Record {
	person := n / devicesPerPerson
	now := time.Now().UTC().Truncate(time.Millisecond)
	r := domain.Record{
		Owner: domain.Owner{Issuer: "https://accounts.example.com", Subject: fmt.Sprintf("%021d", person)},
		Email: fmt.Sprintf("somebody.%d@example.com", person), EmailVerified: true,
		Roles: []string{"user"}, Provider: "example",
		Tokens: domain.Tokens{
			TokenType: "Bearer", AccessIssued: now, AccessExpiry: now.Add(15 * time.Minute), RefreshExpiry: now.Add(30 * 24 * time.Hour),
			Access: noise(900), Refresh: noise(100),
		},
		UserAgent: "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36",
		CreatedAt: now, CreatedIP: "203.0.113.195", LastSeenAt: now, LastSeenIP: "203.0.113.195", AuthTime: now,
		ExpiresAt: now.Add(14 * 24 * time.Hour),
	}
	binary.BigEndian.PutUint64(r.DeviceID[:], uint64(n+1)*0x9e3779b97f4a7c15) // all over the index, as random ids are
	_, _ = rand.Read(r.DeviceID[8:])
	_, _ = rand.Read(r.TicketHash[:])
	return r
}

func noise(n int) domain.Secret {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return domain.NewSecret(string(b))
}
