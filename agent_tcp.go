package main

import (
	"fmt"
	"time"

	"piko/tunnel"
)

// agentTCPCmd is `piko agent tcp`.
type agentTCPCmd struct {
	Endpoint string `arg:"" help:"Endpoint to listen on: 1 to 253 letters, digits and . _ ~ : @ -"`
	Addr     string `arg:"" help:"The service: a port of this machine, or host:port."`

	AccessLog     tcpAccessLogConfig `embed:"" prefix:"access-log." group:"Access log"`
	Timeout       time.Duration      `default:"10s" group:"Service" help:"How long connecting to the service may take."`
	HealthCheck   healthCheckConfig  `embed:"" prefix:"health-check." group:"Health checks of the service"`
	ProxyProtocol string             `default:"off" enum:"off,v1,v2" group:"Service" help:"Tell the service the client's address in a header of the PROXY protocol before the first byte: v1 or v2. The service must expect it. A client that the server does not name, as one of v0.9.0, is UNKNOWN in v1 and LOCAL in v2."`
}

// tcpAccessLogConfig is the access log of connections.
type tcpAccessLogConfig struct {
	Level   string `default:"info" enum:"debug,info,warn,error" help:"Level of access-log lines, one when a connection opens and one when it closes. One that did not reach the service is at least warn. Lines below log.level are not written."`
	Disable bool   `help:"Write no access log."`
}

// Help is the long help.
func (agentTCPCmd) Help() string {
	return `
Connections are forwarded byte by byte, each end of a direction by itself. If the
service cannot be reached, the client sees a reset. Clients connect with
piko forward tcp, or the SDK's Dial.

Examples:
  piko agent tcp my-database 5432
  piko agent tcp my-ssh 10.0.0.5:22 --connect.url https://piko.example.com:8001
  piko agent tcp my-database 5432 --health-check.type tcp
  piko agent tcp my-web 8443 --proxy-protocol v2
  PIKO_CONNECT_TOKEN=$(cat token) piko agent tcp my-redis 6379 --access-log.disable

` + reloadHelp
}

// Run listens on one endpoint, whatever the file lists.
func (c *agentTCPCmd) Run(p *process, a *agentCmd) error {
	if err := c.configure(a); err != nil {
		return err
	}
	return a.run(p)
}

// files implements configured.
func (agentTCPCmd) files(c *cli) []string { return c.Agent.agentConfig.files() }

// checkConfig implements configured.
func (c *agentTCPCmd) checkConfig(root *cli) error {
	if err := c.configure(&root.Agent); err != nil {
		return err
	}
	_, err := root.Agent.agentConfig.build()
	return err
}

// configure makes the endpoint the one listener of a.
func (c *agentTCPCmd) configure(a *agentCmd) error {
	if _, err := tunnel.ParseEndpoint(c.Endpoint); err != nil {
		return &usageError{err: fmt.Errorf("<endpoint>: %w", endpointError(c.Endpoint, err))}
	}
	l := listenerConfig{EndpointID: c.Endpoint, Addr: c.Addr, Protocol: "tcp", ProxyProtocol: c.ProxyProtocol}
	l.Timeout, l.HealthCheck = c.Timeout, c.HealthCheck
	l.AccessLog.Level, l.AccessLog.Disable = c.AccessLog.Level, c.AccessLog.Disable
	if err := l.listenerOptions.check("--", "-"); err != nil {
		return &usageError{err: err}
	}
	a.Listeners = []listenerConfig{l}
	return nil
}
