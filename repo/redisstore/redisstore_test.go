package redisstore

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/redis/go-redis/v9"

	"cloakroom/infra/db"
	"cloakroom/repo"
	"cloakroom/repo/redisstore/redistest"
	"cloakroom/repo/storetest"
)

// connect opens a client of its own, as each replica has one.
func connect(t testing.TB, server *redistest.Server) redis.UniversalClient {
	t.Helper()
	r, err := db.OpenRedis(context.Background(), server.URL, 0)
	if err != nil {
		t.Fatal(err)
	}
	return r.Client
}

var prefixes atomic.Int64

// newPrefix returns a key prefix that no other test uses, and removes what is
// below it when the test ends.
func newPrefix(t testing.TB, server *redistest.Server) string {
	t.Helper()
	prefix := fmt.Sprintf("cloakroom:test-%d-%d:", time.Now().UnixNano(), prefixes.Add(1))
	t.Cleanup(func() {
		client := connect(t, server)
		defer client.Close()
		if err := removeKeys(context.Background(), client, prefix); err != nil {
			t.Errorf("clean up: %v", err)
		}
	})
	return prefix
}

// removeKeys deletes all keys that begin with prefix.
func removeKeys(ctx context.Context, client redis.UniversalClient, prefix string) error {
	remove := func(ctx context.Context, node *redis.Client) error {
		keys := node.Scan(ctx, 0, prefix+"*", 1000).Iterator()
		pipe := node.Pipeline()
		for keys.Next(ctx) {
			pipe.Unlink(ctx, keys.Val())
			if pipe.Len() == 1000 {
				if _, err := pipe.Exec(ctx); err != nil {
					return err
				}
			}
		}
		if err := keys.Err(); err != nil || pipe.Len() == 0 {
			return err
		}
		_, err := pipe.Exec(ctx)
		return err
	}
	switch c := client.(type) {
	case *redis.ClusterClient:
		return c.ForEachMaster(ctx, remove)
	case *redis.Client:
		return remove(ctx, c)
	}
	return fmt.Errorf("a %T has no keys", client)
}

// suite runs the whole suite against a server.
func suite(t *testing.T, server *redistest.Server, config Config) {
	configs := make(map[repo.Store]Config)
	open := func(t *testing.T, c Config) repo.Store {
		s := New(connect(t, server), c)
		configs[s] = c
		return s
	}
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) repo.Store {
			c := config
			c.Prefix = newPrefix(t, server)
			return open(t, c)
		},
		Peer:          func(t *testing.T, s repo.Store) repo.Store { return open(t, configs[s]) },
		SweptByServer: true,
	})
}

func TestStore(t *testing.T) { suite(t, redistest.Any(t), Config{}) }

func TestStoreOnACluster(t *testing.T) { suite(t, redistest.Cluster(t), Config{}) }

// Every write waits for a replica here, so that this way is tried as well.
func TestStoreUnderSentinels(t *testing.T) {
	suite(t, redistest.Sentinel(t), Config{WaitReplicas: 1})
}
