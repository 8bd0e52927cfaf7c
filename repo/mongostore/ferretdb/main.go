// Command ferretdb is somebody else's MongoDB for tests: FerretDB v1 on SQLite
// files, behind a proxy that lets one request in at a time. It is a module of
// its own, so that what it depends on stays out of Cloakroom's.
//
// FerretDB v1 speaks MongoDB's protocol, but it reads, then writes, and another
// request may come between the two; MongoDB's single-document writes are atomic.
// The proxy makes up for that. What passes here is therefore right as far as
// commands, answers and error codes go; it says nothing about concurrency inside
// a server, durability or failover. FerretDB v1 has no TTL indexes, change
// streams or transactions, and is no store to run Cloakroom on.
//
// It prints a line with its address and its version and serves until its
// standard input ends, so that it does not outlive the test that started it.
package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime/debug"

	"github.com/FerretDB/FerretDB/ferretdb"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "ferretdb:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	dir, err := os.MkdirTemp("/dev/shm", "ferretdb-*") // nothing here has to outlive the test
	if err != nil {
		dir, err = os.MkdirTemp("", "ferretdb-*")
	}
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	// A socket of its own, so that nobody gets past the proxy by accident.
	// SQLite in memory would not do: FerretDB v1 has one connection to it and
	// waits for ever for a second.
	socket := filepath.Join(dir, "ferretdb.sock")
	server, err := ferretdb.New(&ferretdb.Config{
		Listener:  ferretdb.ListenerConfig{Unix: socket},
		Logger:    slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})),
		Handler:   "sqlite",
		SQLiteURL: "file:" + dir + "/",
	})
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(context.Background())
	stopped := make(chan error, 1)
	go func() { stopped <- server.Run(ctx) }()
	proxy := newProxy(func() (net.Conn, error) { return net.Dial("unix", socket) })
	go proxy.serve(listener)
	// It reads every document to find some, and everybody waits for their turn.
	fmt.Fprintf(out, "mongodb://%s/?timeoutMS=120000 %s\n", listener.Addr(), version())

	_, _ = io.Copy(io.Discard, in)
	_ = listener.Close()
	proxy.close()
	stop()
	return <-stopped
}

// version returns the version of FerretDB that was built in.
func version() string {
	if info, ok := debug.ReadBuildInfo(); ok {
		for _, m := range info.Deps {
			if m.Path == "github.com/FerretDB/FerretDB" {
				return m.Version
			}
		}
	}
	return "of unknown version"
}
