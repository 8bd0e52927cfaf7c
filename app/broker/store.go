package broker

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/db"
	"cloakroom/infra/seal"
	"cloakroom/infra/settings"
	"cloakroom/repo"
	"cloakroom/repo/memstore"
	"cloakroom/repo/mongostore"
	"cloakroom/repo/redisstore"
	"cloakroom/repo/sealstore"
	"cloakroom/repo/sqlitestore"
)

// OpenStore opens a store whose tokens are sealed with the first of the
// settings' keys and opened with any of them. Without keys, which only a store
// in memory may do, they are kept as they are. The store is usable: it was asked.
// The caller closes it.
func OpenStore(ctx context.Context, at settings.Store, s settings.Settings, log *slog.Logger) (repo.Store, error) {
	if at.Kind == settings.Memory && len(s.SealKeys) == 0 {
		return memstore.New(time.Now), nil
	}
	ring, err := keyring(s.SealKeys)
	if err != nil {
		return nil, fmt.Errorf("seal-key: %w", err)
	}
	store, err := openUnsealed(ctx, at, s, log)
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	if err := store.Ping(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), store.Close())
	}
	return sealstore.New(store, ring, log), nil
}

func keyring(texts []domain.Secret) (*seal.Keyring, error) {
	var keys []seal.Key
	for _, text := range texts {
		key, err := seal.ParseKey(text.Reveal())
		if err != nil {
			return nil, err
		}
		keys = append(keys, key)
	}
	return seal.NewKeyring(keys...)
}

func openUnsealed(ctx context.Context, at settings.Store, s settings.Settings, log *slog.Logger) (repo.Store, error) {
	switch at.Kind {
	case settings.Memory:
		return memstore.New(time.Now), nil
	case settings.SQLite:
		file, err := db.OpenSQLite(ctx, at.Path)
		if err != nil {
			return nil, err
		}
		return sqlitestore.Open(ctx, file.Write, file.Read, time.Now)
	case settings.Redis:
		r, err := db.OpenRedis(ctx, at.URL.Reveal(), s.RedisWaitReplicas)
		if err != nil {
			return nil, err
		}
		for _, warning := range r.Warnings {
			log.WarnContext(ctx, warning)
		}
		store, err := redisstore.Open(ctx, r.Client, redisstore.Config{WaitReplicas: s.RedisWaitReplicas})
		if err != nil {
			return nil, errors.Join(err, r.Client.Close())
		}
		return store, nil
	case settings.MongoDB:
		database, err := db.OpenMongo(ctx, at.URL.Reveal())
		if err != nil {
			return nil, err
		}
		return mongostore.Open(ctx, database, log, time.Now)
	}
	return nil, fmt.Errorf("%s is not a kind of store", at.Kind)
}
