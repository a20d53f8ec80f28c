package agent

import (
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// metrics are the agent's, with v0.9.0's names and labels, and the state of
// the tunnels, which it had nothing for.
type metrics struct {
	inFlight  *prometheus.GaugeVec     // endpoint
	requests  *prometheus.CounterVec   // status, method, endpoint
	latency   *prometheus.HistogramVec // status, method, endpoint
	bytesIn   *prometheus.HistogramVec // endpoint
	bytesOut  *prometheus.HistogramVec // endpoint
	connected *prometheus.GaugeVec     // endpoint
	tunnels   *prometheus.GaugeVec     // endpoint
	connects  *prometheus.CounterVec   // endpoint
	failures  *prometheus.CounterVec   // endpoint
	lost      *prometheus.CounterVec   // endpoint
	cut       *prometheus.CounterVec   // endpoint
	tcp       *tcpMetrics
	health    *checksMetrics
}

// newMetrics registers the agent's metrics; a nil reg leaves them unregistered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	sizes := prometheus.ExponentialBuckets(256, 4, 8)
	byRequest := []string{"status", "method", "endpoint"}
	byEndpoint := []string{"endpoint"}
	m := &metrics{
		inFlight: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_agent_requests_in_flight", Help: "Requests that are being forwarded to the service, upgraded connections included."}, byEndpoint),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_requests_total", Help: "Requests that were forwarded to the service, or failed to be."}, byRequest),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "piko_agent_request_latency_seconds", Help: "Time from a request's header to the end of its response; not of upgraded connections.",
			Buckets: prometheus.DefBuckets}, byRequest),
		bytesIn: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "piko_agent_request_size_bytes", Help: "Bytes of request bodies.", Buckets: sizes}, byEndpoint),
		bytesOut: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "piko_agent_response_size_bytes", Help: "Bytes of response bodies.", Buckets: sizes}, byEndpoint),
		connected: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_agent_listeners_connected", Help: "Listeners that are connected to a node."}, byEndpoint),
		tunnels: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "piko_agent_listener_tunnels", Help: "Tunnels of listeners that are open, each to another node; not those that are being left."}, byEndpoint),
		connects: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_listener_connects_total", Help: "Tunnels that listeners have opened to nodes, the first ones included."}, byEndpoint),
		failures: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_listener_connect_failures_total", Help: "Attempts of listeners to open a tunnel that failed; not those that led to a node where the listener has one."}, byEndpoint),
		lost: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_listener_tunnels_lost_total", Help: "Tunnels of listeners that ended without having been left."}, byEndpoint),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_agent_requests_cut_total", Help: "Requests, upgraded and TCP connections that were cut when the grace period was over."}, byEndpoint),
		tcp: newTCPMetrics(), health: newChecksMetrics(),
	}
	if reg == nil {
		return m, nil
	}
	collectors := []prometheus.Collector{m.inFlight, m.requests, m.latency, m.bytesIn, m.bytesOut, m.connected, m.tunnels, m.connects, m.failures, m.lost, m.cut}
	for _, c := range slices.Concat(collectors, m.tcp.collectors(), m.health.collectors()) {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// listenerMetrics are the children of one endpoint, resolved beforehand, since
// finding one by its labels costs more than counting. Two listeners on one
// endpoint count into the same children. Safe for concurrent use.
type listenerMetrics struct {
	all      *metrics
	endpoint string

	inFlight  prometheus.Gauge
	bytesIn   prometheus.Observer
	bytesOut  prometheus.Observer
	connected prometheus.Gauge
	tunnels   prometheus.Gauge
	connects  prometheus.Counter
	failures  prometheus.Counter
	lost      prometheus.Counter
	cut       prometheus.Counter
	tcp       *tcpListenerMetrics // nil for HTTP

	// byStatus holds what was used so far: by method, then by status. The
	// tables of methods that never come are never made.
	byStatus [len(methods) + 1]atomic.Pointer[statusTable]
}

// statusTable has the children of one method; the index is the status less 100.
type statusTable [500]atomic.Pointer[requestMetrics]

type requestMetrics struct {
	requests prometheus.Counter
	latency  prometheus.Observer
}

// methods are the values of the label "method"; anything else is "other", so
// that clients cannot make up series.
var methods = [...]string{
	http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete,
	http.MethodOptions, http.MethodPatch, http.MethodTrace, http.MethodConnect,
}

func (m *metrics) listener(endpoint string) *listenerMetrics {
	return &listenerMetrics{
		all: m, endpoint: endpoint,
		inFlight:  m.inFlight.WithLabelValues(endpoint),
		bytesIn:   m.bytesIn.WithLabelValues(endpoint),
		bytesOut:  m.bytesOut.WithLabelValues(endpoint),
		connected: m.connected.WithLabelValues(endpoint),
		tunnels:   m.tunnels.WithLabelValues(endpoint),
		connects:  m.connects.WithLabelValues(endpoint),
		failures:  m.failures.WithLabelValues(endpoint),
		lost:      m.lost.WithLabelValues(endpoint),
		cut:       m.cut.WithLabelValues(endpoint),
	}
}

// request returns the children of a method and a status; a status that HTTP
// does not have counts as 500.
func (m *listenerMetrics) request(method string, status int) *requestMetrics {
	if status < 100 || status >= 100+len(statusTable{}) {
		status = http.StatusInternalServerError
	}
	i, name := methodIndex(method)
	table := m.byStatus[i].Load()
	if table == nil {
		m.byStatus[i].CompareAndSwap(nil, new(statusTable))
		table = m.byStatus[i].Load()
	}
	slot := &table[status-100]
	if r := slot.Load(); r != nil {
		return r
	}
	code := strconv.Itoa(status)
	r := &requestMetrics{
		requests: m.all.requests.WithLabelValues(code, name, m.endpoint),
		latency:  m.all.latency.WithLabelValues(code, name, m.endpoint),
	}
	slot.Store(r) // whoever is second stores the same children
	return r
}

func methodIndex(method string) (int, string) {
	for i, m := range methods {
		if m == method {
			return i, m
		}
	}
	return len(methods), "other"
}

// done counts a request that has ended.
func (m *listenerMetrics) done(method string, status int, took time.Duration, in, out int64) {
	r := m.request(method, status)
	r.requests.Inc()
	r.latency.Observe(took.Seconds())
	m.bytesIn.Observe(float64(in))
	m.bytesOut.Observe(float64(out))
}

// MetricsHandler answers GET /metrics with what g gathers and everything else
// with 404: the agent's own HTTP server, as package main binds it.
func MetricsHandler(g prometheus.Gatherer) http.Handler {
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(g, promhttp.HandlerOpts{
		MaxRequestsInFlight: 4,
		Timeout:             10 * time.Second,
		EnableOpenMetrics:   true,
		ErrorHandling:       promhttp.ContinueOnError,
	}))
	return mux
}
