package main

import (
	"errors"
)

// agentCmd is `piko agent`.
type agentCmd struct {
	agentConfig

	HTTP  agentHTTPCmd  `cmd:"" name:"http" help:"Listen on one endpoint and forward its requests to an HTTP or HTTPS service."`
	Start agentStartCmd `cmd:"" help:"Listen on every endpoint that the configuration file lists."`
}

// agentHTTPCmd is `piko agent http`.
type agentHTTPCmd struct {
	Endpoint string `arg:"" help:"Endpoint to listen on: 1 to 253 letters, digits and . _ ~ : @ -"`
	Addr     string `arg:"" help:"The service: a port of this machine, host:port, or a URL such as https://10.0.0.5/api."`
	listenerOptions
}

// Help is the long help.
func (agentHTTPCmd) Help() string {
	return `
Examples:
  piko agent http my-endpoint 3000
  piko agent http my-endpoint 10.0.0.5:8080 --connect.url https://piko.example.com:8001
  piko agent http my-endpoint https://intranet/app --access-log.disable
  PIKO_CONNECT_TOKEN=$(cat token) piko agent http my-endpoint 3000`
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
  listeners:
    - endpoint_id: my-endpoint
      addr: 3000
    - endpoint_id: my-other-endpoint
      addr: https://10.0.0.5/api
      timeout: 5s
      access_log: {disable: true}
      http_client: {idle_conn_timeout: 60s}
      tls: {root_cas: /etc/ssl/internal.pem}`
}

// Run listens on every endpoint of the file.
func (agentStartCmd) Run(p *process, a *agentCmd) error { return errors.ErrUnsupported }

// Run listens on one endpoint.
func (agentHTTPCmd) Run(p *process, a *agentCmd) error { return errors.ErrUnsupported }
