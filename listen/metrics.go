package listen

import "github.com/prometheus/client_golang/prometheus"

// metrics of one port; its name is a constant label.
type metrics struct {
	refused    *prometheus.CounterVec // by reason
	handshakes *prometheus.CounterVec // that failed, by result
	errors     *prometheus.CounterVec // of accept, by error
}

// newMetrics registers nothing if reg is nil.
func newMetrics(reg prometheus.Registerer, l *Listener) *metrics {
	counter := func(name, help, label string, values ...string) *prometheus.CounterVec {
		v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
		for _, value := range values {
			v.WithLabelValues(value)
		}
		return v
	}
	m := &metrics{
		refused:    counter("piko_port_refused_total", "Number of connections that were closed, or restricted to proving that they are another node's, by reason.", "reason", refusals...),
		handshakes: counter("piko_port_handshakes_failed_total", "Number of connections that ended before their TLS handshake or PROXY header was complete, by result.", "result", "timeout", "gone", "failed"),
		errors:     counter("piko_port_accept_errors_total", "Number of times that the system gave an error instead of a connection, by error.", "error", errorDescriptors, errorOther),
	}
	if reg != nil {
		open := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "piko_port_connections", Help: "Number of open connections, those included that carry tunnels and other upgrades."},
			func() float64 { return float64(l.Open()) })
		prometheus.WrapRegistererWith(prometheus.Labels{"port": l.opt.Port}, reg).MustRegister(m.refused, m.handshakes, m.errors, open)
	}
	return m
}
