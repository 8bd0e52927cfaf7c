// Package broker puts the broker together: it alone knows every layer. It opens
// what the settings name, joins the parts, serves until it is told to stop, and
// then lets what is under way finish.
package broker

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strings"
	"sync"
	"syscall"
	"time"

	"cloakroom/domain"
	"cloakroom/infra/authapi"
	"cloakroom/infra/certificate"
	"cloakroom/infra/fiberapp"
	"cloakroom/infra/httpguard"
	"cloakroom/infra/metrics"
	"cloakroom/infra/settings"
	"cloakroom/repo"
	"cloakroom/repo/cachestore"
	"cloakroom/repo/timedstore"
	"cloakroom/routes"
	"cloakroom/routes/web"
	"cloakroom/usecase"
)

// Run listens on the address in the settings and serves until ctx ends, as Serve
// does.
func Run(ctx context.Context, s settings.Settings, again Reload, log *slog.Logger) error {
	l, err := Listen(s.Listen)
	if err != nil {
		return fmt.Errorf("%w (the setting listen)", err)
	}
	return ServeReloading(ctx, l, s, again, log)
}

// Listen opens a TCP listener. If the address is taken, the error says so in a
// sentence that helps.
func Listen(address string) (net.Listener, error) {
	l, err := net.Listen("tcp", address)
	if errors.Is(err, syscall.EADDRINUSE) {
		return nil, fmt.Errorf("%s is taken: another program listens there already; stop it or choose another port", address)
	}
	return l, err
}

// Serve serves on l, which it closes, until ctx ends. Then it takes no new
// requests, gives those under way the settings' grace to finish, lets refreshes
// store what they brought, and closes the store. It returns nil after such an
// end.
func Serve(ctx context.Context, l net.Listener, s settings.Settings, log *slog.Logger) error {
	return ServeReloading(ctx, l, s, Reload{}, log)
}

// ServeReloading is Serve with settings that can change while it runs.
func ServeReloading(ctx context.Context, l net.Listener, s settings.Settings, again Reload, log *slog.Logger) (err error) {
	defer l.Close()
	defer holdHeapFloor()()
	cert, err := openCertificate(s, log)
	if err != nil {
		return err
	}
	store, err := OpenStore(ctx, s.Store, s, log)
	if err != nil {
		return err
	}
	m := newMetrics(s)
	store = timedstore.New(store, time.Now, m.StoreAsked)
	if s.CacheTTL > 0 {
		store = cachestore.New(store, s.CacheTTL, s.CacheSize, time.Now)
	}
	defer func() { err = errors.Join(err, store.Close()) }()

	client := newAuthClient(s)
	if client != nil {
		defer client.Close()
	}

	providers, err := openProviders(s)
	if err != nil {
		return err
	}
	defer providers.close()

	b := usecase.New(store, usecase.Config{
		Providers: providers.toUse(s, client),
		ProofAge:  s.ReauthenticateAfter,
		Lifetimes: domain.Lifetimes{
			Access: s.AccessTokenLifetime, Refresh: s.RefreshTokenLifetime,
			Idle: s.IdleTimeout, Absolute: s.AbsoluteLifetime,
			Margin: s.RefreshMargin, Ahead: s.RefreshAhead,
		},
		TouchInterval: s.TouchInterval,
		AuthTimeout:   s.AuthTimeout,
		Now:           time.Now,
		Random:        rand.Reader,
		Log:           log,
		Metrics:       m,
	})
	hide, err := show(ctx, s, m, b, log)
	if err != nil {
		return err
	}
	defer hide()
	behind, stopBehind := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { b.Run(behind) })
	err = serveHTTP(ctx, l, cert, s, again, log, b, store, m, providers, client)
	// The work behind ends first, so that what it gives back is drained too.
	stopBehind()
	running.Wait()
	drain, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ShutdownGrace)
	defer cancel()
	b.Drain(drain)
	log.InfoContext(ctx, "stopped")
	return err
}

