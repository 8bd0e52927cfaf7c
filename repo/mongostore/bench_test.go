package mongostore_test

import (
	"encoding/binary"
	"fmt"
	"os"
	"runtime"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/mongostore/mongotest"
)

func id(n int) domain.DeviceID {
	var id domain.DeviceID
	binary.BigEndian.PutUint64(id[:], uint64(n+1)*0x9e3779b97f4a7c15) // all over the index
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

func owner(n int) domain.Owner {
	return domain.Owner{Issuer: "auth", Subject: fmt.Sprint("subject ", n/5)}
}

func email(n int) string { return fmt.Sprintf("person%d@example.org", n/5) }

func tokens(n int) domain.Tokens {
	long := fmt.Sprint(n) + strings.Repeat("x", 1200)
	now := time.Now().UTC().Truncate(time.Millisecond)
	return domain.Tokens{
		TokenType: "bearer", AccessIssued: now, AccessExpiry: now.Add(time.Minute), RefreshExpiry: now.Add(time.Hour),
		Access: domain.NewSecret(long), Refresh: domain.NewSecret(long[:400]), ID: domain.NewSecret(long),
	}
}

// benchmark measures op at several numbers of records, with one caller and with
// 64. CLOAKROOM_BENCH_LARGE=1 adds 100,000 records. n counts the calls from 1 on.
func benchmark(b *testing.B, op func(b *testing.B, s *mongostore.Store, records, n int)) {
	sizes := []int{10, 1000}
	if os.Getenv("CLOAKROOM_BENCH_LARGE") != "" {
		sizes = append(sizes, 100_000)
	}
	uri := mongotest.Server(b)
	for _, records := range sizes {
		s := open(b, mongotest.NewDatabase(b, uri))
		defer s.Close()
		fillStore(b, s, records)
		var next atomic.Int64
		b.Run(fmt.Sprintf("records=%d/callers=1", records), func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				op(b, s, records, int(next.Add(1)))
			}
		})
		b.Run(fmt.Sprintf("records=%d/callers=64", records), func(b *testing.B) {
			b.ReportAllocs()
			b.SetParallelism(64 / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					op(b, s, records, int(next.Add(1)))
				}
			})
		})
	}
}

func fillStore(b *testing.B, s *mongostore.Store, records int) {
	errs := make(chan error)
	const callers = 64
	for i := range callers {
		go func() {
			for n := i; n < records; n += callers {
				if err := s.Create(b.Context(), device(n)); err != nil {
					errs <- err
					return
				}
			}
			errs <- nil
		}()
	}
	for range callers {
		if err := <-errs; err != nil {
			b.Fatal(err)
		}
	}
}

func must(b *testing.B, err error) {
	if err != nil {
		b.Error(err)
	}
}

func BenchmarkGet(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mongostore.Store, records, n int) {
		_, err := s.Get(b.Context(), id(n%records))
		must(b, err)
	})
}

func BenchmarkCreate(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mongostore.Store, records, n int) {
		must(b, s.Create(b.Context(), device(records+n)))
	})
}

// BenchmarkReplaceTokens goes round the devices, with one call at a time for
// each: where 64 callers share ten devices, ten work and the others wait.
func BenchmarkReplaceTokens(b *testing.B) {
	var devices [100_000]struct {
		sync.Mutex
		version map[int]int64 // by the number of records
	}
	benchmark(b, func(b *testing.B, s *mongostore.Store, records, n int) {
		d := &devices[n%records]
		d.Lock()
		defer d.Unlock()
		if d.version == nil {
			d.version = make(map[int]int64)
		}
		d.version[records]++
		must(b, s.ReplaceTokens(b.Context(), id(n%records), "me", d.version[records], tokens(n), time.Now().Add(time.Hour)))
	})
}

func BenchmarkListByEmail(b *testing.B) {
	benchmark(b, func(b *testing.B, s *mongostore.Store, records, n int) {
		list, err := s.ListByEmail(b.Context(), email(n%records))
		must(b, err)
		if len(list) != 5 {
			b.Errorf("%d devices", len(list))
		}
	})
}
