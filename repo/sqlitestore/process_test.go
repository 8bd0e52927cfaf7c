package sqlitestore_test

import (
	"bufio"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"cloakroom/domain"
	"cloakroom/repo"
	"cloakroom/repo/storetest"
)

// What a child process does with the store is named in its environment.
const (
	roleVariable = "CLOAKROOM_TEST_ROLE"
	pathVariable = "CLOAKROOM_TEST_PATH"
)

var roles = map[string]func(*testing.T, repo.Store){
	"race":   raceForLeases,
	"delete": deleteFirst,
	"create": createForEver,
}

// said is what a child process reports, one JSON object a line.
type said struct {
	Won   *int   `json:",omitempty"` // the lease of this device
	Made  *int   `json:",omitempty"` // this device, and Create has returned
	Owner string `json:",omitempty"`
}

func say(s said) { _ = json.NewEncoder(os.Stdout).Encode(s) }

// TestChild is no test but what the child processes of the others run.
func TestChild(t *testing.T) {
	role, isChild := roles[os.Getenv(roleVariable)]
	if !isChild {
		return
	}
	s := open(t, os.Getenv(pathVariable))
	role(t, s)
	if err := s.Close(); err != nil {
		t.Error(err)
	}
}

// child starts a process and returns what it says.
func child(t *testing.T, role, path string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestChild$")
	cmd.Env = append(os.Environ(), roleVariable+"="+role, pathVariable+"="+path)
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return cmd, bufio.NewScanner(out)
}

// heard returns the next report of a child; other lines are the test's own.
func heard(lines *bufio.Scanner) (s said, ok bool) {
	for lines.Scan() {
		if json.Unmarshal(lines.Bytes(), &s) == nil {
			return s, true
		}
	}
	return said{}, false
}

const raceDevices = 50

func id(n int) (id domain.DeviceID) {
	binary.BigEndian.PutUint64(id[8:], uint64(n+1))
	return id
}

// device is the same in every process.
func device(n int) domain.Record {
	r := storetest.Realistic(n)
	r.DeviceID = id(n)
	return r
}

// raceForLeases creates the same devices as all its siblings and takes what
// leases it can.
func raceForLeases(t *testing.T, s repo.Store) {
	var all sync.WaitGroup
	for i := range 4 {
		owner := fmt.Sprintf("process %d, goroutine %d", os.Getpid(), i)
		all.Go(func() {
			for n := range raceDevices {
				if err := s.Create(t.Context(), device(n)); err != nil && !errors.Is(err, domain.ErrExists) {
					t.Errorf("Create: %v", err)
				}
				_, err := s.TakeLease(t.Context(), id(n), owner, time.Hour)
				if err == nil {
					say(said{Won: &n, Owner: owner})
				} else if !errors.Is(err, domain.ErrLeaseHeld) {
					t.Errorf("TakeLease: %v", err)
				}
			}
		})
	}
	all.Wait()
}

func TestProcessesThatShareAFileExcludeEachOther(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db") // which the children make
	type process struct {
		cmd   *exec.Cmd
		lines *bufio.Scanner
	}
	var processes []process
	for range 3 {
		cmd, lines := child(t, "race", path)
		processes = append(processes, process{cmd, lines})
	}
	winners := make(map[int]string)
	for _, p := range processes {
		for s, ok := heard(p.lines); ok; s, ok = heard(p.lines) {
			if s.Won == nil {
				continue
			}
			if first, twice := winners[*s.Won]; twice {
				t.Errorf("%s and %s both hold the lease of device %d", first, s.Owner, *s.Won)
			}
			winners[*s.Won] = s.Owner
		}
		if err := p.cmd.Wait(); err != nil {
			t.Errorf("a child: %v", err)
		}
	}
	s := open(t, path)
	defer s.Close()
	for n := range raceDevices {
		r, err := s.Get(t.Context(), id(n))
		if err != nil || r.Lease.Owner == "" || r.Lease.Owner != winners[n] {
			t.Errorf("device %d: lease of %q, won by %q (%v)", n, r.Lease.Owner, winners[n], err)
		}
	}
}

func deleteFirst(t *testing.T, s repo.Store) {
	if _, err := s.Delete(t.Context(), id(1), repo.AnyVersion); err != nil {
		t.Error(err)
	}
}

func TestAnotherProcessHearsOfADeletion(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	s := open(t, path)
	defer s.Close()
	if err := s.Create(t.Context(), device(1)); err != nil {
		t.Fatal(err)
	}
	told := make(chan repo.Event, 10)
	go func() { _ = s.Subscribe(t.Context(), func(e repo.Event) { told <- e }) }()
	<-told // the first Gap
	cmd, _ := child(t, "delete", path)
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	select {
	case got := <-told:
		if want := (repo.Event{Kind: repo.Ended, DeviceID: id(1)}); got != want {
			t.Errorf("heard %v, want %v", got, want)
		}
	case <-time.After(20 * time.Second):
		t.Error("nothing is told")
	}
}

func createForEver(t *testing.T, s repo.Store) {
	for n := 0; ; n++ {
		if err := s.Create(t.Context(), device(n)); err != nil {
			t.Error(err)
			return
		}
		say(said{Made: &n})
	}
}

func TestWhatWasAcknowledgedOutlivesAKilledProcess(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cloakroom.db")
	cmd, lines := child(t, "create", path)
	last := -1
	for last < 200 {
		s, ok := heard(lines)
		if !ok {
			t.Fatal("the child has ended")
		}
		last = *s.Made
	}
	if err := cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	for s, ok := heard(lines); ok; s, ok = heard(lines) {
		last = *s.Made
	}
	_ = cmd.Wait() // killed

	s := open(t, path)
	defer s.Close()
	for n := range last + 1 {
		if _, err := s.Get(t.Context(), id(n)); err != nil {
			t.Errorf("device %d of %d: %v", n, last, err)
		}
	}
}
