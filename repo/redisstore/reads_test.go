package redisstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"testing"

	"github.com/redis/go-redis/v9"

	"cloakroom/repo/redisstore/redistest"
)

func TestReadsTogetherAreEachOnesOwn(t *testing.T) {
	server := redistest.Any(t)
	client := connect(t, server).(*redis.Client)
	defer client.Close()
	prefix := newPrefix(t, server)
	const keys = 50
	for i := range keys {
		if err := client.HSet(t.Context(), fmt.Sprint(prefix, i), "name", i).Err(); err != nil {
			t.Fatal(err)
		}
	}
	name := slices.IndexFunc(fields, func(f field) bool { return f.name == "name" })
	r := &reads{client: client}
	gone, leave := context.WithCancel(t.Context())
	leave()
	var readers sync.WaitGroup
	for reader := range 20 {
		readers.Go(func() {
			for i := range 200 {
				key := (reader*7 + i) % (keys + 1) // the last one is not there
				values, err := r.values(t.Context(), fmt.Sprint(prefix, key))
				want := make([]string, len(fields))
				if key < keys {
					want[name] = fmt.Sprint(key)
				}
				if err != nil || !slices.Equal(values, want) {
					t.Errorf("%d: %v, %v", key, values, err)
				}
				if _, err := r.values(gone, fmt.Sprint(prefix, key)); err != nil && !errors.Is(err, context.Canceled) {
					t.Errorf("a reader that has left: %v", err)
				}
			}
		})
	}
	readers.Wait()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.running > mostSending || r.running < 0 {
		t.Errorf("%d are sending", r.running)
	}
}

func TestReadsOfAServerThatIsAwayFail(t *testing.T) {
	client := redis.NewClient(&redis.Options{Addr: "127.0.0.1:1", MaxRetries: -1})
	defer client.Close()
	r := &reads{client: client}
	var readers sync.WaitGroup
	for range 20 {
		readers.Go(func() {
			if _, err := r.values(t.Context(), "x"); err == nil {
				t.Error("there is an answer")
			}
		})
	}
	readers.Wait()
}
