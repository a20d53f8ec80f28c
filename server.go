package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
)

// serverCmd is `piko server`: without a further command it runs a node.
type serverCmd struct {
	Node   serverNodeCmd `cmd:"" hidden:"" default:"withargs" help:"Run a node."`
	Status statusCmd     `cmd:"" help:"Ask a running node."`
}

// serverNodeCmd runs a node.
type serverNodeCmd struct {
	serverConfig
	Config configFlags `embed:"" prefix:"config."`
}

// Help is the long help.
func (serverNodeCmd) Help() string {
	return `
A node takes requests from clients on its proxy port and forwards each to an agent
that listens on the endpoint which the request names: in the header x-piko-endpoint,
or as the first label of the host. Agents connect to its upstream port.

Examples:
  piko server
  piko server --proxy.bind-addr :80 --upstream.bind-addr 10.0.0.1:8001
  piko server --config.path /etc/piko/server.yaml --log.format text
  PIKO_PROXY_TIMEOUT=2m piko server --shutdown-delay 10s

Exit status: 0 after SIGTERM or SIGINT (a second one kills), 1 for a failure such as a
port in use, 2 for a mistake in flags, environment or file.`
}

// checkConfig implements what `piko config check` asks.
func (c *serverNodeCmd) checkConfig(*cli) error { return c.check() }

// Run runs a node until a signal or a failure ends it.
func (c *serverNodeCmd) Run(p *process) error {
	if err := c.check(); err != nil {
		return err
	}
	log := p.logger(c.Log)
	limitMemory(p.getenv, log)
	c.AccessOut = p.stderr
	s, err := newServer(c.serverConfig, log)
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
		addr bindAddr
	}{{&s.proxyLn, cfg.Proxy.BindAddr}, {&s.upstreamLn, cfg.Upstream.BindAddr}, {&s.adminLn, cfg.Admin.BindAddr}} {
		ln, err := net.Listen("tcp", string(l.addr))
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
