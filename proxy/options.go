package proxy

import (
	"errors"
	"log/slog"
	"net/http"
	"net/netip"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/auth"
	"piko/limit"
	"piko/relay"
	"piko/router"
	"piko/stats"
	"piko/tracing"
)

// Defaults of Options.
const (
	defaultTimeout         = 30 * time.Second
	defaultProgressTimeout = 5 * time.Minute
)

// maxKept is how much of a request's body is kept so that it can be sent again.
const maxKept = 64 << 10

// Tenant is somebody with endpoints of their own.
type Tenant struct {
	// ID is in the grammar of tunnel.ParseTenant.
	ID string
	// Domains are the tenant's alone: hosts that are one of them, or below one, are the tenant's, and direct subdomains
	// name the tenant's endpoints. Of domains that lie within one another the longest counts.
	Domains []string
}

// Options are the settings of a handler. Only Lookup is required.
type Options struct {
	// Lookup says where requests for an endpoint, in canonical form, can go; nil means nowhere. It is called for every
	// request and must not block.
	Lookup func(endpoint string) *router.Route

	// NodeID is this node's name in the access log.
	NodeID string

	// Internal, if set, serves /_piko/v1/peer, where other nodes connect: anybody can ask for it. All else below
	// /_piko/ is 404. Its requests are neither counted nor logged here.
	Internal http.Handler

	// Timeout is how long an upstream may take from the last byte of the request to the header of its response. 0 is
	// 30 s, less than 0 for ever. It is never applied to gRPC, which has a time-out of its own, nor to upgrades.
	Timeout time.Duration
	// ReadTimeout ends a request whose body has a Content-Length and of which nothing came for so long, and
	// WriteTimeout a response of known length of which the client read nothing for so long: time-outs of progress, not
	// of the whole. 0 is 5 m, less than 0 for ever.
	ReadTimeout, WriteTimeout time.Duration
	// SendTimeout ends a request of which no upstream took anything for so long, while something of it was there: what the
	// client keeps back does not count. It holds for gRPC and for bodies without a length, too. 0 is 5 m, less than 0 for
	// ever.
	SendTimeout time.Duration

	// Domains restricts routing by host to direct subdomains of these, "example.com" for "my-endpoint.example.com".
	// None means that the first label of any host is an endpoint.
	Domains []string
	// Auth says who a client is and what it may ask for. nil lets everybody have everything.
	Auth *auth.Guard
	// Tenants have namespaces of their own: the endpoint e of tenant t is looked up as tunnel.JoinName(t, e). Whose a
	// request is Auth says, which has to know the same tenants.
	Tenants []Tenant
	// TrustedProxies are the clients whose X-Forwarded-* and Forwarded headers are believed, and appended to. Those of
	// others are replaced.
	TrustedProxies []netip.Prefix

	// Limits says which requests are taken at all; nil takes all.
	Limits *limit.Requests

	// Buffers counts the request bodies that are kept so that they can be sent again; nil is no limit for them.
	Buffers relay.Buffers

	// Held counts what net/http holds of uploads over HTTP/2 that do not move; those that it has no room for are ended. nil
	// is no limit.
	Held relay.Buffers

	// Draining, if set, is asked for each request; while it says true every HTTP/1 response closes its connection.
	Draining func() bool

	// Traffic counts requests by endpoint; nil counts none.
	Traffic *stats.Traffic

	// Tracer makes spans of requests; nil makes none.
	Tracer *tracing.Tracer

	// Logger gets why requests failed, at debug: the access log says it for everyone. nil discards.
	Logger *slog.Logger
	// AccessLog gets a record of each request. nil is off.
	AccessLog *accesslog.Logger
	// Registerer gets the metrics. nil is none.
	Registerer prometheus.Registerer
}

func (o *Options) setDefaults() error {
	if o.Lookup == nil {
		return errors.New("proxy: no Lookup")
	}
	if o.Timeout == 0 {
		o.Timeout = defaultTimeout
	}
	if o.ReadTimeout == 0 {
		o.ReadTimeout = defaultProgressTimeout
	}
	if o.WriteTimeout == 0 {
		o.WriteTimeout = defaultProgressTimeout
	}
	if o.SendTimeout == 0 {
		o.SendTimeout = defaultProgressTimeout
	}
	if o.Logger == nil {
		o.Logger = slog.New(slog.DiscardHandler)
	}
	return nil
}

// Public is the handler for clients, which are not trusted. Any number of goroutines may use it.
//
// The http.Server in front of it needs DisableGeneralOptionsHandler, since `OPTIONS *` is the service's to answer, and
// a ReadHeaderTimeout. Its ReadTimeout and WriteTimeout must be 0: they bound whole requests and responses. When its
// BaseContext ends, all requests are cut, upgraded connections included.
type Public struct {
	// Static after construction.
	forwarder
}

// NewPublic returns a handler. It fails if Options are contradictory or the metrics are registered already.
func NewPublic(opt Options) (*Public, error) {
	if err := opt.setDefaults(); err != nil {
		return nil, err
	}
	m, err := newMetrics(opt.Registerer)
	if err != nil {
		return nil, err
	}
	p := &Public{forwarder{opt: opt, metrics: m, budget: newBudget(time.Now())}}
	commit, err := p.PrepareTenants(opt.Domains, opt.Tenants)
	if err != nil {
		return nil, err
	}
	commit()
	return p, nil
}
