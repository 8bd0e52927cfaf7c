// Package authserver is the bundled auth server: a separate service that keeps
// accounts and issues tokens, and that the broker meets over HTTP alone, like
// any other auth server. It shares no code with the broker; what is inside it
// is in internal.
//
// Run is the whole program. Who runs it beside other services in one process,
// as the demo does, uses Open, Serve and Close, and brings the listener.
package authserver

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"syscall"
	"time"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/httpapi"
	"cloakroom/app/authserver/internal/idtoken"
	"cloakroom/app/authserver/internal/passwords"
	"cloakroom/app/authserver/internal/signin"
	"cloakroom/app/authserver/internal/throttle"
	"cloakroom/app/authserver/internal/tokens"
)

const (
	drainWithin = 20 * time.Second // what runs at shutdown may take this long
	sweepEvery  = time.Minute
	sweepBatch  = 100 // families deleted in one transaction, so that no login waits long
)

// Server is an open auth server. It is safe for concurrent use.
type Server struct {
	store   *accounts.Store
	service *signin.Service
	handler http.Handler
	log     *slog.Logger

	stopSweep context.CancelFunc
	sweeping  sync.WaitGroup
}

// Run checks the settings, listens, and serves until ctx ends and the requests
// that run then are answered. It returns nil after such an end, and otherwise
// what kept it from starting or serving.
func Run(ctx context.Context, s Settings, log *slog.Logger) (err error) {
	if err := s.Validate(); err != nil {
		return err
	}
	// The listener comes first: a second server on the same port should stop
	// before it touches the database of the first.
	listener, err := net.Listen("tcp", s.Listen)
	if err != nil {
		if errors.Is(err, syscall.EADDRINUSE) {
			return fmt.Errorf("%s is taken: another program listens there already; stop it or choose another port (the setting listen)", s.Listen)
		}
		return fmt.Errorf("listen: %w", err)
	}
	defer listener.Close()
	server, err := Open(ctx, s, log)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, server.Close()) }()
	return server.Serve(ctx, listener)
}

// Open checks the settings and opens the database. It does not listen; the
// setting Listen is not used. ctx is for the opening alone. The caller closes
// the Server.
func Open(ctx context.Context, s Settings, log *slog.Logger) (*Server, error) {
	return open(ctx, s, log, time.Now)
}

func open(ctx context.Context, s Settings, log *slog.Logger, now func() time.Time) (*Server, error) {
	if err := s.Validate(); err != nil {
		return nil, err
	}
	trusted, err := parseNetworks(s.TrustedProxy)
	if err != nil {
		return nil, err
	}
	store, err := accounts.Open(ctx, s.Database, s.rules())
	if err != nil {
		return nil, err
	}
	key, err := store.SigningKey(ctx, now(), tokens.NewKey)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	signer, err := tokens.NewSigner(key, s.Issuer, s.Audience, s.AccessTokenLifetime, now)
	if err != nil {
		return nil, errors.Join(err, store.Close())
	}
	if s.InsecureHashing {
		log.WarnContext(ctx, "insecure-hashing is set: passwords are hashed more cheaply than is safe")
	}
	service := &signin.Service{
		Accounts: store,
		Hasher:   passwords.NewHasher(s.hashParams(), s.HashConcurrency, s.HashQueue),
		Signer:   signer,
		Log:      log,
		Now:      now,

		LoginsPerAccount:        throttle.New(s.LoginFailuresPerAccount, s.ThrottleWindow),
		LoginsPerAddress:        throttle.New(s.LoginFailuresPerAddress, s.ThrottleWindow),
		RegistrationsPerAddress: throttle.New(s.RegistrationsPerAddress, s.ThrottleWindow),
	}
	if len(s.GoogleClientID) > 0 {
		service.IDTokens = idtoken.New(s.GoogleIssuer, s.GoogleClientID, now)
	}
	sweepCtx, stopSweep := context.WithCancel(context.WithoutCancel(ctx))
	server := &Server{
		store:     store,
		service:   service,
		handler:   httpapi.New(service, trusted, log),
		log:       log,
		stopSweep: stopSweep,
	}
	server.sweeping.Go(func() { server.sweep(sweepCtx, now) })
	return server, nil
}

// Handler returns what answers the requests. Serve puts timeouts around it; who
// serves it in another way has to bring his own.
func (s *Server) Handler() http.Handler { return s.handler }

// Serve answers requests on the listener until ctx ends, then takes no new ones
// and waits for those that run. It closes the listener. It returns nil after
// such an end.
func (s *Server) Serve(ctx context.Context, listener net.Listener) error {
	server := &http.Server{
		Handler:           s.handler,
		ReadHeaderTimeout: 5 * time.Second,
		ReadTimeout:       10 * time.Second,
		WriteTimeout:      30 * time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		ErrorLog:          slog.NewLogLogger(s.log.Handler(), slog.LevelWarn),
	}
	if address, err := netip.ParseAddrPort(listener.Addr().String()); err == nil && !address.Addr().IsLoopback() {
		s.log.WarnContext(ctx, "passwords and tokens travel in plain HTTP to an address that is not loopback: put TLS in front", "address", address)
	}
	s.log.InfoContext(ctx, "auth server listens", "address", listener.Addr().String())

	served := make(chan error, 1)
	go func() { served <- server.Serve(listener) }()
	select {
	case err := <-served:
		return fmt.Errorf("serve: %w", err)
	case <-ctx.Done():
	}
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), drainWithin)
	defer cancel()
	err := server.Shutdown(drain)
	if err != nil {
		err = errors.Join(fmt.Errorf("requests still ran %v after the shutdown began: %w", drainWithin, err), server.Close())
	}
	<-served
	return err
}

// Close stops the background work and closes the database. Requests that still
// run fail.
func (s *Server) Close() error {
	s.stopSweep()
	s.sweeping.Wait()
	return s.store.Close()
}

// EnsureAccount makes an account with this address and password. If the address
// has an account already it changes nothing, not even the password.
func (s *Server) EnsureAccount(ctx context.Context, email, password string) error {
	return s.service.Ensure(ctx, email, password)
}

// sweep deletes what is over, at once and then every so often, until ctx ends.
func (s *Server) sweep(ctx context.Context, now func() time.Time) {
	ticker := time.NewTicker(sweepEvery)
	defer ticker.Stop()
	for {
		deleted, err := s.store.Sweep(ctx, now(), sweepBatch)
		if err != nil && ctx.Err() == nil {
			s.log.WarnContext(ctx, "sweep of dead refresh tokens failed, will be tried again", "error", err)
		}
		if deleted == sweepBatch {
			continue
		}
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return
		}
	}
}
