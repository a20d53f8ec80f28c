package main

import (
	"errors"
	"fmt"
	"time"

	"piko/certs"
	"piko/client"
	"piko/forward"
	"piko/tunnel"
)

// forwardConfig is what `piko forward` can be told, by flags or file.
type forwardConfig struct {
	Connect forwardConnectConfig `embed:"" prefix:"connect." group:"Server to connect to"`
	Server  forwardServerConfig  `embed:"" prefix:"server." group:"Metrics"`
	Log     logConfig            `embed:"" prefix:"log." group:"Log"`
	Config  configFlags          `embed:"" prefix:"config."`

	GracePeriod time.Duration `default:"1m" group:"Shutdown" help:"How long a shutdown may take: connections that have not ended by then are reset, and counted in the log."`

	// Ports are in the file only.
	Ports []portConfig `kong:"-"`
}

// forwardConnectConfig is the connect.* section.
type forwardConnectConfig struct {
	URL serverURL `name:"url" default:"http://localhost:8000" help:"URL of the server's proxy port, or of a load balancer in front of it: http, https, ws or wss. A path is kept as a prefix."`
	tokenConfig
	TenantID string          `name:"tenant-id" placeholder:"ID" help:"Tenant that the token belongs to."`
	Timeout  time.Duration   `default:"30s" help:"How long connecting to the endpoint may take, all attempts together. Then the local connection is reset."`
	ProxyURL forwardProxyURL `name:"proxy-url" help:"Proxy to connect through: http, https or socks5. When not given, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment hold."`
	TLS      clientTLSConfig `embed:"" prefix:"tls."`
}

// forwardServerConfig is the server.* section.
type forwardServerConfig struct {
	Enabled  bool     `default:"false" help:"Serve the forwarder's own metrics at /metrics, and, for this machine only, POST /status/reload."`
	BindAddr bindAddr `default:":5001" help:"Address to serve them on."`
}

// portConfig is one entry of the file's ports.
type portConfig struct {
	Addr       string `help:"Where to listen: a port, which is one of localhost, or host:port."`
	EndpointID string `name:"endpoint-id" help:"The endpoint, on which an agent listens for TCP."`
}

// files are those that the configuration names and that are taken over when they
// change.
func (c *forwardConfig) files() []string { return c.Connect.TLS.files() }

func (c *forwardConfig) sections() []string { return []string{"ports"} }

// decodeSection implements fileSections.
func (c *forwardConfig) decodeSection(path, key string, n *yamlNode) (err error) {
	c.Ports, err = decodeList(path, key, "port", n, (*portConfig).check)
	return err
}

// check finds what no single value shows; errors begin with the key.
func (c *portConfig) check() error {
	if _, err := tunnel.ParseEndpoint(c.EndpointID); err != nil {
		return fmt.Errorf("endpoint_id: %w", endpointError(c.EndpointID, err))
	}
	if c.Addr == "" {
		return errors.New("addr: missing; give the port to listen on, or host:port")
	}
	return nil
}

// build checks the configuration, and loads the files that it names. tls is that
// of the client; nil for the defaults.
func (c *forwardConfig) build() (_ forward.Config, _ *client.Client, tls *certs.Client, err error) {
	tls, err = c.Connect.TLS.load("--connect.tls.")
	if err != nil {
		return forward.Config{}, nil, nil, err
	}
	cfg := forward.Config{ConnectTimeout: c.Connect.Timeout, GracePeriod: zeroIsOff(c.GracePeriod)}
	for _, p := range c.Ports {
		cfg.Ports = append(cfg.Ports, forward.Port{Addr: p.Addr, Endpoint: p.EndpointID})
	}
	dialer, err := c.Connect.client(tls)
	if err != nil {
		return cfg, nil, nil, &usageError{err: err}
	}
	// The package knows best what an address to listen on may look like.
	if _, err := forward.New(cfg, dialer, nil); err != nil {
		return cfg, nil, nil, &usageError{err: err}
	}
	return cfg, dialer, tls, nil
}

// client is what makes the connections.
func (c *forwardConnectConfig) client(tls *certs.Client) (*client.Client, error) {
	if c.Timeout == 0 {
		return nil, errors.New("--connect.timeout: 0s leaves no time to connect; use a second or more")
	}
	out := &client.Client{URL: string(c.URL), ProxyURL: string(c.ProxyURL), TenantID: c.TenantID, GetTLS: tlsSource(tls)}
	if err := c.apply(out); err != nil {
		return nil, err
	}
	return out, nil
}
