package agent

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// checksMetrics are those of all health checks.
type checksMetrics struct {
	healthy *prometheus.GaugeVec   // endpoint
	checks  *prometheus.CounterVec // endpoint, result
}

func newChecksMetrics() *checksMetrics {
	return &checksMetrics{
		healthy: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_agent_listeners_healthy", Help: "Listeners whose service passes its health checks; there is none for endpoints without such."}, []string{"endpoint"}),
		checks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_health_checks_total", Help: "Health checks of services, by their result."}, []string{"endpoint", "result"}),
	}
}

func (m *checksMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.healthy, m.checks}
}

// listener returns the children of an endpoint for one listener.
func (m *checksMetrics) listener(endpoint string) *checkMetrics {
	return &checkMetrics{
		healthy: m.healthy.WithLabelValues(endpoint),
		passed:  m.checks.WithLabelValues(endpoint, "passed"),
		failed:  m.checks.WithLabelValues(endpoint, "failed"),
	}
}

// checkMetrics are those of one listener, which shares the gauge with others on
// its endpoint.
type checkMetrics struct {
	healthy        prometheus.Gauge
	passed, failed prometheus.Counter
	counted        atomic.Bool // in healthy
}

func (m *checkMetrics) set(healthy bool) {
	if was := m.counted.Swap(healthy); was != healthy {
		if healthy {
			m.healthy.Inc()
		} else {
			m.healthy.Dec()
		}
	}
}

func (m *checkMetrics) count(passed bool) {
	if passed {
		m.passed.Inc()
	} else {
		m.failed.Inc()
	}
}
