package main

import (
	"syscall"
	"testing"
)

// freeze stops a replica from running without closing anything; thaw lets it go
// on.
func freeze(t *testing.T, r *replica) { signalTo(t, r, syscall.SIGSTOP) }

func thaw(t *testing.T, r *replica) { signalTo(t, r, syscall.SIGCONT) }

func signalTo(t *testing.T, r *replica, s syscall.Signal) {
	t.Helper()
	if err := r.cmd.Process.Signal(s); err != nil {
		t.Fatal(err)
	}
}
