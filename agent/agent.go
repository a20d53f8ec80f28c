// Package agent makes local services reachable through piko: it listens
// on endpoints with the SDK (package client) and forwards the requests that
// arrive to the services.
//
// The flow of one listener: the client keeps tunnels to nodes; on every stream
// that the node opens, a relay.Lane carries plain requests to a pool of
// connections to the service (relay.Pool) and the answers back. A request that
// needs more takes its stream to a net/http server, whose handler does the same
// with relay.Pool, or relay.HTTP2Pool for what needs it. The node has authenticated, counted
// and marked the request already, so the handler changes no header but the
// hop-by-hop ones.
//
// The agent is not a server of its own: it opens no port, has no flags and
// reads no file. Package main calls New and Run, and may serve MetricsHandler.
package agent

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/client"
	"piko/tracing"
)

const defaultGracePeriod = time.Minute

// Config says what an Agent listens on and where it forwards to.
type Config struct {
	// Listeners has at least one entry; two may share an endpoint.
	Listeners []Listener

	// AccessLog is what the program decides for all access logs. Its Subsystem
	// is "proxy.http.access" if empty, as in v0.9.0.
	AccessLog accesslog.Options

	// TCPAccessLog is the same for TCP listeners: "proxy.tcp.access" if empty.
	TCPAccessLog accesslog.Options

	// TCPLog gets what happens to TCP listeners; nil means New's log.
	TCPLog *slog.Logger

	// ConnectTimeout bounds the first connect of each listener: a listener
	// that was not connected within it has failed for good. 0 means that it
	// tries for as long as Run runs. A listener that was connected once never
	// gives up.
	ConnectTimeout time.Duration

	// GracePeriod is how long requests in flight may take to end when Run is
	// told to stop; what is left then is cut. 0 means 1 minute, negative cuts
	// at once.
	GracePeriod time.Duration

	// Tracer makes spans of the requests to HTTP listeners; nil makes none.
	Tracer *tracing.Tracer

	// Wrap, if not nil, is asked once for each HTTP listener for what serves its
	// requests in place of next, which forwards them to the service; service is
	// the listener's address as it was given. What it returns is called by many
	// goroutines, has to call next, and hands it a ResponseWriter that has Unwrap.
	// If that one has a method Failed(error), it is told before next returns why
	// a request failed: the error of a service that was not reached, or of an
	// answer that was broken off. next also takes requests that no client sent.
	Wrap func(endpoint, service string, next http.Handler) http.Handler
}

// The values of Listener.UpstreamProtocol.
const (
	// UpstreamAuto is HTTP/1.1, and HTTP/2 for what needs it: calls of gRPC, and
	// streams that go both ways. Whether the service speaks HTTP/2 is found out
	// when the first of these comes, by ALPN if there is TLS; one that does not
	// gets them as HTTP/1.1. A TLS service that does not agree to HTTP/1.1 gets
	// everything as HTTP/2.
	UpstreamAuto = "auto"
	// UpstreamHTTP1 is HTTP/1.1 for everything.
	UpstreamHTTP1 = "http1"
	// UpstreamHTTP2 is HTTP/2 for everything, with prior knowledge if there is no
	// TLS. It has no upgrades: a WebSocket's request is an ordinary one to it.
	UpstreamHTTP2 = "h2"
)

