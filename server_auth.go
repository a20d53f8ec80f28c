package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"reflect"
	"slices"
	"sync"

	"github.com/prometheus/client_golang/prometheus"

	"piko/auth"
)

// guards are the gates of the three ports; nil is one that is open.
type guards struct {
	// Static after construction.
	proxy, upstream, admin *auth.Guard

	// Owned by who calls prepare.
	inForce authOptions
}

// authOptions are what the configuration says about the three ports.
type authOptions struct{ proxy, upstream, admin auth.Options }

// authOptions reads the files that the configuration names.
func (c *serverConfig) authOptions() (authOptions, error) {
	var errs []error
	load := func(a *authConfig, section string) auth.Config {
		cfg, err := a.load(section)
		errs = append(errs, err)
		return cfg
	}
	o := authOptions{
		proxy:    auth.Options{Port: "proxy", Default: load(&c.Proxy.Auth, "--proxy.auth.")},
		upstream: auth.Options{Port: "upstream", Default: load(&c.Upstream.Auth, "--upstream.auth.")},
		admin:    auth.Options{Port: "admin", Default: load(&c.Admin.Auth, "--admin.auth.")},
	}
	for i := range c.Proxy.Tenants {
		t := &c.Proxy.Tenants[i]
		o.proxy.Tenants = append(o.proxy.Tenants, auth.Tenant{ID: t.ID, Auth: load(&t.Auth, tenantOption(proxyTenants, i)), Domains: texts(t.Domains)})
	}
	for i := range c.Upstream.Tenants {
		t := &c.Upstream.Tenants[i]
		o.upstream.Tenants = append(o.upstream.Tenants, auth.Tenant{ID: t.ID, Auth: load(&t.Auth, tenantOption(upstreamTenants, i))})
		if !o.upstream.Tenants[i].Auth.Enabled() {
			errs = append(errs, fmt.Errorf("%s: missing; without keys anybody could say to be this tenant", trimOption(tenantOption(upstreamTenants, i))))
		}
	}
	for i, t := range o.proxy.Tenants {
		if !t.Auth.Enabled() && len(t.Domains) == 0 {
			errs = append(errs, fmt.Errorf("%s: missing, and so are domains: nobody could reach this tenant; give either", trimOption(tenantOption(proxyTenants, i))))
		}
	}
	errs = append(errs, checkRules(o))
	return o, errors.Join(errs...)
}

// checkRules finds sections that say who is refused and have no key: whoever
// wrote one of them does not want the port to be open.
func checkRules(o authOptions) error {
	var errs []error
	check := func(c auth.Config) {
		if !c.Enabled() && (len(c.Audience)+len(c.Issuer) > 0 || c.RequireExpiry || c.RequireEndpoints) {
			errs = append(errs, fmt.Errorf("%s: has rules for tokens and no key to verify them by; give %s or another key", trimOption(c.Section), c.Option("jwks.endpoint")))
		}
	}
	for _, port := range []auth.Options{o.proxy, o.upstream, o.admin} {
		check(port.Default)
		for _, t := range port.Tenants {
			check(t.Auth)
		}
	}
	return errors.Join(errs...)
}

