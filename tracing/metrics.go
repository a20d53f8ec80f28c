package tracing

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are safe for concurrent use.
type metrics struct {
	exported prometheus.Counter
	full     prometheus.Counter // dropped: the queue was
	failed   prometheus.Counter // dropped: they could not be sent
	rejected prometheus.Counter // dropped: the collector says so
	limited  prometheus.Counter
	all      []prometheus.Collector
}

func newMetrics() *metrics {
	dropped := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_tracing_spans_dropped_total", Help: "Spans that were lost: the queue was full, they could not be sent in time, or the collector rejected them."}, []string{"reason"})
	m := &metrics{
		exported: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_tracing_spans_exported_total", Help: "Spans that the collector has taken."}),
		limited: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_tracing_limited_total", Help: "Requests that were to be sampled and were not, because of --tracing.max-rate."}),
		full:     dropped.WithLabelValues("queue-full"),
		failed:   dropped.WithLabelValues("not-sent"),
		rejected: dropped.WithLabelValues("rejected"),
	}
	m.all = []prometheus.Collector{m.exported, m.limited, dropped}
	return m
}

// register registers them; a nil reg leaves them unregistered.
func (m *metrics) register(reg prometheus.Registerer) error {
	if reg == nil {
		return nil
	}
	for _, c := range m.all {
		if err := reg.Register(c); err != nil {
			return fmt.Errorf("register metrics: %w", err)
		}
	}
	return nil
}
