package main

import (
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"syscall"
	"testing"
	"time"

	"cloakroom/infra/authapi/authapitest"
	"cloakroom/infra/db"
	"cloakroom/repo/sqlitestore"
)

// TestR13_RevocationOutlivesKill signs out while the auth server is away, kills
// the broker, and sees that the pair is revoked, and no other, when both are back.
func TestR13_RevocationOutlivesKill(t *testing.T) {
	t.Parallel()
	s := surround(t)
	auth := authapitest.New(t)
	auth.AddAccount(somebody, herWords)
	target, err := url.Parse(auth.URL)
	if err != nil {
		t.Fatal(err)
	}
	// What stands before the auth server can go, so that its address refuses
	// connections, and come back.
	listen := func(address string) *http.Server {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		door := &http.Server{Addr: l.Addr().String(), Handler: httputil.NewSingleHostReverseProxy(target)}
		go func() { _ = door.Serve(l) }()
		t.Cleanup(func() { _ = door.Close() })
		return door
	}
	door := listen("127.0.0.1:0")
	s.auth = "http://" + door.Addr

	p, address := s.broker(t)
	laptop, phone := newVisitor(t), newVisitor(t)
	laptop.signIn(address, somebody, herWords)
	lost := phone.signIn(address, somebody, herWords)
	var laptops, phones string
	laptop.do("GET", address+"/", nil, &laptops, http.StatusOK)
	phone.do("GET", address+"/", nil, &phones, http.StatusOK)

	_ = door.Close()
	laptop.do("DELETE", address+"/auth/devices/"+lost, nil, nil, http.StatusNoContent)
	file, err := db.OpenSQLite(t.Context(), s.store)
	if err != nil {
		t.Fatal(err)
	}
	store, err := sqlitestore.Open(t.Context(), file.Write, file.Read, time.Now)
	if err != nil {
		t.Fatal(err)
	}
	defer store.Close()
	if queued, _, err := store.PageRevocations(t.Context(), "", 10); err != nil || len(queued) != 1 {
		t.Errorf("when the sign-out is answered %d revocations are in the store, error %v; want 1", len(queued), err)
	}
	// It has failed, and is back in the queue.
	if err := eventually(t.Context(), func() (bool, error) {
		queued, _, err := store.PageRevocations(t.Context(), "", 10)
		return len(queued) == 1 && queued[0].Tries > 1, err
	}); err != nil {
		t.Fatalf("the revocation is not tried again: %v", err)
	}
	if err := p.cmd.Process.Signal(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	_ = p.status()

	_, address = s.broker(t)
	listen(door.Addr)
	if err := eventually(t.Context(), func() (bool, error) { return len(auth.Revocations()) > 0, nil }); err != nil {
		t.Fatalf("the pair is not revoked: %v", err)
	}
	if err := eventually(t.Context(), func() (bool, error) {
		queued, _, err := store.PageRevocations(t.Context(), "", 10)
		return len(queued) == 0, err
	}); err != nil {
		t.Errorf("the revocation stays in the queue: %v", err)
	}
	if n := len(auth.Revocations()); n != 1 || auth.Valid(phones) || !auth.Valid(laptops) {
		t.Errorf("%d pairs are revoked, the phone's token works: %t, the laptop's: %t; want the phone's alone to be gone", n, auth.Valid(phones), auth.Valid(laptops))
	}
	laptop.do("GET", address+"/", nil, nil, http.StatusOK)
}
