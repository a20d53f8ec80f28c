package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
)

// serverCmd is `piko server`.
type serverCmd struct {
	serverConfig
}

// Run runs a node until a signal or a failure ends it.
func (c *serverCmd) Run(p *process) error {
	c.AccessOut = p.stderr
	s, err := newServer(c.serverConfig, p.logger(c.Log))
	if err != nil {
		return err
	}
	return s.Run(p.ctx)
}

// server is one node.
type server struct {
	// Static after construction.
	proxyLn, upstreamLn, adminLn net.Listener
	ready                        chan struct{} // closed when the node serves
}

// newServer puts a node together and opens its ports, so that its addresses
// are known and a port in use is an error before anything has started. Whoever
// calls it calls Run, which also closes the ports.
func newServer(cfg serverConfig, log *slog.Logger) (*server, error) {
	s := &server{ready: make(chan struct{})}
	for _, l := range []struct {
		ln   *net.Listener
		addr string
	}{{&s.proxyLn, cfg.Proxy.BindAddr}, {&s.upstreamLn, cfg.Upstream.BindAddr}, {&s.adminLn, cfg.Admin.BindAddr}} {
		ln, err := net.Listen("tcp", l.addr)
		if err != nil {
			return nil, fmt.Errorf("listen: %w", err)
		}
		*l.ln = ln
	}
	return s, nil
}

// Run serves until ctx ends, drains, and returns nil; or returns what failed.
func (s *server) Run(ctx context.Context) error {
	close(s.ready)
	<-ctx.Done()
	s.proxyLn.Close()
	s.upstreamLn.Close()
	s.adminLn.Close()
	return nil
}

// Ready is closed once the node serves requests.
func (s *server) Ready() <-chan struct{} { return s.ready }

// ProxyAddr, UpstreamAddr and AdminAddr are the addresses that the node listens
// on, with the real port where the configuration said 0.
func (s *server) ProxyAddr() net.Addr    { return s.proxyLn.Addr() }
func (s *server) UpstreamAddr() net.Addr { return s.upstreamLn.Addr() }
func (s *server) AdminAddr() net.Addr    { return s.adminLn.Addr() }
