package main

import (
	"fmt"
	"slices"

	"piko/proxy"
)

// routing is by which hosts the proxy port routes: whose they are, and which of
// them name endpoints.
func (c *proxyConfig) routing() (domains []string, tenants []proxy.Tenant) {
	for _, t := range c.Tenants {
		tenants = append(tenants, proxy.Tenant{ID: t.ID, Domains: texts(t.Domains)})
	}
	return texts(c.Domain), tenants
}

// checkTenants finds a domain that is of two.
func (c *proxyConfig) checkTenants() error {
	if err := proxy.CheckRouting(c.routing()); err != nil {
		return fmt.Errorf("%s: %w; give each domain to one of them, or only to --proxy.domain", proxyTenants, err)
	}
	return nil
}

// prepareRouting takes over domains, those of tenants too. Tenants come and go
// as prepareAuth lets them.
func (s *server) prepareRouting(next *serverConfig) (p reloadPart, err error) {
	was, now := &s.was().Proxy, &next.Proxy
	domains, tenants := now.routing()
	if (len(was.Tenants) > 0) != (len(now.Tenants) > 0) {
		_, tenants = was.routing()
	}
	if !slices.Equal(was.Domain, now.Domain) {
		p.applied = append(p.applied, "proxy.domain")
	}
	p.commit, err = s.public.PrepareTenants(domains, tenants)
	return p, err
}
