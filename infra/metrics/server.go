package metrics

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus/promhttp"
)

const (
	// headTimeout and answerTimeout keep a client that dawdles from holding a
	// connection.
	headTimeout   = 5 * time.Second
	answerTimeout = 10 * time.Second
	idleTimeout   = time.Minute
	// looksAtOnce is how many may look at once; more are answered 503.
	looksAtOnce = 8
	closeWithin = time.Second
)

// Serve shows the metrics at /metrics on l, which it closes, until ctx ends. A
// listener that fails is told in log and stops nothing else.
func (m *Metrics) Serve(ctx context.Context, l net.Listener, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: looksAtOnce}))
	server := &http.Server{
		Handler:           mux,
		ReadHeaderTimeout: headTimeout, ReadTimeout: headTimeout, WriteTimeout: answerTimeout, IdleTimeout: idleTimeout,
		MaxHeaderBytes: 16 << 10,
		ErrorLog:       slog.NewLogLogger(log.Handler(), slog.LevelDebug),
	}
	closed := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(closed)
		within, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeWithin)
		defer cancel()
		if server.Shutdown(within) != nil {
			_ = server.Close()
		}
	})
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		log.ErrorContext(ctx, "metrics are not shown any more", "error", err)
	}
	if !stop() {
		<-closed
	}
}