// serveHTTP puts the surface over b and serves it until ctx ends and what was
// under way then is done or out of time.
func serveHTTP(ctx context.Context, l net.Listener, cert *certificate.Pair, s settings.Settings, again Reload, log *slog.Logger, b *usecase.Broker, store repo.Store, m *metrics.Metrics, providers providers, client *authapi.Client) error {
	pages, err := web.New()
	if err != nil {
		return fmt.Errorf("pages: %w", err)
	}
	table, engines, err := newTable(s, nil, log)
	if err != nil {
		return fmt.Errorf("routes: %w", err)
	}
	tellOverlaps(ctx, s.Routes, log)
	surface := surface(s, log, m)
	if surface.Providers, err = providers.toShow(s, client, pages); err != nil {
		return err
	}
	if surface.Seal, err = pendingKeys(s); err != nil {
		return err
	}
	h := routes.New(b, pages, table, surface)
	now := inForce{settings: s, engines: engines, surface: h, log: log}
	defer func() { now.engines.closeBut(nil) }()
	app := fiberapp.New(fiberapp.Config{ErrorHandler: h.Error, Expect: h.Expect, TrustedProxies: s.TrustedProxies, Logger: log})
	h.Mount(app)
	listening, stopListening := context.WithCancel(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	running.Go(func() { hearEnds(listening, store, h) })
	running.Go(func() { h.Watch(listening) })
	defer func() { stopListening(); running.Wait() }()

	if cert != nil {
		running.Go(func() { cert.Watch(listening, lookAtCertificate) })
		l = tls.NewListener(l, cert.TLS())
	}
	failed := make(chan error, 2)
	go func() { failed <- app.Listener(httpguard.Listener(l, guard(s, log))) }()
	log.InfoContext(ctx, "broker listens", "address", l.Addr().String(), "store", s.Store.Kind)
	stopCheck, err := serveCheck(ctx, s, log, h, failed)
	if err != nil {
		return errors.Join(err, app.Shutdown())
	}
	if s.Store.Kind == settings.SQLite || s.Store.Kind == settings.Memory {
		log.InfoContext(ctx, "this store serves one host; replicas on several need Redis or MongoDB")
	}

	for ctx.Err() == nil {
		select {
		case err := <-failed:
			return fmt.Errorf("serve: %w", err)
		case <-again.When:
			reloadCertificate(ctx, cert, log)
			now.reload(ctx, again.Load)
		case <-ctx.Done():
		}
	}
	log.InfoContext(ctx, "stopping: finishing what is under way", "grace", s.ShutdownGrace)
	h.Drain()
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.ShutdownGrace)
	defer cancel()
	stopped := make(chan error, 1)
	go func() { stopped <- app.ShutdownWithContext(grace) }() // it does not wait for tunnels
	h.CloseTunnels(grace)
	if err := <-stopped; err != nil {
		log.WarnContext(ctx, "some requests were cut off", "error", err)
	}
	h.FinishAnswers(grace)
	if err := stopCheck(grace); err != nil {
		log.WarnContext(ctx, "some checks of forward-auth were cut off", "error", err)
	}
	return nil
}

func guard(s settings.Settings, log *slog.Logger) httpguard.Config {
	return httpguard.Config{MaxConns: s.MaxConnections, Logger: log}
}

// serveCheck serves forward-auth on its own listener, if the settings name one,
// until stop is called. An end that nobody asked for goes to failed.
func serveCheck(ctx context.Context, s settings.Settings, log *slog.Logger, h *routes.Handlers, failed chan<- error) (stop func(context.Context) error, err error) {
	if s.ForwardAuthListen == "" {
		return func(context.Context) error { return nil }, nil
	}
	l, err := Listen(s.ForwardAuthListen)
	if err != nil {
		return nil, fmt.Errorf("%w (the setting forward-auth-listen)", err)
	}
	app := fiberapp.New(fiberapp.Config{ErrorHandler: h.Error, TrustedProxies: s.TrustedProxies, Logger: log})
	h.MountCheck(app)
	go func() { failed <- app.Listener(httpguard.Listener(l, guard(s, log))) }()
	log.InfoContext(ctx, "forward-auth listens", "address", l.Addr().String())
	return app.ShutdownWithContext, nil
}

// resubscribeAfter is the pause before a subscription that failed is made anew.
const resubscribeAfter = 100 * time.Millisecond

// hearEnds cuts what a device has under way as soon as the store tells that it
// was signed out, here or on another replica, until ctx ends.
func hearEnds(ctx context.Context, store repo.Store, h *routes.Handlers) {
	var rechecks sync.WaitGroup
	defer rechecks.Wait()
	for ctx.Err() == nil {
		_ = store.Subscribe(ctx, func(e repo.Event) {
			switch e.Kind {
			case repo.Ended:
				h.DeviceEnded(e.DeviceID)
			case repo.Changed:
				h.DeviceChanged(e.DeviceID)
			case repo.Gap:
				rechecks.Go(func() { h.Recheck(ctx) }) // not here, where it would hold up events
			}
		})
		select {
		case <-ctx.Done():
		case <-time.After(resubscribeAfter):
		}
	}
}

// surface is what the HTTP surface is told of the settings.
func surface(s settings.Settings, log *slog.Logger, m *metrics.Metrics) routes.Config {
	c := routes.Config{
		Prefix:         s.Prefix,
		TrustedProxies: s.TrustedProxies,
		SameSiteStrict: strings.EqualFold(s.CookieSameSite, "strict"),
		Registration:   s.AuthURL != nil && s.AuthRegisterPath != "",
		NoPasswords:    s.AuthURL == nil,

		AbsoluteLifetime: s.AbsoluteLifetime,
		Now:              time.Now,
		Log:              log,
		Metrics:          m,
	}
	if s.PublicURL != nil {
		c.PublicOrigin = s.PublicURL.Scheme + "://" + s.PublicURL.Host
		c.SecureCookie = s.PublicURL.Scheme == "https"
	}
	if c.SecureCookie {
		c.HSTS = s.HSTS
	}
	for _, o := range s.AllowedOrigins {
		c.AllowedOrigins = append(c.AllowedOrigins, o.Scheme+"://"+o.Host)
	}
	return c
}