// checkAuth finds what a start would find.
func (c *serverConfig) checkAuth() error {
	o, err := c.authOptions()
	if err != nil {
		return err
	}
	var errs []error
	for _, port := range []auth.Options{o.proxy, o.upstream, o.admin} {
		_, err := auth.NewGuard(port)
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// newGuards makes the gates of the ports.
func newGuards(cfg *serverConfig, log *slog.Logger, registry prometheus.Registerer) (*guards, error) {
	o, err := cfg.authOptions()
	if err != nil {
		return nil, err
	}
	g := &guards{inForce: o}
	var errs []error
	for _, p := range []struct {
		opt   auth.Options
		guard **auth.Guard
	}{{o.proxy, &g.proxy}, {o.upstream, &g.upstream}, {o.admin, &g.admin}} {
		p.opt.Logger, p.opt.Registerer = subsystem(log, p.opt.Port+".auth"), registry
		*p.guard, err = auth.NewGuard(p.opt)
		errs = append(errs, err)
	}
	return g, errors.Join(errs...)
}

// adminAuth is the admin port's gate as that port wants it; nil for none.
func (g *guards) adminAuth() func(*http.Request) (header string, err error) {
	if g.admin == nil {
		return nil
	}
	return func(r *http.Request) (string, error) {
		client, _ := netip.ParseAddrPort(r.RemoteAddr)
		b, err := g.admin.Check(r, client.Addr(), "")
		return b.Header, err
	}
}

// run keeps key sets fresh until ctx ends.
func (g *guards) run(ctx context.Context) error {
	var running sync.WaitGroup
	for _, guard := range []*auth.Guard{g.proxy, g.upstream, g.admin} {
		running.Go(func() { _ = guard.Run(ctx) }) // it has no error
	}
	running.Wait()
	return nil
}

// prepareAuth loads the keys and rules of all ports anew. Whether a port asks
// for tokens at all, and whether it has tenants, is not taken over: it would
// change what names of endpoints mean while tunnels have them.
func (s *server) prepareAuth(next *serverConfig) (p reloadPart, err error) {
	o, err := next.authOptions()
	if err != nil {
		return p, err
	}
	was := s.guards.inForce
	now := was
	var commits []func()
	var errs []error
	for _, port := range []struct {
		name     string
		guard    *auth.Guard
		was, now auth.Options
		inForce  *auth.Options
	}{
		{"proxy", s.guards.proxy, was.proxy, o.proxy, &now.proxy},
		{"upstream", s.guards.upstream, was.upstream, o.upstream, &now.upstream},
		{"admin", s.guards.admin, was.admin, o.admin, &now.admin},
	} {
		if reflect.DeepEqual(port.was, port.now) || port.was.Default.Enabled() != port.now.Default.Enabled() || (len(port.was.Tenants) > 0) != (len(port.now.Tenants) > 0) {
			continue
		}
		commit, err := port.guard.Prepare(port.now)
		errs = append(errs, err)
		commits = append(commits, commit)
		*port.inForce = port.now
		p.applied = append(p.applied, port.name+".auth")
		if len(port.now.Tenants) > 0 {
			p.applied = append(p.applied, port.name+".tenants")
		}
	}
	p.commit = func() {
		all(commits)
		s.guards.inForce = now
	}
	return p, errors.Join(errs...)
}

// authFiles are the files that hold keys.
func (c *serverConfig) authFiles() []string {
	files := slices.Concat(c.Proxy.Auth.files(), c.Upstream.Auth.files(), c.Admin.Auth.files())
	for i := range c.Proxy.Tenants {
		files = append(files, c.Proxy.Tenants[i].Auth.files()...)
	}
	for i := range c.Upstream.Tenants {
		files = append(files, c.Upstream.Tenants[i].Auth.files()...)
	}
	return files
}

// warnOpen tells of what is open that need not be. It is called once, at start.
func (s *server) warnOpen() {
	if s.cfg.Proxy.TLS.Client != (ignoredTLSConfig{}) || s.cfg.Upstream.TLS.Client != (ignoredTLSConfig{}) {
		s.log.Warn("proxy.tls.client and upstream.tls.client are of v0.9.0 and have no effect: nodes prove themselves to each other by --cluster.secret, and with certificates by --cluster.tls")
	}
	if len(s.cfg.Upstream.Tenants) > 0 && !s.cfg.isolated() {
		s.log.Warn("tenants share the names of their endpoints: one can serve another's unless the tokens say which; --tenants.isolated gives each its own")
	}
	if s.guards.admin == nil && s.adminTLS == nil && !isLoopbackAddr(s.AdminAddr().String()) {
		s.log.Warn("the admin port is open to everybody who reaches it; bind it to 127.0.0.1, or see --admin.auth and --admin.tls", "addr", s.AdminAddr().String())
	}
}

func isLoopbackAddr(addr string) bool {
	a, err := netip.ParseAddrPort(addr)
	return err == nil && a.Addr().Unmap().IsLoopback()
}
