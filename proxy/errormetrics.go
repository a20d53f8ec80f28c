package proxy

import (
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
)

// Values of the label "code" beside those of package fault.
const (
	codeService = "service" // an answer of 500 or above that is the service's own
	codeOther   = "other"   // of an agent that knows codes that we do not
)

// errorMetrics counts what went wrong for clients, by code. The counters are there from the beginning: the rate of one that
// comes with its first error is 0. Safe for concurrent use.
type errorMetrics struct {
	// Static after construction.
	vec    *prometheus.CounterVec
	byCode map[string]prometheus.Counter
}

func newErrorMetrics() *errorMetrics {
	m := &errorMetrics{
		vec: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "piko_proxy_errors_total",
			Help: "Requests of clients that failed, by the code that the client got in x-piko-error; broken-off is a response that began and did not end, service an answer of 500 and above that is the service's own."}, []string{"code"}),
		byCode: make(map[string]prometheus.Counter),
	}
	for _, code := range fault.Codes() {
		m.byCode[string(code)] = m.vec.WithLabelValues(string(code))
	}
	for _, code := range []string{codeBrokenOff, codeService, codeOther} {
		m.byCode[code] = m.vec.WithLabelValues(code)
	}
	return m
}

func (m *errorMetrics) failed(code string) {
	c := m.byCode[code]
	if c == nil {
		c = m.byCode[codeOther]
	}
	c.Inc()
}

// countError counts the end of a request that failed. What its client did without an answer of ours, such as going away, is
// in the statuses only.
func (x *exchange) countError() {
	if x.status < http.StatusBadRequest && x.err == nil {
		return
	}
	values := x.header[headerError] // ours, or an agent's
	switch {
	case len(values) > 0:
		x.f.metrics.errors.failed(values[0])
	case x.status >= http.StatusInternalServerError:
		x.f.metrics.errors.failed(codeService)
	case x.err != nil && !x.upgraded && x.status != statusClientGone && !x.clientsFault(x.err):
		x.f.metrics.errors.failed(codeBrokenOff)
	}
}
