package main

import (
	"fmt"
	"log/slog"
	"net/netip"
	"reflect"
	"time"

	"piko/certs"
	"piko/listen"
)

// connsConfig is what every port's section says of who may connect.
type connsConfig struct {
	Allow                   []ipPrefix `placeholder:"CIDR" help:"Addresses that may connect to this port, such as 10.0.0.0/8; others are refused. May be repeated. When not given, all may."`
	Deny                    []ipPrefix `placeholder:"CIDR" help:"Addresses that may not connect to this port, even if they are among those that may. May be repeated."`
	MaxConnections          int        `placeholder:"N" default:"0" help:"Most connections to this port at a time, upgraded ones included. Above it the one that has been idle longest is closed, or the new one refused. 0 is no limit but that of file descriptors."`
	MaxConnectionsPerSource int        `placeholder:"N" default:"0" help:"Most connections of one IPv4 address, or of one /64 of IPv6, to this port at a time. Not for loopback, trusted proxies and other nodes. 0 is no limit."`
}

// proxiedConnsConfig is connsConfig for a port that may stand behind a load
// balancer for TCP.
type proxiedConnsConfig struct {
	connsConfig
	ProxyProtocolFrom []ipPrefix `placeholder:"CIDR" help:"Addresses of load balancers that must begin every connection with a PROXY protocol header, version 1 or 2, which says who the client is. What others send is never taken for one. May be repeated."`
}

// adminWriteTimeout is how long an operator's client may take to read what one
// write of a response brings. Responses are whole pages, and profiles.
const adminWriteTimeout = 30 * time.Second

// check says what is wrong; section is "--proxy.".
func (c connsConfig) check(section string) error {
	for name, n := range map[string]int{"max-connections": c.MaxConnections, "max-connections-per-source": c.MaxConnectionsPerSource} {
		if n < 0 {
			return fmt.Errorf("%s%s: %d is negative; use 1 or more, or 0 for no limit", section, name, n)
		}
	}
	return nil
}

// plain is the list without the type of flags.
func plainPrefixes(list []ipPrefix) []netip.Prefix {
	plain := make([]netip.Prefix, len(list))
	for i, p := range list {
		plain[i] = p.Prefix
	}
	return plain
}

// portOptions is what all ports have in common. name is the port's subsystem.
func (s *server) portOptions(name string, c *connsConfig, certificates *certs.Server, log *slog.Logger) listen.Options {
	opt := listen.Options{
		Port:           name,
		Allow:          plainPrefixes(c.Allow),
		Deny:           plainPrefixes(c.Deny),
		MaxConnections: c.MaxConnections,
		MaxPerSource:   c.MaxConnectionsPerSource,
		Descriptors:    s.files,
		Logger:         subsystem(log, name),
		Registerer:     s.registry,
	}
	if certificates != nil {
		opt.TLS = certificates.Config()
	}
	return opt
}

// proxyPortOptions has other nodes reach the proxy port, whoever else may: their
// connections prove whose they are, and are encrypted in a way of their own.
func (s *server) proxyPortOptions(log *slog.Logger) listen.Options {
	cfg := &s.cfg.Proxy
	opt := s.portOptions("proxy", &cfg.connsConfig, s.proxyTLS, log)
	opt.ProxyProtocolFrom = plainPrefixes(cfg.ProxyProtocolFrom)
	opt.Exempt = plainPrefixes(cfg.TrustedProxies)
	opt.AllowPlain, opt.Peers = true, true
	opt.HandshakeTimeout = min(cfg.HTTP.ReadHeaderTimeout, listen.DefaultHandshakeTimeout)
	return opt
}

func (s *server) upstreamPortOptions(log *slog.Logger) listen.Options {
	cfg := &s.cfg.Upstream
	opt := s.portOptions("upstream", &cfg.connsConfig, s.upstreamTLS, log)
	opt.ProxyProtocolFrom = plainPrefixes(cfg.ProxyProtocolFrom)
	opt.Busy = s.busy
	return opt
}

// busy says whether requests are in flight: thousands of tunnels that come at
// once must not keep them from their turns.
func (s *server) busy() bool { return s.gate.inFlight.count() > 0 || s.hops.inFlight.count() > 0 }

// adminPortOptions has the admin port answer when no descriptors are left for
// others.
func (s *server) adminPortOptions(log *slog.Logger) listen.Options {
	opt := s.portOptions("admin", &s.cfg.Admin.connsConfig, s.adminTLS, log)
	opt.UseReserve = true
	opt.WriteTimeout = adminWriteTimeout
	return opt
}

// prepareLists takes over the address lists of all ports.
func (s *server) prepareLists(next *serverConfig) (part reloadPart, err error) {
	var commits []func()
	for _, p := range []struct {
		port      *port
		name      string
		was, next *connsConfig
	}{
		{s.proxy, "proxy", &s.was().Proxy.connsConfig, &next.Proxy.connsConfig},
		{s.upstream, "upstream", &s.was().Upstream.connsConfig, &next.Upstream.connsConfig},
		{s.admin, "admin", &s.was().Admin.connsConfig, &next.Admin.connsConfig},
	} {
		allow, deny := !reflect.DeepEqual(p.was.Allow, p.next.Allow), !reflect.DeepEqual(p.was.Deny, p.next.Deny)
		if allow {
			part.applied = append(part.applied, p.name+".allow")
		}
		if deny {
			part.applied = append(part.applied, p.name+".deny")
		}
		if allow || deny {
			commits = append(commits, func() { p.port.ln.SetLists(plainPrefixes(p.next.Allow), plainPrefixes(p.next.Deny)) })
		}
	}
	part.commit = func() { all(commits) }
	return part, nil
}
