package main

import (
	"crypto/tls"
	"log/slog"

	"piko/certs"
)

// alpnProxy and so on are the protocols that ports agree to by ALPN. Agents
// speak WebSocket, which needs HTTP/1.1.
var (
	alpnProxy    = []string{"h2", "http/1.1"}
	alpnUpstream = []string{"http/1.1"}
	alpnAdmin    = []string{"h2", "http/1.1"}
)

// nodeTLS is what a node shows, and what it asks of others: what is nil has no
// TLS, or for a client the defaults. Static; what is in it changes by reloads.
type nodeTLS struct {
	proxyTLS, upstreamTLS, adminTLS *certs.Server
	adminClientTLS                  *certs.Client // for questions that are passed on to other nodes
	clusterTLS                      clusterCerts  // for other nodes' connections
	acme                            *certs.ACME   // behind proxyTLS
	tracingTLS                      *certs.Client // for the collector of spans; set with the tracer
}

// loadTLS reads the files of certificates and keys. exists is for ACME.
func (c *serverConfig) loadTLS(exists func(host string) bool, log *slog.Logger) (t nodeTLS, err error) {
	if t.acme, err = c.Proxy.TLS.ACME.load(&c.Proxy, exists, log); err != nil {
		return t, err
	}
	if t.proxyTLS, err = c.Proxy.TLS.section(t.acme).load("--proxy.tls.", alpnProxy...); err != nil {
		return t, err
	}
	if t.upstreamTLS, err = c.Upstream.TLS.load("--upstream.tls.", alpnUpstream...); err != nil {
		return t, err
	}
	if t.adminTLS, err = c.Admin.TLS.load("--admin.tls.", alpnAdmin...); err != nil {
		return t, err
	}
	if t.adminClientTLS, err = c.Admin.TLS.Client.load("--admin.tls.client."); err != nil {
		return t, err
	}
	t.clusterTLS, err = c.Cluster.TLS.load()
	return t, err
}

// expiry watches all certificates of a node.
func (t *nodeTLS) watchExpiry(log *slog.Logger) *certs.Expiry {
	e := certs.NewExpiry(log)
	e.AddServer("proxy", t.proxyTLS)
	e.AddServer("upstream", t.upstreamTLS)
	e.AddServer("admin", t.adminTLS)
	e.AddClient("admin-client", t.adminClientTLS)
	e.AddServer("cluster", t.clusterTLS.server)
	return e
}

// adminDialTLS is what other nodes' admin ports are dialled with: with TLS if
// this node's has it. nil is without.
func (s *server) adminDialTLS() func() *tls.Config {
	switch {
	case s.adminTLS == nil:
		return nil
	case s.adminClientTLS == nil:
		return func() *tls.Config { return nil }
	}
	return s.adminClientTLS.Config
}

func (s *server) prepareProxyTLS(next *serverConfig) (p reloadPart, err error) {
	p.commit, p.applied, err = s.was().Proxy.TLS.section(s.acme).prepare(s.proxyTLS, next.Proxy.TLS.section(s.acme), "proxy.tls", alpnProxy...)
	if s.acme != nil && err == nil {
		take, domains := p.commit, acmeDomains(&next.Proxy)
		p.commit = func() { all([]func(){take}); s.acme.SetDomains(domains) }
	}
	return p, err
}

func (s *server) prepareUpstreamTLS(next *serverConfig) (p reloadPart, err error) {
	p.commit, p.applied, err = s.was().Upstream.TLS.prepare(s.upstreamTLS, next.Upstream.TLS.serverTLSConfig, "upstream.tls", alpnUpstream...)
	return p, err
}

func (s *server) prepareAdminTLS(next *serverConfig) (p reloadPart, err error) {
	p.commit, p.applied, err = s.was().Admin.TLS.serverTLSConfig.prepare(s.adminTLS, next.Admin.TLS.serverTLSConfig, "admin.tls", alpnAdmin...)
	return p, err
}

func (s *server) prepareAdminClientTLS(next *serverConfig) (p reloadPart, err error) {
	p.commit, p.applied, err = s.was().Admin.TLS.Client.prepare(s.adminClientTLS, next.Admin.TLS.Client, "admin.tls.client")
	return p, err
}

func (s *server) prepareTracingTLS(next *serverConfig) (p reloadPart, err error) {
	p.commit, p.applied, err = s.was().Tracing.TLS.prepare(s.tracingTLS, next.Tracing.TLS, "tracing.tls")
	return p, err
}
