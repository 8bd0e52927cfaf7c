package sqlitestore_test

import (
	"encoding/binary"
	"fmt"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo/sqlitestore"
)

// device returns a record of about 3 KB, of an owner with five devices.
func device(n int) domain.Record {
	now := time.Now().UTC().Truncate(time.Millisecond)
	return domain.Record{
		DeviceID:      id(n),
		Owner:         owner(n),
		Email:         fmt.Sprintf("person%d@example.org", n/5),
		EmailVerified: true,
		Roles:         []string{"user"},
		Provider:      "auth",
		UserAgent:     "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0",
		CreatedIP:     "192.0.2.1", LastSeenIP: "192.0.2.1",
		CreatedAt: now, LastSeenAt: now, AuthTime: now, ExpiresAt: now.Add(time.Hour),
		Tokens: tokens(n),
	}
}

func owner(n int) domain.Owner {
	return domain.Owner{Issuer: "auth", Subject: fmt.Sprint("subject ", n/5)}
}

func tokens(n int) domain.Tokens {
	long := fmt.Sprint(n) + strings.Repeat("x", 1200)
	now := time.Now().UTC().Truncate(time.Millisecond)
	return domain.Tokens{
		TokenType: "bearer", AccessIssued: now, AccessExpiry: now.Add(time.Minute), RefreshExpiry: now.Add(time.Hour),
		Access: domain.NewSecret(long), Refresh: domain.NewSecret(long[:400]), ID: domain.NewSecret(long),
	}
}

const benchDevices = 20_000

func id(n int) domain.DeviceID {
	var id domain.DeviceID
	binary.BigEndian.PutUint64(id[:], uint64(n)*0x9e3779b97f4a7c15) // all over the index
	binary.BigEndian.PutUint64(id[8:], uint64(n))
	return id
}

// benchmark measures op with one caller and with 64.
func benchmark(b *testing.B, op func(*testing.B, *sqlitestore.Store, int)) {
	for _, callers := range []int{1, 64} {
		b.Run(fmt.Sprintf("callers=%d", callers), func(b *testing.B) {
			s := open(b, filepath.Join(b.TempDir(), "bench.db"))
			defer s.Close()
			fillStore(b, s)
			var next atomic.Int64
			b.ReportAllocs()
			b.ResetTimer()
			if callers == 1 {
				for b.Loop() {
					op(b, s, int(next.Add(1)))
				}
				return
			}
			b.SetParallelism(callers / runtime.GOMAXPROCS(0))
			b.RunParallel(func(pb *testing.PB) {
				for pb.Next() {
					op(b, s, int(next.Add(1)))
				}
			})
		})
	}
}

func fillStore(b *testing.B, s *sqlitestore.Store) {
	errs := make(chan error)
	const callers = 64
	for i := range callers {
		go func() {
			for n := i; n < benchDevices; n += callers {
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
	benchmark(b, func(b *testing.B, s *sqlitestore.Store, n int) {
		_, err := s.Get(b.Context(), id(n%benchDevices))
		must(b, err)
	})
}

func BenchmarkCreate(b *testing.B) {
	benchmark(b, func(b *testing.B, s *sqlitestore.Store, n int) {
		must(b, s.Create(b.Context(), device(benchDevices+n)))
	})
}

func BenchmarkReplaceTokens(b *testing.B) {
	benchmark(b, func(b *testing.B, s *sqlitestore.Store, n int) {
		// Each device once a round, so that its version is known.
		device, version := id(n%benchDevices), int64(1+(n-1)/benchDevices)
		if n%benchDevices == 0 {
			version = int64(n / benchDevices)
		}
		must(b, s.ReplaceTokens(b.Context(), device, "me", version, tokens(n), time.Now()))
	})
}

func BenchmarkTouch(b *testing.B) {
	benchmark(b, func(b *testing.B, s *sqlitestore.Store, n int) {
		at := time.Now().Add(time.Duration(n) * time.Second)
		must(b, s.Touch(b.Context(), id(n%benchDevices), domain.Seen{At: at, IP: "192.0.2.2", ExpiresAt: at}))
	})
}

func BenchmarkListByOwner(b *testing.B) {
	benchmark(b, func(b *testing.B, s *sqlitestore.Store, n int) {
		list, err := s.ListByOwner(b.Context(), owner(n%benchDevices))
		must(b, err)
		if len(list) != 5 {
			b.Errorf("%d devices", len(list))
		}
	})
}
