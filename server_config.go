package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/alecthomas/kong"
	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/admin"
	"piko/certs"
)

// serverConfig is everything that one node can be told; defaultServerConfig
// gives the defaults, which stand in the tags and nowhere else.
type serverConfig struct {
	Proxy    proxyConfig    `embed:"" prefix:"proxy." group:"Proxy port, for clients"`
	Upstream upstreamConfig `embed:"" prefix:"upstream." group:"Upstream port, for agents"`
	Admin    adminConfig    `embed:"" prefix:"admin." group:"Admin port, for operators"`
	Cluster  clusterConfig  `embed:"" prefix:"cluster." group:"Cluster"`
	Events   eventsConfig   `embed:"" prefix:"events." group:"Events"`
	Tenants  tenantsConfig  `embed:"" prefix:"tenants." group:"Tenants"`
	Tracing  tracingConfig  `embed:"" prefix:"tracing." group:"Tracing"`
	Log      logConfig      `embed:"" prefix:"log." group:"Log"`

	GracePeriod   time.Duration `default:"1m" group:"Shutdown" help:"How long a shutdown may take: requests in flight and open streams that have not ended by then are cut, and counted in the log. Includes shutdown-delay."`
	ShutdownDelay time.Duration `default:"0s" group:"Shutdown" help:"How long the node goes on taking new connections after /ready has begun to say no. Set it above the interval at which the load balancer checks."`

	// AccessOut is where access-log lines go, one a call and from many
	// goroutines, as an accesslog.Writer allows; nil is nowhere.
	AccessOut io.Writer `kong:"-"`

	// ParseHops has net/http serve all requests of other nodes, for tests.
	ParseHops bool `kong:"-"`

	// Reload is what POST /status/reload does; nil is nothing.
	Reload func(context.Context) (*admin.Reloaded, error) `kong:"-"`

	// Collectors are metrics of the process that the node shows beside its own.
	Collectors []prometheus.Collector `kong:"-"`
}

// proxyConfig is the proxy.* section.
type proxyConfig struct {
	BindAddr       bindAddr        `default:":8000" help:"Address to listen on for clients."`
	AdvertiseAddr  advertiseAddr   `placeholder:"HOST[:PORT]" help:"Address at which other nodes reach this port. When not given, that of --cluster.gossip.advertise-addr with this port."`
	Domain         []domain        `placeholder:"DOMAIN" help:"Route by host only direct subdomains of this domain: with example.com, my-endpoint.example.com is for my-endpoint, and other hosts get 400 unless the request has x-piko-endpoint. May be repeated. When not given, the first label of any host is an endpoint."`
	TrustedProxies []ipPrefix      `placeholder:"CIDR" help:"Addresses of proxies in front of this port, such as 10.0.0.0/8: what they say in X-Forwarded-* and Forwarded is kept, and their own address appended. What others say is replaced. May be repeated."`
	Timeout        time.Duration   `default:"30s" help:"How long a service may take from the last byte of a request to the first of its response; then the client gets 504. Never ends a response that has begun, an upgraded connection or gRPC. 0s is no limit."`
	SendTimeout    time.Duration   `default:"5m" help:"Ends a request of which the service, or its agent, took nothing for this long while something was there for it: the client gets 504. Waiting for the client does not count. 0s is no limit."`
	AccessLog      accessLogConfig `embed:"" prefix:"access-log." group:"Access log"`
	HTTP           proxyHTTPConfig `embed:"" prefix:"http."`
	TLS            proxyTLSConfig  `embed:"" prefix:"tls."`
	Auth           authConfig      `embed:"" prefix:"auth." group:"Tokens of clients"`
	proxiedConnsConfig
	Limits limitsConfig `embed:"" prefix:"limits." group:"Limits"`

	// Tenants are in the file only.
	Tenants []proxyTenant `kong:"-"`
}

// proxyHTTPConfig is the proxy.http.* section.
type proxyHTTPConfig struct {
	ReadTimeout       time.Duration `default:"5m" help:"Ends a request whose body has a Content-Length and of which the client sent nothing for this long. It is not a limit for the whole request. 0s is no limit."`
	ReadHeaderTimeout time.Duration `default:"10s" help:"How long a client may take to send the header of a request."`
	WriteTimeout      time.Duration `default:"5m" help:"Ends a response of which the client read nothing for this long while bytes were waiting for it. It is not a limit for the whole response. 0s is no limit."`
	IdleTimeout       time.Duration `default:"5m" help:"How long a client's connection is kept open between requests. Set it above the load balancer's own."`
	MaxHeaderBytes    byteSize      `default:"1MiB" help:"Largest header of a request; beyond it the client gets 431."`
	MaxResets         int           `default:"500" placeholder:"N" help:"Requests of HTTP/2 that one connection may reset within a second of opening them, each second, and ten times as many at once. Beyond it the client gets GOAWAY and has to connect again. Raise it for a proxy in front that sends many callers' requests over one connection."`
}

