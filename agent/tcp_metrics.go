package agent

import "github.com/prometheus/client_golang/prometheus"

// tcpMetrics are those of TCP listeners, which v0.9.0 had nothing for.
type tcpMetrics struct {
	open  *prometheus.GaugeVec   // endpoint
	total *prometheus.CounterVec // endpoint, result
	bytes *prometheus.CounterVec // endpoint, direction
}

// Values of the label "result".
const (
	resultClosed = "closed" // both ways ended in order
	resultReset  = "reset"  // one side failed, or the connection was cut
	resultFailed = "failed" // the service was not reached
)

func newTCPMetrics() *tcpMetrics {
	return &tcpMetrics{
		open: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_agent_connections_open", Help: "TCP connections that are being forwarded to the service, those included that wait for it."}, []string{"endpoint"}),
		total: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_connections_total", Help: "TCP connections that have ended: closed in order, reset by either side or cut, or failed because the service was not reached."}, []string{"endpoint", "result"}),
		bytes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_connection_bytes_total", Help: "Bytes of TCP connections that have ended: in from the client, out to it."}, []string{"endpoint", "direction"}),
	}
}

func (m *tcpMetrics) collectors() []prometheus.Collector {
	return []prometheus.Collector{m.open, m.total, m.bytes}
}

// tcpListenerMetrics are the children of one endpoint. Safe for concurrent use.
type tcpListenerMetrics struct {
	open                  prometheus.Gauge
	closed, reset, failed prometheus.Counter
	bytesIn, bytesOut     prometheus.Counter
}

func (m *tcpMetrics) listener(endpoint string) *tcpListenerMetrics {
	return &tcpListenerMetrics{
		open:     m.open.WithLabelValues(endpoint),
		closed:   m.total.WithLabelValues(endpoint, resultClosed),
		reset:    m.total.WithLabelValues(endpoint, resultReset),
		failed:   m.total.WithLabelValues(endpoint, resultFailed),
		bytesIn:  m.bytes.WithLabelValues(endpoint, "in"),
		bytesOut: m.bytes.WithLabelValues(endpoint, "out"),
	}
}

// done counts a connection that has ended.
func (m *tcpListenerMetrics) done(c *tcpConn) {
	m.open.Dec()
	m.bytesIn.Add(float64(c.received))
	m.bytesOut.Add(float64(c.sent))
	switch {
	case c.status != 0:
		m.failed.Inc()
	case c.err != nil:
		m.reset.Inc()
	default:
		m.closed.Inc()
	}
}
