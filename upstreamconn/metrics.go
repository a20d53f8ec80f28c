package upstreamconn

import (
	"errors"

	"github.com/prometheus/client_golang/prometheus"

	"piko/router"
	"piko/tunnel"
)

// metrics are v0.9.0's, and why tunnels end.
type metrics struct {
	requests    prometheus.Counter
	disconnects *prometheus.CounterVec
	shed        prometheus.Counter
	refused     *prometheus.CounterVec
}

// newMetrics registers nothing if reg is nil.
func newMetrics(reg prometheus.Registerer, table *router.Table) *metrics {
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
	}
	if reg == nil {
		return m
	}
	reg.MustRegister(m.requests, m.disconnects, m.shed, m.refused,
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
