// Package metrics counts what the broker does and shows it in Prometheus's
// format, on an address of its own. It knows how to count and how to show;
// what a refresh, a session or a stream is, the packages know that tell it:
// usecase through an interface of its own, so that it need not know this
// package, and routes directly. docs/metrics.md has the meaning of each series,
// and a test in app/broker compares it with what is shown.
//
// A label is a word from a fixed list, or the path of a route in the settings:
// never a token, an address or a device. Nothing is allocated for counting
// what a request does.
package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

const namespace = "cloakroom"

// Who cut a stream before its end.
const (
	CutByDevice   = "device"   // it was signed out
	CutByClient   = "client"   // it hung up
	CutByUpstream = "upstream" // it broke off, or a tunnel was silent for too long
	CutByStop     = "stop"     // the broker stops
)

// Metrics are all series. A nil *Metrics counts nothing.
type Metrics struct {
	registry  *prometheus.Registry
	providers []string

	refreshes      counters
	shared         prometheus.Counter // one of refreshes
	refreshSeconds histograms
	waiters        prometheus.Gauge
	waitSeconds    prometheus.Histogram
	leaseLost      prometheus.Counter
	refusesBroker  *prometheus.GaugeVec
	logins         *prometheus.CounterVec
	ended          counters
	revocations    counters
	streamsOpen    prometheus.Gauge
	streamsCut     counters
	proxied        *prometheus.CounterVec
	routes         map[string]*[len(statusClasses)]prometheus.Counter
	storeSeconds   histograms
	storeErrors    counters
	csrfRefused    counters
}

// statusClasses are the values of the label status.
var statusClasses = [...]string{"1xx", "2xx", "3xx", "4xx", "5xx", "client_gone"}

// statusClientGone is how routes logs a request whose client hung up before there
// was an answer.
const statusClientGone = 499

// Words are the values of the labels that others choose. All are shown from the
// start, as zero, so that an alert need not wait for the first.
type Words struct {
	Outcomes    []string // of a refresh
	Shared      string   // beside them, for a request that joins one
	Providers   []string // the ways to sign in
	Results     []string // of signing in
	Reasons     []string // why a session ends
	Revocations []string // results
	Refusals    []string // of CSRF
	Routes      []string // paths
	StoreOps    []string
}

// refreshBuckets reach from a quick auth server to the longest refresh that
// there can be, in seconds.
var refreshBuckets = []float64{.005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 20, 40, 80}

// New makes a registry of its own.
func New(w Words) *Metrics {
	m := &Metrics{registry: prometheus.NewRegistry(), providers: w.Providers}
	add := m.registry.MustRegister
	add(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))

	m.refreshes = newCounters(add, "refreshes_total", "Refreshes by how they ended; shared: requests that joined one.", "outcome", w.Outcomes)
	m.shared = m.refreshes.of(w.Shared)
	m.refreshSeconds = newHistograms(add, "refresh_duration_seconds", "How long refreshes took, from the request that began one to the stored result.", "outcome",
		refreshBuckets, w.Outcomes)
	m.waiters = gauge(add, "refresh_waiters", "Requests that wait for a refresh.")
	m.waitSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Namespace: namespace, Name: "refresh_wait_seconds", Help: "How long requests waited for a refresh; those that did not are not counted.", Buckets: refreshBuckets,
	})
	add(m.waitSeconds)
	m.leaseLost = prometheus.NewCounter(opts("refresh_lease_lost_total", "Leases that were over, or another's, when they were to be renewed."))
	add(m.leaseLost)
	m.refusesBroker = prometheus.NewGaugeVec(prometheus.GaugeOpts(opts("auth_refuses_broker",
		"1 if the auth server's last answer to a refresh refused the broker itself: an operator is needed.")), []string{"provider"})
	add(m.refusesBroker)
	m.logins = prometheus.NewCounterVec(opts("logins_total", "Tries to sign in."), []string{"method", "result"})
	for _, method := range w.Providers {
		m.AuthRefusesBroker(method, false)
		for _, result := range w.Results {
			m.logins.WithLabelValues(method, result)
		}
	}
	add(m.logins)
	m.ended = newCounters(add, "sessions_ended_total", "Devices that were signed out.", "reason", w.Reasons)
	m.revocations = newCounters(add, "revocations_total", "Calls that tell the auth server to forget a pair, and pairs that were given up.", "result", w.Revocations)
	m.streamsOpen = gauge(add, "streams_open", "Answers on their way through the proxy that are not handed on in one piece.")
	m.streamsCut = newCounters(add, "streams_cut_total", "Streams that ended before their end.", "by", []string{CutByDevice, CutByClient, CutByUpstream, CutByStop})
	m.proxied = prometheus.NewCounterVec(opts("proxied_requests_total", "Requests to a route that have ended."), []string{"route", "status"})
	m.routes = make(map[string]*[len(statusClasses)]prometheus.Counter, len(w.Routes))
	for _, route := range w.Routes {
		m.routes[route] = new([len(statusClasses)]prometheus.Counter)
		for i, class := range statusClasses {
			m.routes[route][i] = m.proxied.WithLabelValues(route, class)
		}
	}
	add(m.proxied)
	m.storeSeconds = newHistograms(add, "store_operation_seconds", "How long the store took.", "op",
		[]float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}, w.StoreOps)
	m.storeErrors = newCounters(add, "store_errors_total", "Calls of the store that brought no answer.", "op", w.StoreOps)
	m.csrfRefused = newCounters(add, "csrf_refused_total", "Requests that did not prove that they come from our own pages.", "reason", w.Refusals)
	return m
}

