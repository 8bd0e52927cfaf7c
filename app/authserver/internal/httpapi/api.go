// Package httpapi is the auth server's HTTP surface: it reads a request, calls
// one method of signin.Service, and writes the answer in JSON. It decides
// nothing about accounts. There are no cookies here and no pages, so there is
// nothing for another site to forge: every call carries what it is allowed by.
package httpapi

import (
	"context"
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"cloakroom/app/authserver/internal/accounts"
	"cloakroom/app/authserver/internal/signin"
)

const (
	// maxBody is room for the longest password with every character escaped.
	maxBody = 16 << 10
	// answerWithin bounds what a request waits for: a turn to hash, the
	// database's writer.
	answerWithin = 15 * time.Second
	// readyWithin bounds the readiness check, which a prober asks for often.
	readyWithin = 2 * time.Second
)

type api struct {
	service *signin.Service
	store   *accounts.Store
	jwks    []byte
	trusted []netip.Prefix
	log     *slog.Logger
}

// New returns the handler. trusted are the proxies whose X-Forwarded-For is
// believed.
func New(service *signin.Service, trusted []netip.Prefix, log *slog.Logger) http.Handler {
	a := &api{service: service, store: service.Accounts, jwks: service.Signer.JWKS(), trusted: trusted, log: log}
	mux := http.NewServeMux()
	route := func(method, path string, handle func(http.ResponseWriter, *http.Request) error) {
		mux.Handle(method+" "+path, a.answered(handle))
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Allow", method)
			writeProblem(w, problem{http.StatusMethodNotAllowed, "method_not_allowed", "This address answers " + method + " only."})
		})
	}
	route("POST", "/api/v1/register", a.register)
	route("POST", "/api/v1/login", a.login)
	route("POST", "/api/v1/login/google", a.exchange)
	route("POST", "/api/v1/refresh", a.refresh)
	route("POST", "/api/v1/logout", a.logout)
	route("POST", "/api/v1/verify", a.verify)
	route("GET", "/api/v1/about_me", a.aboutMe)
	route("GET", "/about_me", a.aboutMe)
	route("GET", "/.well-known/jwks.json", a.keySet)
	route("GET", "/health/live", a.live)
	route("GET", "/health/ready", a.ready)
	mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) {
		writeProblem(w, problem{http.StatusNotFound, "not_found", "There is nothing at this address."})
	})
	return guarded(mux)
}

// guarded bounds every request and keeps every answer out of caches: most of
// them are tokens.
func guarded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		r.Body = http.MaxBytesReader(w, r.Body, maxBody)
		ctx, cancel := context.WithTimeout(r.Context(), answerWithin)
		defer cancel()
		next.ServeHTTP(w, r.WithContext(ctx))
	})
}

// answered turns the error of a handler into its answer, and logs those that
// are nobody's fault but ours.
func (a *api) answered(handle func(http.ResponseWriter, *http.Request) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		err := handle(w, r)
		if err == nil {
			return
		}
		// A database call that was cut short does not always say why.
		if over := r.Context().Err(); over != nil {
			err = errors.Join(err, over)
		}
		answer := problemOf(w, err)
		if answer.status == http.StatusInternalServerError {
			a.log.ErrorContext(r.Context(), "request failed", "method", r.Method, "path", r.URL.Path, "error", err)
		}
		writeProblem(w, answer)
	})
}
