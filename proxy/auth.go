package proxy

import (
	"errors"
	"fmt"

	"piko/fault"
	"piko/tunnel"
)

// The fields in which a client's credentials come, in canonical form.
const (
	headerAuthorization     = "Authorization"
	headerPikoAuthorization = "X-Piko-Authorization"
)

// enter finds out which endpoint the request is for and whether its client may have it. Who may have nothing learns
// nothing: neither which paths are reserved, nor what is wrong with an endpoint, nor, with a token for others, which
// endpoints there are. tcp is the endpoint of a request for a raw connection, if it is one.
func (x *exchange) enter(tcp string, isTCP bool) error {
	hosts, host := x.f.hosts.Load(), canonicalHost(x.r.Host)
	var wrong error
	if isTCP {
		x.endpoint, wrong = tunnel.ParseEndpoint(tcp)
	} else {
		x.endpoint, wrong = hosts.endpointOf(x.r, host)
	}
	if err := x.authenticate(hosts, host); err != nil {
		return err
	}
	switch {
	case !isTCP && isReserved(x.r.URL.Path):
		return fault.New(fault.ReservedPath, nil)
	case wrong != nil:
		return wrong
	case !x.bearer.Grant.MayConnect(x.endpoint):
		err := fault.New(fault.EndpointNotPermitted, nil)
		x.f.opt.Auth.Refuse(x.f.clientAddr(x.r).Addr(), x.bearer, err)
		return err
	}
	x.endpoint = tunnel.JoinName(x.bearer.Tenant, x.endpoint)
	return nil
}

// authenticate finds out who the client is. What it proved that with is gone from the request then: no log and no
// service shall see it. A field that was not looked at is the client's own, and stays.
func (x *exchange) authenticate(hosts *hosts, host string) error {
	if x.f.opt.Auth == nil {
		return nil
	}
	tenant, _ := hosts.tenant(host)
	bearer, err := x.f.opt.Auth.Check(x.r, x.f.clientAddr(x.r).Addr(), tenant)
	if err != nil {
		x.bearer.Tenant = tenant
		delete(x.r.Header, headerAuthorization)
		delete(x.r.Header, headerPikoAuthorization)
		return err
	}
	delete(x.r.Header, bearer.Header)
	x.bearer = bearer
	return nil
}

// CheckRouting says what is wrong with domains and tenants: an id or a domain that is none, or a domain of two.
func CheckRouting(domains []string, tenants []Tenant) error {
	_, err := newHosts(domains, tenants)
	return err
}

// PrepareTenants gets ready to route by these domains and tenants, in the place of those of Options; commit, which cannot
// fail, does so from the next request on.
func (p *Public) PrepareTenants(domains []string, tenants []Tenant) (commit func(), err error) {
	if len(tenants) > 0 && p.opt.Auth == nil {
		return nil, errTenantsWithoutAuth
	}
	h, err := newHosts(domains, tenants)
	if err != nil {
		return nil, fmt.Errorf("proxy: %w", err)
	}
	return func() {
		p.metrics.tenants.set(tenants)
		p.hosts.Store(h)
	}, nil
}

var errTenantsWithoutAuth = errors.New("proxy: tenants without Auth")
