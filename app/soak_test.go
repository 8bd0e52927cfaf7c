package main

import (
	"context"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"cloakroom/app/soak"
	"cloakroom/infra/testreport"
)

// TestSoakFindsNothing is a short run on each store, and leaves nothing behind.
func TestSoakFindsNothing(t *testing.T) {
	t.Parallel()
	for store, flag := range map[string]string{"Redis": "--sqlite=false", "SQLite": "--sqlite"} {
		t.Run(store, func(t *testing.T) {
			t.Parallel()
			if store == "Redis" {
				if _, err := exec.LookPath("redis-server"); err != nil {
					testreport.Missing(t, "redis", err.Error())
				}
			}
			path, err := binary()
			if err != nil {
				t.Fatal(err)
			}
			folder := t.TempDir()
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, path, "soak", "--duration=12s", "--devices=20", "--output=json", flag)
			cmd.Env = append(cmd.Environ(), "TMPDIR="+folder)
			var said strings.Builder
			cmd.Stderr = &said
			out, err := cmd.Output()
			var r soak.Report
			if err != nil || json.Unmarshal(out, &r) != nil {
				t.Fatalf("soak: %v\n%s\n%s", err, out, said.String())
			}
			if r.Store != store || r.Requests < 100 || r.Served < 50 || r.Refreshes < 10 || len(r.Faults) == 0 || !r.OK() {
				t.Errorf("too little has happened, or too much: %+v", r)
			}
			if left, err := filepath.Glob(filepath.Join(folder, "*")); err != nil || len(left) > 0 {
				t.Errorf("left behind: %v, %v", left, err)
			}
		})
	}
}

// TestSoakTellsWhenItCannotRun and does not take that for a good run.
func TestSoakTellsWhenItCannotRun(t *testing.T) {
	t.Parallel()
	var said strings.Builder
	_, err := soak.Run(t.Context(), soak.Config{
		Duration: time.Second, Replicas: 1, Devices: 1, Seed: 1, SQLite: true, Serve: []string{"/bin/false"}, Progress: &said,
	})
	if err == nil || !strings.Contains(err.Error(), "replica 0") {
		t.Errorf("Run = %v, want that replica 0 has ended by itself", err)
	}
	if !strings.HasPrefix(said.String(), "the logs are kept in ") {
		t.Errorf("said %q, and not where the logs are", said.String())
	}
	if folder := strings.TrimSpace(strings.TrimPrefix(said.String(), "the logs are kept in ")); folder != "" {
		_ = os.RemoveAll(folder)
	}
}
