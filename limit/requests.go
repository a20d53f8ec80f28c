package limit

import (
	"errors"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
)

// Limits say how much is allowed. The zero value allows everything.
type Limits struct {
	// Requests, PerEndpoint and PerTenant bound what is in flight at once: on this node, for one endpoint of one
	// tenant, and for one tenant. Upgraded and TCP connections count until they end. 0 is no limit.
	Requests, PerEndpoint, PerTenant int
	// EndpointRate and TenantRate bound how many begin in a time.
	EndpointRate, TenantRate Rate
}

// Rate is a token bucket.
type Rate struct {
	PerSecond float64 // tokens that come in a second; 0 is no limit
	Burst     int     // tokens that the bucket holds; 0 is those of a second, and at least one
}

func (l *Limits) ofEndpoint() rule { return newRule(l.PerEndpoint, l.EndpointRate) }
func (l *Limits) ofTenant() rule   { return newRule(l.PerTenant, l.TenantRate) }

// Requests decides which requests a node takes. A nil *Requests takes all. Any number of goroutines may use it.
type Requests struct {
	// Static after construction.
	began   time.Time
	short   func() bool // whether memory is short; nil is never
	metrics *metrics

	limits atomic.Pointer[active] // nil: none
	_      [64]byte
	node   atomic.Int64 // requests in flight, while limits is not nil
	_      [64]byte

	endpoints, tenants table
}

// active is what Limits come to. It is static.
type active struct {
	requests         int64
	endpoint, tenant rule
}

// NewRequests returns what keeps the limits. short, if not nil, is asked for each request, and must be fast: while it
// says true none is taken. reg gets the metrics; nil is none. It fails if they are registered already.
func NewRequests(l Limits, short func() bool, reg prometheus.Registerer) (*Requests, error) {
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	r := &Requests{began: time.Now(), short: short, metrics: m}
	r.endpoints.init()
	r.tenants.init()
	r.Set(l)
	return r, nil
}

// Set replaces the limits. Requests in flight that no limit has counted yet are not counted later either.
func (r *Requests) Set(l Limits) {
	if l == (Limits{}) {
		r.limits.Store(nil)
		return
	}
	r.limits.Store(&active{requests: int64(l.Requests), endpoint: l.ofEndpoint(), tenant: l.ofTenant()})
}

// Pass is one request that was taken. The zero value is one that nobody counts.
type Pass struct {
	node             *atomic.Int64
	endpoint, tenant *entry
}

// End says that the request is over. It is called once.
func (p Pass) End() {
	if p.node != nil {
		p.node.Add(-1)
	}
	p.endpoint.end()
	p.tenant.end()
}

// Begin takes a request for an endpoint, or returns a *fault.Error: overloaded, or rate-limited with the time after
// which there is a token. name is the endpoint's, with its tenant if there is one, and "" for one that nobody serves:
// of such a name nothing is to be kept. tenant is "" if there is none. now is the present.
func (r *Requests) Begin(now time.Time, tenant, name string) (Pass, error) {
	if r == nil {
		return Pass{}, nil
	}
	if r.short != nil && r.short() {
		return Pass{}, r.refuse(refusedMemory, 0)
	}
	l := r.limits.Load()
	if l == nil {
		return Pass{}, nil
	}
	var p Pass
	if l.requests > 0 {
		p.node = &r.node
		if r.node.Add(1) > l.requests {
			p.End()
			return Pass{}, r.refuse(refusedNode, 0)
		}
	}
	at := int64(now.Sub(r.began))
	var after time.Duration
	var why reason
	if p.endpoint, after, why = r.endpoints.begin(name, l.endpoint, at); why != allowed {
		p.End()
		return Pass{}, r.refuse(refusedEndpoint+why-1, after)
	}
	if p.tenant, after, why = r.tenants.begin(tenant, l.tenant, at); why != allowed {
		p.endpoint.refund(l.endpoint)
		p.End()
		return Pass{}, r.refuse(refusedTenant+why-1, after)
	}
	return p, nil
}

// RefusedTunnel counts a request that a tunnel had no room for.
func (r *Requests) RefusedTunnel() {
	if r != nil {
		r.metrics.refused[refusedTunnel].Inc()
	}
}

// refuse makes the error of a request that is not taken. The causes are for the log.
func (r *Requests) refuse(why reason, after time.Duration) error {
	r.metrics.refused[why].Inc()
	return &fault.Error{Code: codes[why], RetryAfter: after, Err: causes[why]}
}

// reason is why a request is not taken.
type reason int

const (
	allowed reason = iota
	refusedEndpoint
	refusedEndpointRate // behind refusedEndpoint, as overRate is behind overCount
	refusedTenant
	refusedTenantRate
	refusedNode
	refusedTunnel
	refusedMemory
	reasons

	overCount = refusedEndpoint
	overRate  = refusedEndpointRate
)

// names are the values of the metric's label.
var names = [reasons]string{
	refusedEndpoint: "endpoint", refusedEndpointRate: "endpoint-rate", refusedTenant: "tenant", refusedTenantRate: "tenant-rate",
	refusedNode: "node", refusedTunnel: "tunnel", refusedMemory: "memory",
}

var codes = [reasons]fault.Code{
	refusedEndpoint: fault.Overloaded, refusedEndpointRate: fault.RateLimited, refusedTenant: fault.Overloaded,
	refusedTenantRate: fault.RateLimited, refusedNode: fault.Overloaded, refusedMemory: fault.Overloaded,
}

var causes = [reasons]error{
	refusedEndpoint:     errors.New("endpoint has as many requests in flight as it may"),
	refusedEndpointRate: errors.New("endpoint has no token left"),
	refusedTenant:       errors.New("tenant has as many requests in flight as it may"),
	refusedTenantRate:   errors.New("tenant has no token left"),
	refusedNode:         errors.New("node has as many requests in flight as it may"),
	refusedMemory:       errShort,
}
