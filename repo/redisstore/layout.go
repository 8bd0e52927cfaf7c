package redisstore

import (
	"context"
	"errors"
	"fmt"

	"github.com/redis/go-redis/v9"
)

// layout is the number of the layout that this package reads and writes. It goes
// up with a change that an older version of it could not live with.
const layout = 1

// Open returns a store on client, like New, after making sure that what is there
// was not written by a version whose layout this one does not know. Its error
// says what to do then. If it fails, client is still the caller's to close.
func Open(ctx context.Context, client redis.UniversalClient, c Config) (*Store, error) {
	s := New(client, c)
	key := s.config.Prefix + "layout"
	// The server sets it where there is none, or one starts twice at once.
	if err := client.SetNX(ctx, key, layout, 0).Err(); err != nil {
		return nil, fmt.Errorf("redis: open: %w", err)
	}
	found, err := client.Get(ctx, key).Int()
	switch {
	case errors.Is(err, redis.Nil):
		return nil, fmt.Errorf("redis: the key %s is gone as soon as it was written; set maxmemory-policy to noeviction", key)
	case err != nil:
		return nil, fmt.Errorf("redis: the key %s does not tell what layout the devices have: %w", key, err)
	case found > layout:
		return nil, fmt.Errorf("redis: the devices were written by a newer version of cloakroom (layout %d, this one knows %d); run that version, or name another database", found, layout)
	}
	return s, nil
}
