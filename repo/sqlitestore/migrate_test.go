package sqlitestore

import (
	"context"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/pressly/goose/v3"

	"cloakroom/domain"
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
	files, err := migrations.ReadDir("migrations")
	if err != nil {
		t.Fatal(err)
	}
	refused(t, path, fmt.Sprintf("written by a newer cloakroom (schema 99, this one knows %d); run that version, or go back to a backup", len(files)))
}

// openOld makes a file with the schema of an older version, and leaves it open as
// a process of that version has it.
func openOld(t *testing.T, version int64) (path string, old *db.SQLite) {
	t.Helper()
	path = filepath.Join(t.TempDir(), "cloakroom.db")
	old, err := db.OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { old.Close() })
	files, err := fs.Sub(migrations, "migrations")
	if err != nil {
		t.Fatal(err)
	}
	provider, err := goose.NewProvider(goose.DialectSQLite3, old.Write, files)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := provider.UpTo(t.Context(), version); err != nil {
		t.Fatal(err)
	}
	return path, old
}

// What the first version has written is read, and an old process that still has
// the file open goes on.
func TestAnOlderSchemaIsBroughtUpToDate(t *testing.T) {
	path, old := openOld(t, 1)
	insert := func(id byte) domain.DeviceID {
		t.Helper()
		device := domain.DeviceID{id}
		_, err := old.Write.ExecContext(t.Context(), `INSERT INTO device (id, ticket_hash, issuer, subject, email, email_verified, roles, provider, sid,
			token_type, access_issued, access_expiry, refresh_expiry, name, user_agent, persistent, created_at, created_ip,
			last_seen_at, last_seen_ip, auth_time, expires_at, version, lease_owner, lease_until, access_token, refresh_token, id_token)
			VALUES (?, ?, 'issuer', 'subject', '', 0, '["admin"]', 'password', '', 'bearer', 1, 2, 3, 'desk', '', 0, 4, '', 5, '', 6, 7, 8, '', 0, x'61', x'72', x'')`,
			device[:], make([]byte, 32))
		if err != nil {
			t.Fatal(err)
		}
		return device
	}
	before := insert(1)
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	for _, id := range []domain.DeviceID{before, insert(2)} {
		r, err := s.Get(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		if r.Name != "desk" || r.Version != 8 || r.Tokens.Refresh.Reveal() != "r" || len(r.Roles) != 1 ||
			r.ACR != "" || len(r.AMR) != 0 || r.Tokens.Scope != "" || !r.Tokens.DPoPKey.Empty() || !r.ProvedAt.IsZero() || r.PersonName != "" {
			t.Errorf("the record is %+v", r)
		}
	}
	if list, err := s.ListByOwner(t.Context(), domain.Owner{Issuer: "issuer", Subject: "subject"}); err != nil || len(list) != 2 {
		t.Errorf("the list has %d records, error %v", len(list), err)
	}
}

// What an older version has queued is revoked by this one.
func TestTheQueueOfAnOlderSchemaIsRead(t *testing.T) {
	path, old := openOld(t, 5)
	if _, err := old.Write.ExecContext(t.Context(), `INSERT INTO revocation (id, device, provider, issuer, refresh_token, access_token,
		access_expiry, unless, tries, not_before, expires_at) VALUES ('id', ?, 'password', 'issuer', x'72', x'61', 1, ?, 2, 3, 4)`,
		make([]byte, 16), make([]byte, 32)); err != nil {
		t.Fatal(err)
	}
	s, err := openAt(t, path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	got, err := s.ClaimRevocations(t.Context(), time.UnixMilli(3), time.UnixMilli(5), 10)
	if err != nil || len(got) != 1 || got[0].Owner != (domain.Owner{Issuer: "issuer"}) || got[0].Refresh.Reveal() != "r" || got[0].Tries != 2 {
		t.Errorf("ClaimRevocations = %+v, %v", got, err)
	}
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
