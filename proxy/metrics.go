package proxy

import (
	"fmt"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics are v0.9.0's of the proxy port, and what became of attempts. Safe for concurrent use.
type metrics struct {
	// Static after construction.
	inFlight  prometheus.Gauge
	requests  *prometheus.CounterVec   // status, method
	latency   *prometheus.HistogramVec // status, method
	bytesIn   prometheus.Histogram
	bytesOut  prometheus.Histogram
	retries   [retryKinds]prometheus.Counter
	exhausted prometheus.Counter
	ejections prometheus.Counter
	lapsed    prometheus.Counter
	tenants   *tenantMetrics
	errors    *errorMetrics
	*hopMetrics

	// byStatus caches children, since finding one by its labels costs more than counting: by method, then by status.
	byStatus [len(methods) + 1]atomic.Pointer[statusTable]
}

// statusTable has the children of one method; the index is the status less 100.
type statusTable [500]atomic.Pointer[requestMetrics]

type requestMetrics struct {
	requests prometheus.Counter
	latency  prometheus.Observer
}

// methods are the values of the label "method"; anything else is "other", so that clients cannot make up series.
var methods = [...]string{
	http.MethodGet, http.MethodPost, http.MethodHead, http.MethodPut, http.MethodDelete,
	http.MethodOptions, http.MethodPatch, http.MethodTrace, http.MethodConnect,
}

// retryKind says why a request was tried again.
type retryKind int

const (
	retryFree   retryKind = iota // it was never executed
	retryBudget                  // it is idempotent, and there was no response
	retryKinds
)

// newMetrics registers the metrics; a nil reg leaves them unregistered.
func newMetrics(reg prometheus.Registerer) (*metrics, error) {
	byRequest := []string{"status", "method"}
	sizes := prometheus.ExponentialBuckets(256, 4, 8)
	retries := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_proxy_retries_total", Help: "Requests that were sent to another upstream: free, since they were never executed, or charged to the budget, since they are idempotent."}, []string{"kind"})
	m := &metrics{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "piko_proxy_requests_in_flight", Help: "Requests that are being forwarded, upgraded connections included."}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_proxy_requests_total", Help: "Requests of clients."}, byRequest),
		latency: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "piko_proxy_request_latency_seconds", Help: "Time from a request's header to the end of its response; not of upgraded connections.",
			Buckets: prometheus.DefBuckets}, byRequest),
		bytesIn: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "piko_proxy_request_size_bytes", Help: "Bytes of request bodies.", Buckets: sizes}),
		bytesOut: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "piko_proxy_response_size_bytes", Help: "Bytes of response bodies.", Buckets: sizes}),
		exhausted: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_proxy_retry_budget_exhausted_total", Help: "Requests that could have been tried again, had there not been too many of them."}),
		ejections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_proxy_ejections_total", Help: "Times that an upstream, or another node for one endpoint, was avoided for a while since it had failed."}),
		lapsed: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_proxy_token_expiries_total", Help: "Requests and connections that were ended because the client's token expired while they were under way."}),
		tenants: newTenantMetrics(), errors: newErrorMetrics(),
	}
	var hops []prometheus.Collector
	m.hopMetrics, hops = newHopMetrics()
	m.retries[retryFree] = retries.WithLabelValues("free")
	m.retries[retryBudget] = retries.WithLabelValues("budget")
	if reg == nil {
		return m, nil
	}
	for _, c := range append(hops, m.inFlight, m.requests, m.latency, m.bytesIn, m.bytesOut, retries, m.exhausted, m.ejections, m.lapsed, m.tenants.requests, m.errors.vec) {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// observe counts a request that has ended; trace is that of its span, or "".
func (m *metrics) observe(method string, status int, d time.Duration, in, out int64, upgraded bool, trace string) {
	r := m.request(method, status)
	r.requests.Inc()
	if upgraded {
		return
	}
	if e, ok := r.latency.(prometheus.ExemplarObserver); ok && trace != "" {
		e.ObserveWithExemplar(d.Seconds(), prometheus.Labels{"trace_id": trace})
	} else {
		r.latency.Observe(d.Seconds())
	}
	m.bytesIn.Observe(float64(in))
	m.bytesOut.Observe(float64(out))
}

// request returns the children of a method and a status; a status that HTTP does not have counts as 500.
func (m *metrics) request(method string, status int) *requestMetrics {
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
	r := &requestMetrics{requests: m.requests.WithLabelValues(code, name), latency: m.latency.WithLabelValues(code, name)}
	slot.Store(r)
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
