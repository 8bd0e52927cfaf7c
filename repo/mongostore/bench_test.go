package mongostore_test

import (
	"testing"

	"cloakroom/repo"
	"cloakroom/repo/mongostore/mongotest"
	"cloakroom/repo/storetest"
)

func BenchmarkStore(b *testing.B) {
	uri := mongotest.Server(b)
	storetest.Benchmark(b, func(b *testing.B) repo.Store { return open(b, mongotest.NewDatabase(b, uri)) })
}
