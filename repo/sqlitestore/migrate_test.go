package sqlitestore

import (
	"context"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"cloakroom/infra/db"
)

// alter runs a statement on the file at path as another program would.
func alter(t *testing.T, path, statement string) {
	t.Helper()
	file, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if _, err := file.Write.ExecContext(t.Context(), statement); err != nil {
		t.Fatal(err)
	}
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	s, err := openAt(t, path)
	if err == nil {
		_ = s.Close()
		t.Error("it opens")
	} else if !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q", err, want)
	}
}

func TestANewerSchemaIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	alter(t, path, "INSERT INTO goose_db_version (version_id, is_applied) VALUES (99, 1)")
	refused(t, path, "written by a newer cloakroom (schema 99, this one knows 1); run that version, or go back to a backup")
}

func TestTheDatabaseOfAnotherProgramIsRefused(t *testing.T) {
	for name, statement := range map[string]string{
		"marked":   "PRAGMA application_id = 77",
		"unmarked": "CREATE TABLE account (id INTEGER PRIMARY KEY) STRICT",
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "other.db")
			alter(t, path, statement)
			refused(t, path, "the database of another program; name another file")
			// Nor has it been touched.
			alter(t, path, "CREATE TABLE device (x INTEGER) STRICT")
		})
	}
}

func TestManyMayOpenANewFileAtOnce(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	var all sync.WaitGroup
	for range 6 {
		all.Go(func() {
			file, err := db.OpenSQLite(context.Background(), path)
			if err != nil {
				t.Error(err)
				return
			}
			s, err := Open(context.Background(), file.Write, file.Read, nil)
			if err != nil {
				t.Error(err)
				return
			}
			if err := s.Ping(context.Background()); err != nil {
				t.Error(err)
			}
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
}