// Listener is one endpoint and the service behind it.
type Listener struct {
	// ID tells a listener from another that says anything else; see Prepare.
	// Empty is none.
	ID string

	// Endpoint is the name to listen on.
	Endpoint string

	// Protocol is what the endpoint speaks: "http", also if empty, or "tcp",
	// whose connections are forwarded byte by byte.
	Protocol string

	// Addr is the service: a port, host:port, or a URL whose path is put before
	// the path of every request. Its scheme is http or https; or h2c, grpc
	// (cleartext both) or grpcs (TLS) for services that speak HTTP/2 only. A TCP
	// service has no URL.
	Addr string

	// UpstreamProtocol is what an HTTP service is spoken to: UpstreamHTTP1,
	// UpstreamHTTP2, or UpstreamAuto, also if empty. The schemes for HTTP/2 mean
	// UpstreamHTTP2.
	UpstreamProtocol string

	// ProxyProtocol has a TCP service told who the client is by a PROXY header
	// before the first byte: "v1" or "v2". Empty is none. A client that the
	// node does not name is UNKNOWN (v1) or LOCAL (v2).
	ProxyProtocol string

	// HealthCheck says how to find out whether the service works. Without a Type
	// nobody asks.
	HealthCheck HealthCheck

	// AccessLog says what is logged of each request.
	AccessLog accesslog.Config

	// DialTimeout bounds connecting to the service, the TLS handshake
	// included. 0 means 10 seconds. How long the service may take to answer
	// is the node's business.
	DialTimeout time.Duration

	// KeepAlive is the interval of TCP keepalive probes to the service. 0
	// means 30 seconds, negative turns them off.
	KeepAlive time.Duration

	// IdleTimeout closes connections to the service that were unused for this
	// long. 0 means 90 seconds, negative never. A value below the service's
	// own idle time-out avoids requests that cross its close.
	IdleTimeout time.Duration

	// MaxIdle bounds the idle connections that are kept. 0 means as many as
	// were busy at once lately, negative means no bound.
	MaxIdle int

	// TLS is used for https services; nil means the system's certificate
	// authorities and the host of Addr as the name. New clones it.
	TLS *tls.Config
	// GetTLS, if not nil, is asked for each connection in place of TLS, by any
	// goroutine: for certificates and authorities that change.
	GetTLS func() *tls.Config
}

// Agent runs the listeners of a Config, which Prepare changes. Make one with New;
// Run it once.
type Agent struct {
	// Static after construction.
	grace time.Duration
	log   *slog.Logger
	build func(Listener) (*listener, error)

	ctx  context.Context // Run's; static once there are live listeners
	work sync.WaitGroup  // goroutines; only added to with mu held while there are live listeners
	over chan struct{}   // closed when there are none any more

	// Guarded by mu.
	mu        sync.Mutex
	listeners []*listener // that are wanted
	live      int         // those that run, wanted or not
	errs      []error     // of those that failed
}

var errNoListeners = errors.New("no listeners configured")

// New checks cfg and returns an agent that is not connected yet. Every
// listener connects with a copy of template. A nil log discards, a nil reg
// means no metrics, a nil access no access log. Access is written to by many
// goroutines, one line in each call, as accesslog.Writer allows. Errors name
// the listener and the remedy.
func New(cfg Config, template *client.Client, log *slog.Logger, reg prometheus.Registerer, access io.Writer) (*Agent, error) {
	if len(cfg.Listeners) == 0 {
		return nil, errNoListeners
	}
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	m, err := newMetrics(reg)
	if err != nil {
		return nil, err
	}
	a := &Agent{grace: gracePeriod(cfg.GracePeriod), log: log}
	a.build = func(lc Listener) (*listener, error) {
		l, err := newListener(&cfg, lc, log, m, access)
		if err == nil {
			l.listen = l.dialer(template)
		}
		return l, err
	}
	c, err := a.Prepare(cfg.Listeners)
	if err != nil {
		return nil, err
	}
	c.Commit()
	return a, nil
}

func gracePeriod(d time.Duration) time.Duration {
	return max(orDefault(d, defaultGracePeriod), 0)
}

// Run connects the listeners and serves them until ctx ends; then it drains
// them, waits for the requests in flight as long as the grace period allows,
// and returns nil. It returns an error when every listener has failed for
// good; the failure of one of several is only logged. It leaves no goroutine
// behind.
func (a *Agent) Run(ctx context.Context) error {
	over := make(chan struct{})
	a.mu.Lock()
	a.ctx, a.over = ctx, over
	for _, l := range a.listeners {
		a.start(l)
	}
	a.mu.Unlock()
	<-over
	a.work.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return errors.Join(a.errs...)
}

// start runs a listener; it needs mu.
func (a *Agent) start(l *listener) {
	ctx, cancel := context.WithCancel(a.ctx)
	l.cancel = cancel
	a.live++
	a.work.Go(func() {
		defer cancel()
		err := l.run(ctx, a.grace)
		close(l.gone)
		if err != nil {
			a.log.Error("listener failed", "endpoint", l.cfg.Endpoint, "error", err)
		}
		a.ended(err)
	})
}

// ended takes note of the end of a listener.
func (a *Agent) ended(err error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if err != nil {
		a.errs = append(a.errs, err)
	}
	if a.live--; a.live == 0 {
		close(a.over)
	}
}
