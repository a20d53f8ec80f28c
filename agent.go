package main

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"piko/agent"
	"piko/certs"
	"piko/client"
	"piko/tunnel"
)

// agentCmd is `piko agent`.
type agentCmd struct {
	agentConfig

	HTTP  agentHTTPCmd  `cmd:"" name:"http" help:"Listen on one endpoint and forward its requests to an HTTP, HTTPS or gRPC service."`
	TCP   agentTCPCmd   `cmd:"" name:"tcp" help:"Listen on one endpoint and forward its connections to a TCP service."`
	Start agentStartCmd `cmd:"" help:"Listen on every endpoint that the configuration file lists."`
}

// agentHTTPCmd is `piko agent http`.
type agentHTTPCmd struct {
	Endpoint string `arg:"" help:"Endpoint to listen on: 1 to 253 letters, digits and . _ ~ : @ -"`
	Addr     string `arg:"" help:"The service: a port of this machine, host:port, or a URL such as https://10.0.0.5/api. h2c://, grpc:// and grpcs:// are services that speak HTTP/2 only."`
	listenerOptions
}

// Help is the long help.
func (agentHTTPCmd) Help() string {
	return `
Examples:
  piko agent http my-endpoint 3000
  piko agent http my-endpoint 3000 --inspect       # requests at http://127.0.0.1:4040
  piko agent http my-endpoint 10.0.0.5:8080 --connect.url https://piko.example.com:8001
  piko agent http my-endpoint https://intranet/app --access-log.disable
  piko agent http my-endpoint grpc://10.0.0.5:50051
  piko agent http my-endpoint 3000 --health-check.type http --health-check.path /healthz
  piko agent http my-endpoint 3000 --connect.url http://node-1:8001 --connect.url http://node-2:8001
  piko agent http my-endpoint 3000 --connect.token-file /run/secrets/piko-token
  piko agent http my-endpoint 3000 --connect.token-command 'vault read -field=token piko/creds/agent'

` + reloadHelp
}

// agentStartCmd is `piko agent start`.
type agentStartCmd struct{}

// Help is the long help.
func (agentStartCmd) Help() string {
	return `
Example:
  piko agent start --config.path agent.yaml

with agent.yaml:
  connect:
    url: https://piko.example.com:8001
    token_file: /run/secrets/piko-token
  connections: 2
  listeners:
    - endpoint_id: my-endpoint
      addr: 3000
    - endpoint_id: my-other-endpoint
      addr: https://10.0.0.5/api
      timeout: 5s
      access_log: {disable: true}
      health_check: {type: http, path: /healthz}
      http_client: {idle_conn_timeout: 60s}
      tls: {root_cas: /etc/ssl/internal.pem}
    - endpoint_id: my-database
      addr: 5432
      protocol: tcp
      proxy_protocol: v2

` + reloadHelp
}

// files implements configured.
func (agentStartCmd) files(c *cli) []string { return c.Agent.agentConfig.files() }

// files implements configured.
func (agentHTTPCmd) files(c *cli) []string { return c.Agent.agentConfig.files() }

// checkConfig implements configured.
func (agentStartCmd) checkConfig(c *cli) error {
	if len(c.Agent.Listeners) == 0 {
		return &usageError{err: errors.New("no listeners configured: list at least one under listeners, with endpoint_id and addr")}
	}
	_, err := c.Agent.agentConfig.build()
	return err
}

// Run listens on every endpoint of the file.
func (c agentStartCmd) Run(p *process, a *agentCmd) error {
	if len(a.Listeners) == 0 {
		hint := "piko agent start --help"
		return &usageError{errors.New("no listeners configured: list them in the file that --config.path names, or use piko agent http"), hint}
	}
	return a.run(p)
}

// Run listens on one endpoint, whatever the file lists.
func (c *agentHTTPCmd) Run(p *process, a *agentCmd) error {
	if err := c.configure(a); err != nil {
		return err
	}
	return a.run(p)
}

// checkConfig implements configured.
func (c *agentHTTPCmd) checkConfig(root *cli) error {
	if err := c.configure(&root.Agent); err != nil {
		return err
	}
	_, err := root.Agent.agentConfig.build()
	return err
}

// configure makes the endpoint the one listener of a.
func (c *agentHTTPCmd) configure(a *agentCmd) error {
	if err := c.check(); err != nil {
		return err
	}
	a.Listeners = []listenerConfig{{EndpointID: c.Endpoint, Addr: c.Addr, Protocol: "http", listenerOptions: c.listenerOptions}}
	return nil
}

// check is that of a file's listener, in the words of the command line.
func (c *agentHTTPCmd) check() error {
	if _, err := tunnel.ParseEndpoint(c.Endpoint); err != nil {
		return &usageError{err: fmt.Errorf("<endpoint>: %w", endpointError(c.Endpoint, err))}
	}
	if err := c.listenerOptions.check("--", "-"); err != nil {
		return &usageError{err: err}
	}
	return nil
}

