package auth

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
)

// Options are those of a Guard.
type Options struct {
	// Port is the name of the port: "proxy", "upstream" or "admin".
	Port string
	// Default is for all, unless there are Tenants: then it is not used.
	Default Config
	// Tenants have an auth section each.
	Tenants []Tenant
	// Logger gets refusals, at most a line a second; nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil keeps none.
	Registerer prometheus.Registerer
	// FailureRate is how many refusals a second one source, an IPv4 address or
	// an IPv6 network of 64 bits, may cause before it gets 429; 0 is 10. Five
	// times as many may come at once.
	FailureRate float64
}

// Tenant is one of several whose endpoints are apart.
type Tenant struct {
	// ID is the tenant's name in canonical form, in lower case.
	ID string
	// Auth is the tenant's own. Without any (not Enabled) the tenant can be
	// reached by its domains alone, and by everybody.
	Auth Config
	// Domains are the caller's to know.
	Domains []string
}

// Guard is the gate of one port: it authenticates requests. It is safe for
// concurrent use; a nil Guard lets everybody in.
type Guard struct {
	// Static after construction.
	port    string
	log     *slog.Logger
	metrics *metrics
	sources *limiter
	changed chan struct{} // rules are new; holds one

	rules      atomic.Pointer[rules]
	generation generation
	lines      logLimit

	warnExpiry, warnEndpoints sync.Once
}

// rules are what a Guard goes by at one time. Static once made.
type rules struct {
	all     *Verifier            // nil with tenants
	tenants map[string]*Verifier // by ID; nil for one without auth of its own
}

