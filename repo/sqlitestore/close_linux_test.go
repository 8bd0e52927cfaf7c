package sqlitestore_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"cloakroom/repo/storetest"
)

// TestCloseGivesTheFilesBack counts the descriptors that this process has of the
// store's files.
func TestCloseGivesTheFilesBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	s := open(t, path)
	storetest.Fill(t, s, 10)
	if len(opened(t, path)) == 0 {
		t.Fatal("an open store has no file open; the test looks at the wrong place")
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if left := opened(t, path); len(left) != 0 {
		t.Errorf("a closed store has %v open", left)
	}
}

func opened(t *testing.T, path string) (files []string) {
	t.Helper()
	list, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	for _, fd := range list {
		if file, _ := os.Readlink("/proc/self/fd/" + fd.Name()); strings.HasPrefix(file, path) {
			files = append(files, file)
		}
	}
	return files
}
