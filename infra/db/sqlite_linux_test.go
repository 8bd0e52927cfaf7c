package db

import (
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
)

// asNobody runs f without root's right to write everywhere.
func asNobody(t *testing.T, f func()) {
	t.Helper()
	if os.Geteuid() == 0 {
		const nobody = 65534
		runtime.LockOSThread() // the file system's idea of the user belongs to the thread
		defer runtime.UnlockOSThread()
		if err := syscall.Setfsuid(nobody); err != nil {
			t.Fatal(err)
		}
		defer syscall.Setfsuid(0)
	}
	f()
}

// publicDir returns a directory that every user may enter, but only its owner
// may write to, and not even that one if sealed.
func publicDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "cloakroom-db-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = os.Chmod(dir, 0o700)
		_ = os.RemoveAll(dir)
	})
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	return dir
}

func refused(t *testing.T, path, want string) {
	t.Helper()
	asNobody(t, func() {
		s, err := OpenSQLite(t.Context(), path)
		if err == nil {
			_ = s.Close()
			t.Errorf("%s: no error", path)
		} else if !strings.Contains(err.Error(), want) {
			t.Errorf("%s: error %q, want %q", path, err, want)
		}
	})
}

func TestOpenSQLiteSaysWhatToDoAboutRights(t *testing.T) {
	dir := publicDir(t)
	wantDir := "the directory " + dir + " cannot be written by this user; give it to the user that runs cloakroom"
	refused(t, filepath.Join(dir, "new.db"), wantDir)

	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "there.db")
	s, err := OpenSQLite(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	// The file could be written, but not the log beside it.
	if err := os.Chmod(path, 0o666); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o555); err != nil {
		t.Fatal(err)
	}
	refused(t, path, wantDir)

	// The log could be written, but not the file.
	if err := os.Chmod(path, 0o444); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	refused(t, path, path+" cannot be written by this user")
}

// A real one takes a mount of its own; the whole program is tried on one in app.
func TestExplainKnowsAReadOnlyDisk(t *testing.T) {
	err := explain("/ro/new.db", &fs.PathError{Op: "open", Path: "/ro/new.db", Err: syscall.EROFS})
	if want := "/ro/new.db is on a read-only disk; name a file on one that can be written"; !strings.Contains(err.Error(), want) {
		t.Errorf("error %q, want %q", err, want)
	}
}
