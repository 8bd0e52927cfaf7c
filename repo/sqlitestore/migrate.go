package sqlitestore

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"

	"github.com/pressly/goose/v3"
)

//go:embed migrations/*.sql
var migrations embed.FS

// applicationID marks the files of this store ("Cloa").
const applicationID = 1131179873

// migrate brings the schema up to date. It refuses the database of another
// program, and one that a newer Cloakroom has written: its columns may mean
// what this one does not know of.
func migrate(ctx context.Context, db *sql.DB) error {
	if err := checkOurs(ctx, db); err != nil {
		return err
	}
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, db, files, goose.WithLogger(goose.NopLogger()))
	if err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	// Several processes may start on one old or new file. Each migration is a
	// transaction that one of them wins; the others fail and look again. Whoever
	// fails more often than there are migrations to lose does so by itself.
	var attempts []error
	for range len(provider.ListSources()) + 2 {
		var current, newest int64
		if current, newest, err = provider.GetVersions(ctx); err == nil {
			if current > newest {
				return fmt.Errorf("sqlite: the database was written by a newer cloakroom (schema %d, this one knows %d); run that version, or go back to a backup from before the upgrade", current, newest)
			}
			if current == newest {
				return nil
			}
			_, err = provider.Up(ctx)
		}
		if err == nil {
			return nil
		}
		attempts = append(attempts, err)
	}
	return fmt.Errorf("sqlite: migrations: %w", errors.Join(attempts...))
}

func checkOurs(ctx context.Context, db *sql.DB) error {
	// One statement, because another process may be at its first migration; it
	// has goose's table before it has ours.
	const query = `SELECT application_id,
		(SELECT count(*) FROM sqlite_schema WHERE name NOT LIKE 'goose%' AND name NOT LIKE 'sqlite%')
		FROM pragma_application_id`
	var id, tables int
	if err := db.QueryRowContext(ctx, query).Scan(&id, &tables); err != nil {
		return fmt.Errorf("sqlite: migrations: %w", err)
	}
	if id != applicationID && (id != 0 || tables > 0) {
		return errors.New("sqlite: the file is the database of another program; name another file")
	}
	return nil
}
