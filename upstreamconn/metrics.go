package upstreamconn

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
	"piko/router"
	"piko/tunnel"
)

// metrics are v0.9.0's, and why tunnels end.
type metrics struct {
	requests    prometheus.Counter
	disconnects *prometheus.CounterVec
	shed        prometheus.Counter
	refused     *prometheus.CounterVec
	streams     prometheus.Counter
}

// newMetrics registers nothing if reg is nil.
func newMetrics(reg prometheus.Registerer, table *router.Table, list func() []*upstream) *metrics {
	m := &metrics{
		requests: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_upstreams_upstream_requests_total",
			Help: "Number of requests sent to an upstream connected to this node.",
		}),
		disconnects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_upstreams_disconnects_total",
			Help: "Number of tunnels that ended, by reason.",
		}, []string{"reason"}),
		shed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_upstreams_shed_total",
			Help: "Number of tunnels asked to move to another node because this one had more than its share.",
		}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_upstreams_refused_total",
			Help: "Number of tunnels that were refused, by the error's code.",
		}, []string{"code"}),
		streams: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_upstreams_streams_opened_total",
			Help: "Number of streams opened in tunnels; requests beyond that were sent on streams that had carried others.",
		}),
	}
	for _, code := range fault.Codes() {
		m.refused.WithLabelValues(string(code))
	}
	for _, reason := range disconnectLabels {
		m.disconnects.WithLabelValues(reason)
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.requests, m.disconnects, m.shed, m.refused, m.streams, newTunnelCollector(list),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "piko_upstreams_connected_upstreams",
			Help: "Number of upstreams connected to this node.",
		}, func() float64 { _, upstreams := table.Totals(); return float64(upstreams) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "piko_upstreams_registered_endpoints",
			Help: "Number of endpoints with an upstream connected to this node.",
		}, func() float64 { endpoints, _ := table.Totals(); return float64(endpoints) }),
	)
	return m
}

// disconnectLabels are all values that disconnectLabel has.
var disconnectLabels = []string{"closed_by_us", "closed_by_peer", "dead", "protocol_error", "network"}

// disconnectLabel is the label value for why a tunnel ended.
func disconnectLabel(err error) string {
	_, protocol := errors.AsType[*tunnel.ProtocolError](err)
	switch {
	case errors.Is(err, tunnel.ErrClosedByUs):
		return "closed_by_us"
	case errors.Is(err, tunnel.ErrClosedByPeer):
		return "closed_by_peer"
	case errors.Is(err, tunnel.ErrDead):
		return "dead"
	case protocol:
		return "protocol_error"
	}
	return "network"
}
