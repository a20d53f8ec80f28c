package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"

	"piko/agent"
	"piko/tunnel"
)

// agentConfig is what agents of every kind can be told, by flags or file.
type agentConfig struct {
	Connect connectConfig     `embed:"" prefix:"connect." group:"Server to connect to"`
	Server  agentServerConfig `embed:"" prefix:"server." group:"Metrics"`
	Inspect inspectConfig     `embed:"" group:"Inspector"`
	Tracing tracingConfig     `embed:"" prefix:"tracing." group:"Tracing"`

	Terminal uiConfig    `embed:"" group:"Terminal"`
	Log      logConfig   `embed:"" prefix:"log." group:"Log"`
	Config   configFlags `embed:"" prefix:"config."`

	Connections connectionCount `default:"2" placeholder:"N" group:"Server to connect to" help:"How many nodes each listener is connected to, so that the loss of one loses no request. Never more than the cluster has; a server of v0.9.0 counts as one node for each URL."`

	GracePeriod time.Duration `default:"1m" group:"Shutdown" help:"How long a shutdown may take: requests in flight that have not ended by then are cut, and counted in the log."`

	// Listeners are in the file only.
	Listeners []listenerConfig `kong:"-"`
}

// connectConfig is the connect.* section.
type connectConfig struct {
	URL serverURLs `name:"url" list:"" default:"http://localhost:8001" placeholder:"URL" help:"URL of the server's upstream port, or of a load balancer in front of it: http, https, ws or wss. A path is kept as a prefix. May be repeated, or have several with commas between, for nodes without a load balancer, or for two clusters during a move from one to the other."`
	tokenConfig
	TenantID string          `name:"tenant-id" placeholder:"ID" help:"Tenant that the token belongs to."`
	Timeout  time.Duration   `default:"30s" help:"How long to try to connect a listener for the first time before giving up on it. One that was connected once never gives up. 0s tries for ever."`
	ProxyURL forwardProxyURL `name:"proxy-url" help:"Proxy to connect through: http, https or socks5. When not given, HTTPS_PROXY, HTTP_PROXY and NO_PROXY of the environment hold."`
	TLS      clientTLSConfig `embed:"" prefix:"tls."`
}

// serverURLs are the URLs of one server or of several, with commas between.
type serverURLs string

// Decode is kong's: each use of the flag adds URLs. A list is the file's.
func (l *serverURLs) Decode(ctx *kong.DecodeContext) error {
	token, err := ctx.Scan.PopValue("url")
	if err != nil {
		return err
	}
	given, ok := token.Value.([]any)
	if !ok {
		given = []any{token.Value}
	}
	for _, item := range given {
		for s := range strings.SplitSeq(fmt.Sprint(item), ",") {
			var u serverURL
			if err := u.UnmarshalText([]byte(strings.TrimSpace(s))); err != nil {
				return err
			}
			if *l != "" {
				*l += ","
			}
			*l += serverURLs(u)
		}
	}
	return nil
}

// urls are the single ones.
func (l serverURLs) urls() []string { return strings.Split(string(l), ",") }

// redacted is l without passwords, for logs.
func (l serverURLs) redacted() string {
	list := l.urls()
	for i, u := range list {
		list[i] = serverURL(u).redacted()
	}
	return strings.Join(list, ",")
}

// connectionCount is how many tunnels a listener has.
type connectionCount int

// maxConnections bounds what one listener costs the cluster.
const maxConnections = 16

// UnmarshalText accepts 1 to maxConnections.
func (c *connectionCount) UnmarshalText(text []byte) error {
	n, err := strconv.Atoi(string(text))
	if err != nil || n < 1 || n > maxConnections {
		return fmt.Errorf("%q is not a number from 1 to %d; 2 is enough to lose a node and no request", text, maxConnections)
	}
	*c = connectionCount(n)
	return nil
}

// agentServerConfig is the server.* section of an agent.
type agentServerConfig struct {
	Enabled  bool     `help:"Serve the agent's own metrics at /metrics, the state of its listeners at /status, and, for this machine only, POST /status/reload."`
	BindAddr bindAddr `default:":5000" help:"Address to serve them on."`
}

// listenerOptions are what `agent http` has as flags, and each of the file's
// listeners as keys.
type listenerOptions struct {
	AccessLog  accessLogConfig  `embed:"" prefix:"access-log." group:"Access log"`
	Timeout    time.Duration    `default:"10s" group:"Service" help:"How long connecting to the service may take. How long it may take to answer is the server's --proxy.timeout."`
	HTTPClient httpClientConfig `embed:"" prefix:"http-client." group:"Service"`

	HealthCheck healthCheckConfig `embed:"" prefix:"health-check." group:"Health checks of the service"`

	UpstreamProtocol string `default:"auto" enum:"auto,http1,h2" group:"Service" help:"How the service is spoken to. auto is HTTP/1.1, and HTTP/2 for gRPC and streams that go both ways, if the service speaks it."` // http only
}

