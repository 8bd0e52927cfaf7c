package redisstore

import (
	"strings"
	"testing"

	"cloakroom/repo"
	"cloakroom/repo/redisstore/redistest"
	"cloakroom/repo/storetest"
)

func BenchmarkStore(b *testing.B) {
	server := redistest.Any(b)
	storetest.Benchmark(b, func(b *testing.B) repo.Store {
		s, _ := open(b, server)
		return s
	})
}

// A store of a million devices has to fit into memory; what one takes should
// not grow unnoticed.
func TestMemoryOfADevice(t *testing.T) {
	server := redistest.Standalone(t)
	s, _ := open(t, server)
	const devices, most = 1000, 3500
	storetest.Fill(t, s, devices)
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
