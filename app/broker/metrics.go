package broker

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"cloakroom/infra/metrics"
	"cloakroom/infra/settings"
	"cloakroom/repo/timedstore"
	"cloakroom/routes"
	"cloakroom/usecase"
)

// newMetrics knows every word that the layers have for what they count.
func newMetrics(s settings.Settings) *metrics.Metrics {
	w := metrics.Words{
		Providers:   providerNames(s),
		Outcomes:    usecase.RefreshOutcomes,
		Shared:      usecase.RefreshShared,
		Results:     usecase.SignInResults,
		Reasons:     usecase.EndReasons,
		Revocations: usecase.RevokeResults,
		Refusals:    routes.CSRFRefusals,
		StoreOps:    timedstore.Ops,
	}
	for _, r := range s.Routes {
		w.Routes = append(w.Routes, r.Names()...)
	}
	return metrics.New(w)
}

// show shows the metrics where the settings say, until hide is called. Broken
// down or not, they stop nothing that serves people.
func show(ctx context.Context, s settings.Settings, m *metrics.Metrics, b *usecase.Broker, log *slog.Logger) (hide func(), err error) {
	if s.MetricsListen == "" {
		return func() {}, nil
	}
	m.Watch(metrics.Read{BreakerOpen: b.BreakerOpen, Refreshing: b.Refreshing, RevocationsPending: b.RevocationsPending})
	l, err := Listen(s.MetricsListen)
	if err != nil {
		return nil, fmt.Errorf("%w (the setting metrics-listen)", err)
	}
	log.InfoContext(ctx, "metrics are shown", "address", l.Addr().String())
	// Until the very end: what happens while the broker stops is of interest.
	ctx, stop := context.WithCancel(context.WithoutCancel(ctx))
	var showing sync.WaitGroup
	showing.Go(func() { m.Serve(ctx, l, log) })
	return func() { stop(); showing.Wait() }, nil
}
