package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync"

	"piko/certs"
	"piko/forward"
	"piko/tunnel"
)

// forwardCmd is `piko forward`.
type forwardCmd struct {
	forwardConfig

	TCP   forwardTCPCmd   `cmd:"" name:"tcp" help:"Listen on a local port and forward its connections to one endpoint."`
	Start forwardStartCmd `cmd:"" help:"Listen on every port that the configuration file lists."`
}

// forwardTCPCmd is `piko forward tcp`.
type forwardTCPCmd struct {
	Addr     string `arg:"" help:"Where to listen: a port, which is one of localhost, or host:port."`
	Endpoint string `arg:"" help:"The endpoint, on which an agent listens with piko agent tcp."`
}

// Help is the long help.
func (forwardTCPCmd) Help() string {
	return `
Each connection to the port is forwarded to the endpoint, byte by byte, each end of a
direction by itself. If the endpoint cannot be reached within --connect.timeout, or
the connection breaks, the local connection is reset.

Examples:
  piko forward tcp 5432 my-database
  psql -h localhost

  piko forward tcp 127.0.0.1:2222 my-ssh --connect.url https://piko.example.com
  ssh -p 2222 127.0.0.1

  piko forward tcp :6379 my-redis --connect.token-file token

` + reloadHelp
}

// forwardStartCmd is `piko forward start`.
type forwardStartCmd struct{}

// Help is the long help.
func (forwardStartCmd) Help() string {
	return `
Example:
  piko forward start --config.path forward.yaml

with forward.yaml:
  connect:
    url: https://piko.example.com
    token_file: /run/secrets/piko-token
  ports:
    - addr: 5432
      endpoint_id: my-database
    - addr: 127.0.0.1:2222
      endpoint_id: my-ssh

` + reloadHelp
}

// files implements configured.
func (forwardStartCmd) files(c *cli) []string { return c.Forward.files() }

// files implements configured.
func (forwardTCPCmd) files(c *cli) []string { return c.Forward.files() }

// checkConfig implements configured.
func (forwardStartCmd) checkConfig(c *cli) error {
	if len(c.Forward.Ports) == 0 {
		return &usageError{err: errors.New("no ports configured: list at least one under ports, with addr and endpoint_id")}
	}
	_, _, _, err := c.Forward.build()
	return err
}

// Run forwards every port of the file.
func (forwardStartCmd) Run(p *process, f *forwardCmd) error {
	if len(f.Ports) == 0 {
		hint := "piko forward start --help"
		return &usageError{errors.New("no ports configured: list them in the file that --config.path names, or use piko forward tcp"), hint}
	}
	return f.run(p)
}

// checkConfig implements configured.
func (c *forwardTCPCmd) checkConfig(root *cli) error {
	if err := c.configure(&root.Forward); err != nil {
		return err
	}
	_, _, _, err := root.Forward.build()
	return err
}

// Run forwards one port, whatever the file lists.
func (c *forwardTCPCmd) Run(p *process, f *forwardCmd) error {
	if err := c.configure(f); err != nil {
		return err
	}
	return f.run(p)
}

// configure makes the port the one of f.
func (c *forwardTCPCmd) configure(f *forwardCmd) error {
	if _, err := tunnel.ParseEndpoint(c.Endpoint); err != nil {
		return &usageError{err: fmt.Errorf("<endpoint>: %w", endpointError(c.Endpoint, err))}
	}
	f.Ports = []portConfig{{Addr: c.Addr, EndpointID: c.Endpoint}}
	return nil
}

// run is a forwarder: its ports, and systemd's ear.
func (f *forwardCmd) run(p *process) error {
	cfg, dialer, tls, err := f.build()
	if err != nil {
		return err
	}
	root := p.logger(f.Log)
	log := subsystem(root, "main")
	limitMemory(p.getenv, log)
	raiseHeap(p.getenv)

	dialer.Logger = subsystem(root, "client")
	registry := newRegistry()
	cfg.Registerer = registry
	fw, err := forward.New(cfg, dialer, subsystem(root, "forwarder"))
	if err != nil {
		return err
	}
	expiry := certs.NewExpiry(log)
	expiry.AddClient("connect", tls)
	registry.MustRegister(append(p.collectors, expiry)...)
	ctx, cancel := context.WithCancelCause(p.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	running.Go(func() { _ = expiry.Run(ctx) })
	if f.Server.Enabled {
		own, err := openOwnPort(f.Server.BindAddr, ownHandler(registry, p, http.NewServeMux()), registry, subsystem(root, "server"))
		if err != nil {
			return err
		}
		serving, stop := context.WithCancel(context.WithoutCancel(p.ctx)) // what a stop waits for can be seen, too
		defer stop()
		running.Go(func() { cancel(own.serveUntil(serving)) })
	}
	if err := fw.Listen(ctx); err != nil {
		return fmt.Errorf("%w%s", err, listenRemedy(err))
	}
	for i, addrs := range fw.Addrs() {
		for _, addr := range addrs {
			subsystem(root, "forwarder").Info("listening", "addr", addr.String(), "endpoint", cfg.Ports[i].Endpoint)
		}
	}
	p.takeover.Store(new(connectTakeover(tls, f.Connect.TLS, "connect.tls", func(next *cli) clientTLSConfig { return next.Forward.Connect.TLS })))
	log.Info("forward started", "version", version(), "url", f.Connect.URL.redacted(), "ports", len(cfg.Ports))
	defer newNotifier(p.getenv, log).follow(ctx, nil, fmt.Sprintf("%d ports", len(cfg.Ports)), f.GracePeriod)()

	err = fw.Run(ctx)
	if err == nil && p.ctx.Err() == nil {
		err = context.Cause(ctx) // the metrics port failed
	}
	if err != nil {
		return err
	}
	log.Info("forward stopped", "reason", context.Cause(p.ctx).Error())
	return nil
}
