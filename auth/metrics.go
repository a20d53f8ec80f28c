package auth

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of one Guard.
type metrics struct {
	refusals     *prometheus.CounterVec
	hits, misses prometheus.Counter
}

// newMetrics registers them. Several ports share the names, so the port is a
// constant label.
func newMetrics(opt Options, verifiers func() []*Verifier) (*metrics, error) {
	labels := prometheus.Labels{"port": opt.Port}
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels})
	}
	m := &metrics{
		refusals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_auth_refusals_total", Help: "Requests that authentication refused, by reason.", ConstLabels: labels,
		}, []string{"reason"}),
		hits:   counter("piko_auth_token_cache_hits_total", "Tokens that had been verified before."),
		misses: counter("piko_auth_token_cache_misses_total", "Tokens that had to be verified, good ones and others."),
	}
	if opt.Registerer == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.refusals, m.hits, m.misses, &keySetCollector{verifiers: verifiers,
		age:      prometheus.NewDesc("piko_auth_jwks_age_seconds", "Time since the key set was last fetched; of several, the oldest.", nil, labels),
		success:  prometheus.NewDesc("piko_auth_jwks_last_success_timestamp_seconds", "When the key set was last fetched; of several, the oldest; 0 is never.", nil, labels),
		failures: prometheus.NewDesc("piko_auth_jwks_failures_total", "Fetches of key sets that failed.", nil, labels),
		keys:     prometheus.NewDesc("piko_auth_jwks_keys", "Keys in the key sets.", nil, labels),
	}} {
		if err := opt.Registerer.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (m *metrics) refused(r reason) { m.refusals.WithLabelValues(string(r)).Inc() }

func (m *metrics) verified(isNew bool) {
	if isNew {
		m.misses.Inc()
	} else {
		m.hits.Inc()
	}
}

// keySetCollector tells of key sets that are fetched, if there are any.
type keySetCollector struct {
	verifiers                    func() []*Verifier
	age, success, failures, keys *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c *keySetCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.age, c.success, c.failures, c.keys} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *keySetCollector) Collect(ch chan<- prometheus.Metric) {
	var failures, keys float64
	var oldest int64
	sources := 0
	for _, v := range c.verifiers() {
		if v.source == nil {
			continue
		}
		if at := v.source.success.Load(); sources == 0 || at < oldest {
			oldest = at
		}
		sources++
		failures += float64(v.source.failures.Load())
		if ks := v.source.set.Load(); ks != nil {
			for _, list := range ks.byFamily {
				keys += float64(len(list))
			}
		}
	}
	if sources == 0 {
		return
	}
	ch <- prometheus.MustNewConstMetric(c.failures, prometheus.CounterValue, failures)
	ch <- prometheus.MustNewConstMetric(c.keys, prometheus.GaugeValue, keys)
	ch <- prometheus.MustNewConstMetric(c.success, prometheus.GaugeValue, float64(oldest)/1e9)
	if oldest > 0 {
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, time.Since(time.Unix(0, oldest)).Seconds())
	}
}