// Read are values that are asked for when somebody looks.
type Read struct {
	BreakerOpen        func(provider string) bool
	Refreshing         func() int
	RevocationsPending func() int
}

// Watch adds values that are read when somebody looks. It is called once.
func (m *Metrics) Watch(r Read) {
	watch := func(name, help string, labels prometheus.Labels, read func() float64) {
		o := prometheus.GaugeOpts(opts(name, help))
		o.ConstLabels = labels
		m.registry.MustRegister(prometheus.NewGaugeFunc(o, read))
	}
	for _, p := range m.providers {
		watch("auth_breaker_open", "1 while refreshes are held back because the auth server has been failing.", prometheus.Labels{"provider": p}, func() float64 {
			if r.BreakerOpen(p) {
				return 1
			}
			return 0
		})
	}
	watch("refreshes_running", "Refreshes that are under way.", nil, func() float64 { return float64(r.Refreshing()) })
	watch("revocations_pending", "Pairs that the auth server is still to be told to forget.", nil, func() float64 { return float64(r.RevocationsPending()) })
}

// Refreshed counts a refresh that has ended.
func (m *Metrics) Refreshed(outcome string, took time.Duration) {
	if m == nil {
		return
	}
	m.refreshes.of(outcome).Inc()
	m.refreshSeconds.of(outcome).Observe(took.Seconds())
}

// RefreshShared counts a request that has joined a refresh.
func (m *Metrics) RefreshShared() {
	if m != nil {
		m.shared.Inc()
	}
}

// RefreshAwaited notes that a request begins to wait for a refresh.
func (m *Metrics) RefreshAwaited() {
	if m != nil {
		m.waiters.Inc()
	}
}

// RefreshWaited notes that a request does not wait any more, and for how long
// it did.
func (m *Metrics) RefreshWaited(took time.Duration) {
	if m != nil {
		m.waiters.Dec()
		m.waitSeconds.Observe(took.Seconds())
	}
}

// LeaseLost counts a lease that was lost.
func (m *Metrics) LeaseLost() {
	if m != nil {
		m.leaseLost.Inc()
	}
}

// AuthRefusesBroker notes whether a provider refuses the broker itself.
func (m *Metrics) AuthRefusesBroker(provider string, refuses bool) {
	if m == nil {
		return
	}
	v := 0.0
	if refuses {
		v = 1
	}
	m.refusesBroker.WithLabelValues(provider).Set(v)
}

// SignedIn counts a try to sign in.
func (m *Metrics) SignedIn(method, result string) {
	if m != nil {
		m.logins.WithLabelValues(method, result).Inc()
	}
}

// SessionEnded counts a device that was signed out.
func (m *Metrics) SessionEnded(reason string) {
	if m != nil {
		m.ended.of(reason).Inc()
	}
}

// Revoked counts what became of a revocation.
func (m *Metrics) Revoked(result string) {
	if m != nil {
		m.revocations.of(result).Inc()
	}
}

// Proxied counts a request to a route that has ended with a status.
func (m *Metrics) Proxied(route string, status int) {
	if m == nil {
		return
	}
	class := status/100 - 1
	switch {
	case status == statusClientGone:
		class = len(statusClasses) - 1
	case class < 0 || class > 4:
		class = 4
	}
	if known := m.routes[route]; known != nil {
		known[class].Inc()
		return
	}
	m.proxied.WithLabelValues(route, statusClasses[class]).Inc()
}

// StreamOpened notes that a stream has begun.
func (m *Metrics) StreamOpened() {
	if m != nil {
		m.streamsOpen.Inc()
	}
}

// StreamEnded notes that a stream has ended; by says who cut it, "" if nobody
// did.
func (m *Metrics) StreamEnded(by string) {
	if m == nil {
		return
	}
	m.streamsOpen.Dec()
	if by != "" {
		m.streamsCut.of(by).Inc()
	}
}

// StoreAsked notes how long a call of the store took, and whether it brought no
// answer.
func (m *Metrics) StoreAsked(op string, took time.Duration, failed bool) {
	if m == nil {
		return
	}
	m.storeSeconds.of(op).Observe(took.Seconds())
	if failed {
		m.storeErrors.of(op).Inc()
	}
}

// CSRFRefused counts a request that was refused.
func (m *Metrics) CSRFRefused(reason string) {
	if m != nil {
		m.csrfRefused.of(reason).Inc()
	}
}