// NewGuard makes the Guard of a port: nil if nothing is configured. Its errors
// are those of NewVerifier, all that there are.
func NewGuard(opt Options) (*Guard, error) {
	if !opt.enabled() {
		return nil, nil
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	g := &Guard{port: opt.Port, log: opt.Logger, sources: newLimiter(opt.FailureRate), changed: make(chan struct{}, 1)}
	next, err := g.build(opt)
	if err != nil {
		return nil, err
	}
	g.rules.Store(next)
	g.metrics, err = newMetrics(opt, g.verifiers)
	return g, err
}

func (opt *Options) enabled() bool { return opt.Default.Enabled() || len(opt.Tenants) > 0 }

// build makes rules, with the key sets that the Guard has already.
func (g *Guard) build(opt Options) (*rules, error) {
	next := &rules{}
	was := g.rules.Load()
	if was == nil {
		was = &rules{}
	}
	if len(opt.Tenants) == 0 {
		v, err := g.verifier(opt.Default, was.all)
		next.all = v
		return next, err
	}
	next.tenants = make(map[string]*Verifier, len(opt.Tenants))
	var errs []error
	for _, t := range opt.Tenants {
		if _, ok := next.tenants[t.ID]; ok {
			errs = append(errs, fmt.Errorf("tenant %.64q is there twice; give each an id of its own", t.ID))
		}
		next.tenants[t.ID] = nil
		if t.Auth.Enabled() {
			v, err := g.verifier(t.Auth, was.tenants[t.ID])
			next.tenants[t.ID] = v
			errs = append(errs, err)
		}
	}
	return next, errors.Join(errs...)
}

// verifier makes one, which takes over the key set of the one before it.
func (g *Guard) verifier(cfg Config, was *Verifier) (*Verifier, error) {
	v, err := NewVerifier(cfg, g.log)
	if err == nil && v.source != nil && was != nil && was.source != nil && was.cfg.JWKS == cfg.JWKS {
		v.source.adopt(was.source)
	}
	return v, err
}

// verifiers are those of now.
func (g *Guard) verifiers() []*Verifier {
	r := g.rules.Load()
	var list []*Verifier
	for _, v := range r.tenants {
		if v != nil {
			list = append(list, v)
		}
	}
	if r.all != nil {
		list = append(list, r.all)
	}
	return list
}

// Run keeps key sets fresh until ctx ends, and returns nil then.
func (g *Guard) Run(ctx context.Context) error {
	if g == nil {
		<-ctx.Done()
		return nil
	}
	for ctx.Err() == nil {
		g.runOnce(ctx)
	}
	return nil
}

// runOnce runs the verifiers of now, until others are in their place.
func (g *Guard) runOnce(ctx context.Context) {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	for _, v := range g.verifiers() {
		if v.source != nil {
			running.Go(func() { v.source.run(ctx) })
		}
	}
	select {
	case <-g.changed:
	case <-ctx.Done():
	}
}

var errOnOff = errors.New("authentication cannot be turned on or off while the port is open; restart")

// Prepare makes everything that other keys, rules or tenants need, and changes
// nothing: commit does, at once and for all. Tokens that were verified are
// verified again after it. The port, the registerer and the rate stay.
func (g *Guard) Prepare(opt Options) (commit func(), err error) {
	if g == nil && !opt.enabled() {
		return func() {}, nil
	}
	if g == nil || !opt.enabled() {
		return nil, errOnOff
	}
	next, err := g.build(opt)
	if err != nil {
		return nil, err
	}
	return func() {
		g.rules.Store(next)
		g.generation.commits.Add(1)
		select {
		case g.changed <- struct{}{}:
		default:
		}
	}, nil
}

// Bearer is who sends a request.
type Bearer struct {
	// Grant is what the token allows; nil where there is no authentication.
	Grant *Grant
	// Tenant is whose endpoints the request is about; "" is none.
	Tenant string
	// Header is the canonical name of the header that held the token, which
	// nobody behind the port may see; "" is none.
	Header string
}

// Check authenticates a request. client is whom to count a refusal for, and
// domainTenant the tenant whose domain the request's host is in, or "". The
// error is a *fault.Error, which has been counted and logged; what is known of
// the sender comes with it.
func (g *Guard) Check(r *http.Request, client netip.Addr, domainTenant string) (Bearer, error) {
	if g == nil {
		return Bearer{}, nil
	}
	b, err := g.check(r, client, domainTenant)
	if err != nil {
		g.Refuse(client, b, err)
	}
	return b, err
}

func (g *Guard) check(r *http.Request, client netip.Addr, domainTenant string) (Bearer, error) {
	var b Bearer
	v, tenant, tenantErr := g.rules.Load().choose(r.Header, domainTenant)
	if tenantErr == nil && v == nil {
		return Bearer{Tenant: tenant}, nil
	}
	token, header, err := bearerToken(r.Header)
	b.Header = header
	if err != nil {
		return b, err
	}
	if tenantErr != nil {
		return b, tenantErr
	}
	b.Tenant = tenant
	// Those who were let in before stay in, whoever shares their address. They
	// meet no lock.
	if b.Grant = v.seen(token); b.Grant != nil {
		g.metrics.verified(false)
		return b, nil
	}
	if g.sources.isOver(client) {
		return b, because(fault.RateLimited, reasonRate)
	}
	b.Grant, err = g.verify(r.Context().Done(), v, token)
	return b, err
}

// verify asks a Verifier, and tells of tokens that allow more than they should.
func (g *Guard) verify(done <-chan struct{}, v *Verifier, token string) (*Grant, error) {
	grant, isNew, err := v.verify(done, token)
	g.metrics.verified(isNew)
	if err != nil || !isNew {
		return grant, err
	}
	if grant.claims.expiry.IsZero() {
		g.warnExpiry.Do(func() {
			g.log.Warn("a token without exp was used: it never expires; auth.require-expiry refuses such tokens", "port", g.port, "token", grant.ID(), "subject", grant.Subject())
		})
	}
	if !grant.claims.hasListOfOurs && g.port != "admin" {
		g.warnEndpoints.Do(func() {
			g.log.Warn("a token without a list of endpoints was used: it is good for all of them; auth.require-endpoints refuses such tokens", "port", g.port, "token", grant.ID(), "subject", grant.Subject())
		})
	}
	return grant, nil
}

// Verify is Check for a token that comes by another way than a request, such as
// the new one of a tunnel; tenant is "" for none. It may block for 5 s, as
// Verifier.Verify does. A nil Guard grants everything.
func (g *Guard) Verify(tenant, token string) (*Grant, error) {
	if g == nil {
		return nil, nil
	}
	r := g.rules.Load()
	v := r.all
	if len(r.tenants) > 0 || tenant != "" {
		v = r.tenants[tenant]
	}
	var grant *Grant
	err := error(because(fault.UnknownTenant, reasonTenant))
	if v != nil {
		grant, err = g.verify(nil, v, token)
	}
	if err != nil {
		g.Refuse(netip.Addr{}, Bearer{Tenant: tenant}, err)
	}
	return grant, err
}

// choose finds the verifier of a request: nil for a tenant that has none.
func (r *rules) choose(h http.Header, domainTenant string) (v *Verifier, tenant string, err error) {
	values := h[headerTenant]
	if len(values) > 1 {
		return nil, "", &fault.Error{Code: fault.MalformedRequest, Detail: "more than one x-piko-tenant-id", Err: &refusal{reason: reasonTwice}}
	}
	named := ""
	if len(values) == 1 {
		named = strings.ToLower(values[0])
	}
	if len(r.tenants) == 0 {
		if named != "" || domainTenant != "" {
			return nil, "", because(fault.UnknownTenant, reasonTenant)
		}
		return r.all, "", nil
	}
	if named != "" && domainTenant != "" && named != domainTenant {
		return nil, "", because(fault.UnknownTenant, reasonTenant)
	}
	tenant = domainTenant
	if tenant == "" {
		tenant = named
	}
	v, ok := r.tenants[tenant]
	if !ok || v == nil && domainTenant == "" {
		// A header is anybody's to send: it needs a token to be believed.
		return nil, "", because(fault.UnknownTenant, reasonTenant)
	}
	return v, tenant, nil
}
