package forward

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are those of all ports. The endpoints are those of the configuration.
type metrics struct {
	open     *prometheus.GaugeVec     // endpoint
	total    *prometheus.CounterVec   // endpoint, result
	bytes    *prometheus.CounterVec   // endpoint, direction
	connects *prometheus.HistogramVec // endpoint
}

// Values of the label "result".
const (
	resultClosed = "closed" // both ways ended in order
	resultReset  = "reset"  // one side failed, or the connection was cut
	resultFailed = "failed" // the endpoint was not reached
)

// newMetrics registers the metrics; a nil reg leaves them unregistered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	m := &metrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_forward_connections_open", Help: "Connections that are being forwarded, those included that wait for the endpoint."}, []string{"endpoint"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_forward_connections_total", Help: "Connections that have ended: closed in order, reset by either side or cut, or failed because the endpoint was not reached."}, []string{"endpoint", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_forward_connection_bytes_total", Help: "Bytes of connections that have ended: in from the local program, out to it."}, []string{"endpoint", "direction"}),
		connects: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "piko_forward_connect_seconds", Help: "Time that it took to reach the endpoint, all attempts of a connection together.", Buckets: prometheus.DefBuckets}, []string{"endpoint"}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.open, m.total, m.bytes, m.connects} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// portMetrics are the children of one endpoint, which several ports may share.
// Safe for concurrent use.
type portMetrics struct {
	open                  prometheus.Gauge
	closed, reset, failed prometheus.Counter
	in, out               prometheus.Counter
	connect               prometheus.Observer
}

func (m *metrics) port(endpoint string) *portMetrics {
	return &portMetrics{
		open:    m.open.WithLabelValues(endpoint),
		closed:  m.total.WithLabelValues(endpoint, resultClosed),
		reset:   m.total.WithLabelValues(endpoint, resultReset),
		failed:  m.total.WithLabelValues(endpoint, resultFailed),
		in:      m.bytes.WithLabelValues(endpoint, "in"),
		out:     m.bytes.WithLabelValues(endpoint, "out"),
		connect: m.connects.WithLabelValues(endpoint),
	}
}

// done counts a connection that has ended, which had reached its endpoint.
func (m *portMetrics) done(in, out int64, err error) {
	m.in.Add(float64(in))
	m.out.Add(float64(out))
	if err != nil {
		m.reset.Inc()
	} else {
		m.closed.Inc()
	}
}