// agentParts is the configuration of an agent, checked, in the words of the
// packages that it is for.
type agentParts struct {
	agent  agent.Config
	client client.Client

	listeners []loadedListener // those of agent
	tls       *certs.Client    // what the client dials with; nil for the defaults
}

// build loads the files that the configuration names and checks the rest.
func (c *agentConfig) build() (agentParts, error) {
	tls, err := c.Connect.TLS.load("--connect.tls.")
	if err != nil {
		return agentParts{}, err
	}
	parts := agentParts{
		tls:   tls,
		agent: agent.Config{ConnectTimeout: c.Connect.Timeout, GracePeriod: zeroIsOff(c.GracePeriod)},
		client: client.Client{
			URLs:        c.Connect.URL.urls(),
			Connections: int(c.Connections),
			ProxyURL:    string(c.Connect.ProxyURL),
			TenantID:    c.Connect.TenantID,
			GetTLS:      tlsSource(tls),
		},
	}
	if err := c.Connect.apply(&parts.client); err != nil {
		return agentParts{}, &usageError{err: err}
	}
	if parts.listeners, err = loadListeners(c.Listeners); err != nil {
		return agentParts{}, err
	}
	parts.agent.Listeners = listenersOf(parts.listeners)
	// The agent knows best what a service's address may look like.
	if _, err := agent.New(parts.agent, &parts.client, nil, nil, nil); err != nil {
		return agentParts{}, &usageError{err: err}
	}
	if err := c.Inspect.check(parts.agent.Listeners); err != nil {
		return agentParts{}, &usageError{err: err}
	}
	if err := c.Tracing.check(); err != nil {
		return agentParts{}, &usageError{err: err}
	}
	return parts, nil
}

// run is an agent: the listeners, its metrics port, and systemd's ear.
func (a *agentCmd) run(p *process) error {
	parts, err := a.agentConfig.build()
	if err != nil {
		return err
	}
	screen, err := a.openDisplay(p)
	if err != nil {
		return err
	}
	defer screen.close()
	root := p.loggerTo(screen.log, screen.logConfig)
	log := subsystem(root, "main")
	limitMemory(p.getenv, log)
	raiseHeap(p.getenv)

	parts.agent.AccessLog = a.Log.accessOptions(root, "proxy.http.access")
	parts.agent.TCPAccessLog = a.Log.accessOptions(root, "proxy.tcp.access")
	parts.agent.TCPLog = subsystem(root, "proxy.tcp")
	parts.client.Logger = subsystem(root, "client")
	registry := newRegistry()
	inspector, err := a.openInspector(&parts.agent, subsystem(root, "inspect"), registry)
	if err != nil {
		return err
	}
	var tracingTLS *certs.Client
	if parts.agent.Tracer, tracingTLS, err = a.Tracing.tracer("piko-agent", "", root, registry); err != nil {
		return err
	}
	access := screen.watch(p, &parts, inspector)
	ag, err := agent.New(parts.agent, &parts.client, subsystem(root, "proxy.http"), registry, access)
	if err != nil {
		return err
	}
	live := newRunningAgent(ag, &a.agentConfig, &parts, tracingTLS)
	expiry := live.expiry(parts.tls, log)
	expiry.AddClient("tracing", tracingTLS)
	registry.MustRegister(append(p.collectors, expiry)...)
	ctx, cancel := context.WithCancelCause(p.ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel(nil)
	running.Go(func() { _ = expiry.Run(ctx) })
	if t := parts.agent.Tracer; t != nil {
		tracing, over := context.WithCancel(context.WithoutCancel(ctx)) // until the last request has ended
		defer over()
		running.Go(func() { t.Run(tracing) })
	}
	if inspector != nil {
		running.Go(func() { cancel(inspector.run(ctx)) })
	}
	if a.Server.Enabled {
		own, err := openOwnPort(a.Server.BindAddr, agentHandler(registry, ag, p), registry, subsystem(root, "server"))
		if err != nil {
			return err
		}
		serving, stop := context.WithCancel(context.WithoutCancel(p.ctx)) // what a stop waits for and cuts can be seen, too
		defer stop()
		running.Go(func() { cancel(own.serveUntil(serving)) })
	}
	p.takeover.Store(new(takeover(live.take)))
	log.Info("agent started", "version", version(), "url", a.Connect.URL.redacted(),
		"connections", int(a.Connections), "listeners", len(parts.agent.Listeners))
	// Ready at once: a server that is not there yet is no reason to hold up the start of the machine.
	defer newNotifier(p.getenv, log).follow(ctx, nil, fmt.Sprintf("%d listeners", len(parts.agent.Listeners)), a.GracePeriod)()

	err = ag.Run(ctx)
	if err == nil && p.ctx.Err() == nil {
		err = context.Cause(ctx) // the metrics port failed
	}
	if err == nil {
		log.Info("agent stopped", "reason", context.Cause(p.ctx).Error())
	}
	return err
}