// accessLogConfig is an access_log section, of the server or of a listener.
type accessLogConfig struct {
	Level           string             `default:"info" enum:"debug,info,warn,error" help:"Level of access-log lines. Responses of 500 and above are at least warn. Lines below log.level are not written."`
	Disable         bool               `help:"Write no access log."`
	RequestHeaders  headerFilterConfig `embed:"" prefix:"request-headers."`
	ResponseHeaders headerFilterConfig `embed:"" prefix:"response-headers."`
}

// headerFilterConfig chooses headers for the access log.
type headerFilterConfig struct {
	AllowList []string `placeholder:"NAME" help:"Headers to log; others are left out. Not together with the block list. May be repeated."`
	BlockList []string `placeholder:"NAME" help:"Headers to leave out of the log; others are logged, those with credentials as [redacted]. Not together with the allow list. May be repeated."`
}

// upstreamConfig is the upstream.* section.
type upstreamConfig struct {
	BindAddr     bindAddr        `default:":8001" help:"Address to listen on for agents and SDK listeners. It may stand behind an HTTP load balancer that knows WebSocket."`
	StreamWindow byteSize        `default:"512KiB" help:"Bytes of a response that may be on their way from an agent, or wait here for a slow client, 256KiB to 16MiB. One stream carries at most a window per round trip: 512KiB is 25 MB/s at 20 ms."`
	Rebalance    rebalanceConfig `embed:"" prefix:"rebalance."`
	TLS          oldTLSConfig    `embed:"" prefix:"tls."`
	Auth         authConfig      `embed:"" prefix:"auth." group:"Tokens of agents"`
	proxiedConnsConfig
	Limits tunnelLimits `embed:"" prefix:"limits."`

	// Tenants are in the file only.
	Tenants []upstreamTenant `kong:"-"`

	AdvertiseAddr string `hidden:"" help:"Accepted for the sake of v0.9.0 configurations: no node needs another's upstream port."`
}

// tunnelLimits is the upstream.limits.* section.
type tunnelLimits struct {
	Tunnels            int `default:"0" placeholder:"N" help:"Tunnels that this node has at once, at most; beyond it an agent gets 503 and tries another node. An agent has a tunnel for each of its listeners and connections, one more while one is replaced, and one that was lost counts until that is noticed. 0 is no limit."`
	TunnelsPerEndpoint int `default:"0" placeholder:"N" help:"The same for the tunnels of one endpoint of one tenant."`
	TunnelsPerToken    int `default:"0" placeholder:"N" help:"The same for the tunnels that live by one token."`
}

// check says which of the limits is none.
func (c tunnelLimits) check() error {
	var errs []error
	for _, l := range []struct {
		name string
		n    int
	}{{"tunnels", c.Tunnels}, {"tunnels-per-endpoint", c.TunnelsPerEndpoint}, {"tunnels-per-token", c.TunnelsPerToken}} {
		if l.n < 0 {
			errs = append(errs, fmt.Errorf("--upstream.limits.%s: %d tunnels; use 1 or more, or 0 for no limit", l.name, l.n))
		}
	}
	return errors.Join(errs...)
}

// adminConfig is the admin.* section.
type adminConfig struct {
	BindAddr      bindAddr       `default:":8002" help:"Address to listen on for /health, /ready, /metrics, /status and /debug/pprof. Keep it off the internet."`
	AdvertiseAddr advertiseAddr  `placeholder:"HOST[:PORT]" help:"Address at which other nodes reach this port, for questions that are passed on. When not given, that of --cluster.gossip.advertise-addr with this port."`
	TLS           adminTLSConfig `embed:"" prefix:"tls."`
	Auth          authConfig     `embed:"" prefix:"auth." group:"Tokens of operators"`
	connsConfig

	EndpointMetrics int `default:"100" placeholder:"N" help:"Endpoints that have series of their own in /metrics: the first N that have requests, until they had none for 15 minutes. All others are one series."`
}

// maxEndpointMetrics bounds what one scrape costs: 15 series for each endpoint.
const maxEndpointMetrics = 10_000

// adminTLSConfig is the admin.tls.* section.
type adminTLSConfig struct {
	serverTLSConfig
	Client clientTLSConfig `embed:"" prefix:"client." group:"Questions to other nodes (?forward=), with TLS if this node's admin port has it"`
}

// proxyTLSConfig is the proxy.tls.* section.
type proxyTLSConfig struct {
	oldTLSConfig
	ACME acmeConfig `embed:"" prefix:"acme." group:"Certificates of an authority by ACME"`
}

// section is that of the port, with certificates of ACME if there are any.
func (c proxyTLSConfig) section(acme *certs.ACME) serverTLSConfig {
	section := c.serverTLSConfig
	section.others, section.acme = c.ACME.Enabled, acme
	return section
}

// oldTLSConfig is the tls section of a port that other nodes reach in a way of
// their own, or not at all: v0.9.0 had a section client there.
type oldTLSConfig struct {
	serverTLSConfig
	Client ignoredTLSConfig `embed:"" prefix:"client."`
}