// httpClientConfig is the http_client section of a listener.
type httpClientConfig struct {
	KeepAliveTimeout   time.Duration `default:"30s" help:"Interval of TCP keepalive probes to the service. 0s is none."`
	IdleConnTimeout    time.Duration `default:"90s" help:"How long an unused connection to the service is kept. Best below the service's own idle time-out. 0s is for ever."`
	MaxIdleConns       int           `default:"0" help:"Unused connections to keep to the service. 0 is as many as were busy at once lately, -1 no limit (write =-1)."`
	DisableCompression bool          `hidden:"" help:"Accepted for the sake of v0.9.0 configurations: piko never adds compression."`
}

// listenerConfig is one entry of the file's listeners.
type listenerConfig struct {
	EndpointID string `name:"endpoint-id" help:"The endpoint to listen on: 1 to 253 letters, digits and . _ ~ : @ -"`
	Addr       string `help:"The service: a port of this machine, host:port, or a URL."`
	Protocol   string `default:"http" enum:"http,tcp" help:"What the service speaks: http, which is gRPC too, or tcp."`
	listenerOptions
	ProxyProtocol string          `default:"off" enum:"off,v1,v2" help:"With protocol tcp, tell the service the client's address by a header of the PROXY protocol, which it must expect."`
	TLS           clientTLSConfig `embed:"" prefix:"tls."` // http only
}

// files are those that the configuration names and that are taken over when they
// change.
func (c *agentConfig) files() []string {
	files := append(c.Connect.TLS.files(), c.Tracing.TLS.files()...)
	for _, l := range c.Listeners {
		files = append(files, l.TLS.files()...)
	}
	return files
}

func (c *agentConfig) sections() []string { return []string{"listeners"} }

// decodeSection implements fileSections.
func (c *agentConfig) decodeSection(path, key string, n *yamlNode) error {
	list, err := decodeList(path, key, "listener", n, (*listenerConfig).check)
	c.Listeners = list
	return err
}

// check finds what no single value shows; errors begin with the key.
func (l *listenerConfig) check() error {
	if _, err := tunnel.ParseEndpoint(l.EndpointID); err != nil {
		return fmt.Errorf("endpoint_id: %w", endpointError(l.EndpointID, err))
	}
	if l.Addr == "" {
		return errors.New("addr: missing; give the service's port, host:port or URL")
	}
	switch tcp := l.Protocol == "tcp"; {
	case tcp && l.TLS != (clientTLSConfig{}):
		return errors.New("tls: not for protocol: tcp, whose bytes pass as they are; take it away")
	case tcp && l.UpstreamProtocol != agent.UpstreamAuto:
		return errors.New("upstream_protocol: not for protocol: tcp, whose bytes pass as they are; take it away")
	case !tcp && l.ProxyProtocol != "off":
		return errors.New("proxy_protocol: for protocol: tcp only; an HTTP service finds the client in X-Forwarded-For")
	}
	return l.listenerOptions.check("", "_")
}

// check finds what no single value shows. Errors begin with the option, as
// prefix and dash make it a flag or a key.
func (o *listenerOptions) check(prefix, dash string) error {
	if o.Timeout == 0 {
		return fmt.Errorf("%stimeout: 0s leaves no time to connect to the service; use a second or more", prefix)
	}
	if err := o.HealthCheck.check(prefix + "health" + dash + "check."); err != nil {
		return err
	}
	return o.AccessLog.check(prefix+"access"+dash+"log.", dash)
}

// endpointError says what an endpoint may look like.
func endpointError(name string, err error) error {
	if name == "" {
		return errors.New("missing; give a name, such as my-endpoint")
	}
	return fmt.Errorf("%.80q: %w; use 1 to 253 letters, digits and . _ ~ : @ -", name, err)
}

// listener is what the agent calls it, but for what it dials with.
func (l *listenerConfig) listener() agent.Listener {
	out := agent.Listener{
		Endpoint:    l.EndpointID,
		Protocol:    l.Protocol,
		Addr:        l.Addr,
		AccessLog:   l.AccessLog.accessLog(),
		HealthCheck: l.HealthCheck.healthCheck(),
		DialTimeout: l.Timeout,
		KeepAlive:   zeroIsOff(l.HTTPClient.KeepAliveTimeout),
		IdleTimeout: zeroIsOff(l.HTTPClient.IdleConnTimeout),
		MaxIdle:     l.HTTPClient.MaxIdleConns,

		UpstreamProtocol: l.UpstreamProtocol,
	}
	if l.ProxyProtocol != "off" {
		out.ProxyProtocol = l.ProxyProtocol
	}
	if out.MaxIdle < 0 {
		out.MaxIdle = unlimitedIdle
	}
	return out
}

// unlimitedIdle is more than a machine has ports for connections to one service.
const unlimitedIdle = 1 << 16

// zeroIsOff maps a flag's 0 to what the agent calls off; its own 0 is a default.
func zeroIsOff(d time.Duration) time.Duration {
	if d == 0 {
		return -1
	}
	return d
}
