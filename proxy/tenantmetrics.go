package proxy

import (
	"maps"
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// tenantMetrics counts requests by tenant. The tenants are those of the configuration: no client can make up series.
// Safe for concurrent use.
type tenantMetrics struct {
	// Static after construction.
	requests *prometheus.CounterVec // tenant, status

	byTenant atomic.Pointer[map[string]*[5]prometheus.Counter] // the index is the status class less 1
}

func newTenantMetrics() *tenantMetrics {
	m := &tenantMetrics{requests: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_proxy_tenant_requests_total", Help: "Requests of each configured tenant, by class of status."}, []string{"tenant", "status"})}
	m.byTenant.Store(&map[string]*[5]prometheus.Counter{})
	return m
}

// set says which tenants there are. The series of those that are no more end.
func (m *tenantMetrics) set(tenants []Tenant) {
	old, next := *m.byTenant.Load(), make(map[string]*[5]prometheus.Counter)
	for _, t := range tenants {
		id := t.id()
		if next[id] = old[id]; next[id] != nil {
			continue
		}
		next[id] = new([5]prometheus.Counter)
		for i := range next[id] {
			next[id][i] = m.requests.WithLabelValues(id, strconv.Itoa(i+1)+"xx")
		}
	}
	m.byTenant.Store(&next)
	for id := range maps.Keys(old) {
		if next[id] == nil {
			m.requests.DeletePartialMatch(prometheus.Labels{"tenant": id})
		}
	}
}

// observe counts a request that has ended.
func (m *tenantMetrics) observe(tenant string, status int) {
	if tenant == "" {
		return
	}
	if counters := (*m.byTenant.Load())[tenant]; counters != nil {
		counters[min(max(status/100, 1), 5)-1].Inc()
	}
}
