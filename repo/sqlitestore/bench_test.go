package sqlitestore_test

import (
	"path/filepath"
	"testing"

	"cloakroom/repo"
	"cloakroom/repo/storetest"
)

func BenchmarkStore(b *testing.B) {
	storetest.Benchmark(b, func(b *testing.B) repo.Store { return open(b, filepath.Join(b.TempDir(), "bench.db")) })
}