// ignoredTLSConfig has the keys of v0.9.0 for connections between nodes.
type ignoredTLSConfig struct {
	Cert               string `hidden:"" help:"Accepted for the sake of v0.9.0 configurations: see --cluster.tls.cert."`
	Key                string `hidden:"" help:"Accepted for the sake of v0.9.0 configurations: see --cluster.tls.key."`
	RootCAs            string `hidden:"" name:"root-cas" help:"Accepted for the sake of v0.9.0 configurations: see --cluster.tls.cas."`
	InsecureSkipVerify bool   `hidden:"" help:"Accepted for the sake of v0.9.0 configurations."`
	ServerName         string `hidden:"" help:"Accepted for the sake of v0.9.0 configurations: see --cluster.tls.server-name."`
}

// accessLog is what the package of that name calls it.
func (c accessLogConfig) accessLog() accesslog.Config {
	return accesslog.Config{
		Level:           parseLevel(c.Level),
		Disable:         c.Disable,
		RequestHeaders:  accesslog.HeaderFilter{Allow: c.RequestHeaders.AllowList, Block: c.RequestHeaders.BlockList},
		ResponseHeaders: accesslog.HeaderFilter{Allow: c.ResponseHeaders.AllowList, Block: c.ResponseHeaders.BlockList},
	}
}

// check says what is wrong with the filters; section is what to call c, and
// dash what stands between the words of a name.
func (c accessLogConfig) check(section, dash string) error {
	cfg := c.accessLog()
	if err := cfg.RequestHeaders.Validate(); err != nil {
		return fmt.Errorf("%srequest%sheaders: %w", section, dash, err)
	}
	if err := cfg.ResponseHeaders.Validate(); err != nil {
		return fmt.Errorf("%sresponse%sheaders: %w", section, dash, err)
	}
	return nil
}

// Bounds of a stream's window: yamux knows none below the first.
const (
	minStreamWindow = 256 << 10
	maxStreamWindow = 16 << 20
)

// check finds what no single value shows.
func (c *serverConfig) check() error {
	var errs []error
	if w := c.Upstream.StreamWindow; w < minStreamWindow || w > maxStreamWindow {
		errs = append(errs, fmt.Errorf("--upstream.stream-window: %d bytes; use 256KiB to 16MiB", w))
	}
	if n := c.Proxy.HTTP.MaxHeaderBytes; n < 4<<10 {
		errs = append(errs, fmt.Errorf("--proxy.http.max-header-bytes: %d bytes; use 4KiB or more", n))
	}
	if n := c.Proxy.HTTP.MaxResets; n < 1 {
		errs = append(errs, fmt.Errorf("--proxy.http.max-resets: %d requests a second; use 1 or more", n))
	}
	if c.Proxy.HTTP.ReadHeaderTimeout == 0 {
		errs = append(errs, errors.New("--proxy.http.read-header-timeout: 0s would let one client hold connections for ever; use a second or more"))
	}
	if c.ShutdownDelay > 0 && c.ShutdownDelay >= c.GracePeriod {
		errs = append(errs, fmt.Errorf("--shutdown-delay: %v leaves nothing of the grace period of %v; use less, or a longer --grace-period", c.ShutdownDelay, c.GracePeriod))
	}
	errs = append(errs, c.Proxy.connsConfig.check("--proxy."), c.Upstream.connsConfig.check("--upstream."), c.Admin.connsConfig.check("--admin."))
	if n := c.Admin.EndpointMetrics; n < 0 || n > maxEndpointMetrics {
		errs = append(errs, fmt.Errorf("--admin.endpoint-metrics: %d endpoints; use 0 to %d: each is 15 series that every scrape carries", n, maxEndpointMetrics))
	}
	errs = append(errs, c.Proxy.TLS.section(nil).check("--proxy.tls."), c.Proxy.TLS.ACME.check(&c.Proxy), c.Upstream.TLS.check("--upstream.tls."), c.Admin.TLS.check("--admin.tls."), c.Admin.TLS.Client.check("--admin.tls.client."), c.Proxy.Limits.check(), c.Upstream.Limits.check(), c.Cluster.check(), c.Events.check(), c.Tracing.check(), c.Upstream.Rebalance.check(), c.checkAuth(), c.Proxy.checkTenants(), c.Proxy.AccessLog.check("--proxy.access-log.", "-"))
	if err := errors.Join(errs...); err != nil {
		return &usageError{err: err}
	}
	return nil
}

// defaultServerConfig is the configuration of `piko server` without flags,
// environment and file.
func defaultServerConfig() serverConfig {
	var cfg serverConfig
	k, err := kong.New(&cfg, durationMapper())
	if err == nil {
		_, err = k.Parse(nil)
	}
	if err != nil {
		panic(err) // the defaults are constants of this package
	}
	return cfg
}

// loopbackServerConfig is the default but for ports, which are free ones that
// only this machine reaches.
func loopbackServerConfig() serverConfig {
	cfg := defaultServerConfig()
	const free = "127.0.0.1:0"
	cfg.Proxy.BindAddr, cfg.Upstream.BindAddr, cfg.Admin.BindAddr, cfg.Cluster.Gossip.BindAddr = free, free, free, free
	return cfg
}
