package redisstore

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
	"cloakroom/repo/redisstore/redistest"
)

// benchmarkVariable says how many records the stores of the benchmarks hold,
// separated by commas; 100000 takes a minute to fill.
const benchmarkVariable = "CLOAKROOM_BENCH_RECORDS"

const devicesPerPerson = 5

// realistic returns a record of the size that records have, with tokens of 900
// and 100 bytes as they are when sealed: random.
func realistic(n int) domain.Record {
	person := n / devicesPerPerson
	r := device(n)
	binary.BigEndian.PutUint64(r.DeviceID[:], uint64(n)*0x9e3779b97f4a7c15) // spread over the pages, as random ids are
	_, _ = rand.Read(r.DeviceID[8:])
	_, _ = rand.Read(r.TicketHash[:])
	r.Owner = domain.Owner{Issuer: "https://accounts.example.com", Subject: fmt.Sprintf("%021d", person)}
	r.Email = fmt.Sprintf("somebody.%d@example.com", person)
	r.Roles, r.Provider, r.SID = []string{"user"}, "example", ""
	r.Tokens.Access, r.Tokens.AccessIssued, r.Tokens.Refresh = noise(900), r.CreatedAt, noise(100)
	r.UserAgent = "Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36"
	r.CreatedIP, r.LastSeenIP = "203.0.113.195", "203.0.113.195"
	r.ExpiresAt = r.CreatedAt.Add(14 * 24 * time.Hour)
	return r
}

func noise(n int) domain.Secret {
	b := make([]byte, n)
	_, _ = rand.Read(b)
	return domain.NewSecret(string(b))
}

// fill stores n realistic records and returns them.
func fill(tb testing.TB, s *Store, n int) []domain.Record {
	tb.Helper()
	records := make([]domain.Record, n)
	var fillers sync.WaitGroup
	const callers = 32
	for c := range callers {
		fillers.Go(func() {
			for i := c; i < n; i += callers {
				records[i] = realistic(i)
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

func BenchmarkStore(b *testing.B) {
	sizes := os.Getenv(benchmarkVariable)
	if sizes == "" {
		sizes = "10,1000"
	}
	server := redistest.Any(b)
	for size := range strings.SplitSeq(sizes, ",") {
		n, err := strconv.Atoi(size)
		if err != nil {
			b.Fatalf("%s: %v", benchmarkVariable, err)
		}
		b.Run("records="+size, func(b *testing.B) {
			s, _ := open(b, server)
			records := fill(b, s, n)
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
					return s.Create(ctx, realistic(n+devicesPerPerson+int(created.Add(1))))
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
	b.SetParallelism((callers + runtime.GOMAXPROCS(0) - 1) / runtime.GOMAXPROCS(0))
	var next atomic.Int64
	if callers == 1 {
		for b.Loop() {
			if err := call(b.Context(), int(next.Add(1))); err != nil {
				b.Fatal(err)
			}
		}
		return
	}
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			if err := call(b.Context(), int(next.Add(1))); err != nil {
				b.Error(err)
				return
			}
		}
	})
}

// A store of a million devices has to fit into memory; what one takes should
// not grow unnoticed.
func TestMemoryOfADevice(t *testing.T) {
	server := redistest.Standalone(t)
	s, _ := open(t, server)
	const devices, most = 1000, 3500
	fill(t, s, devices)
	total := make(map[string]int64)
	for _, key := range s.keys(t) {
		n, err := s.client.MemoryUsage(t.Context(), s.config.Prefix+key, 0).Result()
		must(t, err)
		kind, _, _ := strings.Cut(key, ":")
		total[kind] += n
	}
	all := int64(0)
	for kind, n := range total {
		t.Logf("%s: %d bytes for each device", kind, n/devices)
		all += n
	}
	if all/devices > most {
		t.Errorf("a device takes %d bytes, want %d at most", all/devices, most)
	}
}
