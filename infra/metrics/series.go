package metrics

import "github.com/prometheus/client_golang/prometheus"

func opts(name, help string) prometheus.CounterOpts {
	return prometheus.CounterOpts{Namespace: namespace, Name: name, Help: help}
}

func gauge(add func(...prometheus.Collector), name, help string) prometheus.Gauge {
	g := prometheus.NewGauge(prometheus.GaugeOpts(opts(name, help)))
	add(g)
	return g
}

// counters is a counter with one label. Its values are known, so that counting
// one takes a look into a map that never changes.
type counters struct {
	vec   *prometheus.CounterVec
	known map[string]prometheus.Counter
}

func newCounters(add func(...prometheus.Collector), name, help, label string, values []string) counters {
	c := counters{
		vec:   prometheus.NewCounterVec(opts(name, help), []string{label}),
		known: make(map[string]prometheus.Counter, len(values)),
	}
	for _, v := range values {
		c.known[v] = c.vec.WithLabelValues(v)
	}
	add(c.vec)
	return c
}

func (c counters) of(value string) prometheus.Counter {
	if known, ok := c.known[value]; ok {
		return known
	}
	return c.vec.WithLabelValues(value)
}

// histograms is a histogram with one label whose values are known.
type histograms struct {
	vec   *prometheus.HistogramVec
	known map[string]prometheus.Observer
}

func newHistograms(add func(...prometheus.Collector), name, help, label string, buckets []float64, values []string) histograms {
	h := histograms{
		vec: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Namespace: namespace, Name: name, Help: help, Buckets: buckets,
		}, []string{label}),
		known: make(map[string]prometheus.Observer, len(values)),
	}
	for _, v := range values {
		h.known[v] = h.vec.WithLabelValues(v)
	}
	add(h.vec)
	return h
}

func (h histograms) of(value string) prometheus.Observer {
	if known, ok := h.known[value]; ok {
		return known
	}
	return h.vec.WithLabelValues(value)
}
