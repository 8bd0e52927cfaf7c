package sqlitestore_test

import (
	"path/filepath"
	"testing"
	"time"

	"cloakroom/infra/db"
	"cloakroom/infra/testreport"
	"cloakroom/repo"
	"cloakroom/repo/sqlitestore"
	"cloakroom/repo/storetest"
)

// open opens the store in the file at path.
func open(t testing.TB, path string) *sqlitestore.Store {
	t.Helper()
	file, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	s, err := sqlitestore.Open(t.Context(), file.Write, file.Read, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestStore(t *testing.T) {
	file, err := db.OpenSQLite(t.Context(), filepath.Join(t.TempDir(), "version.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var version string
	if err := file.Read.QueryRowContext(t.Context(), "SELECT sqlite_version()").Scan(&version); err != nil {
		t.Fatal(err)
	}
	testreport.Real(t, "sqlite", "SQLite "+version)

	paths := make(map[repo.Store]string)
	storetest.Run(t, storetest.Harness{
		Open: func(t *testing.T) repo.Store {
			path := filepath.Join(t.TempDir(), "cloakroom.db")
			s := open(t, path)
			paths[s] = path
			return s
		},
		Peer: func(t *testing.T, s repo.Store) repo.Store { return open(t, paths[s]) },
	})
}
