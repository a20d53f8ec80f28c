package agent

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"piko/accesslog"
	"piko/relay"
	"piko/tracing"
	"piko/tunnel"
)

// maxHeaderBytes lets every header pass that a node lets pass (1 MiB), with
// what it adds.
const maxHeaderBytes = 2 << 20

// errCut is why requests end that outlive the grace period.
var errCut = fmt.Errorf("grace period is over: %w", relay.ErrGoingAway)

// farewellTime is what a WebSocket gets at the end: a second to be between two
// frames and for both sides to answer, and a moment to unwind.
const farewellTime = 1500 * time.Millisecond

// tunnels is what a listener needs of client.Listener.
type tunnels interface {
	net.Listener
	// Shutdown tells the node to choose others and goes on accepting the
	// streams that are under way, until none is left or ctx ends.
	Shutdown(ctx context.Context) error
	// SetWeight tells the nodes how much of the traffic to send here, 0 to 100.
	SetWeight(w int)
}

// listener serves one endpoint and forwards to one service. Its file
// handler.go has what it does with a request.
type listener struct {
	// Static after construction.
	cfg            Listener
	service        *service
	upstream       *upstream    // nil for TCP
	handler        http.Handler // the listener itself, or what Config.Wrap made of it; nil for TCP
	wrapped        bool         // handler is not the listener itself
	log            *slog.Logger
	metrics        *listenerMetrics
	access         *accesslog.Logger // nil is off
	tracer         *tracing.Tracer   // nil is off
	check          *checker          // of the service's health; nil is none
	connectTimeout time.Duration
	listen         func(context.Context) (tunnels, error)

	cancel context.CancelFunc // drains it; set before it runs
	up     chan struct{}      // closed when it is connected for the first time
	gone   chan struct{}      // closed when it runs no more

	// Safe for concurrent use.
	active    atomic.Int64 // requests, upgraded and TCP connections
	connected atomic.Bool
	tunnels   atomic.Int64 // that are open and not being left
	draining  atomic.Bool
	health    serviceHealth
	upgraded  atomic.Int64   // upgraded connections
	conns     sync.WaitGroup // connections of the HTTP server that are neither closed nor hijacked, or of the TCP server
	upgrades  sync.WaitGroup // upgraded connections; only added to while conns counts the connection
}

// newListener checks lc; the caller sets listen.
func newListener(cfg *Config, lc Listener, log *slog.Logger, m *metrics, access io.Writer) (*listener, error) {
	l, err := newListenerOf(cfg, lc, log, m, access)
	if err != nil {
		return nil, err
	}
	l.up, l.gone = make(chan struct{}), make(chan struct{})
	if lc.HealthCheck.Type == "" {
		return l, nil
	}
	l.check, err = newChecker(&l.cfg, l.service, l.log, m.health.listener(l.cfg.Endpoint))
	return l, err
}

// newListenerOf is newListener without what is the same for all protocols.
func newListenerOf(cfg *Config, lc Listener, log *slog.Logger, m *metrics, access io.Writer) (*listener, error) {
	endpoint, err := tunnel.ParseEndpoint(lc.Endpoint)
	if err != nil {
		return nil, err
	}
	lc.Endpoint = endpoint
	if lc.Protocol == protocolTCP {
		return newTCPListener(cfg, lc, log, m, access)
	}
	if err := checkHTTP(&lc); err != nil {
		return nil, err
	}
	service, err := newService(&lc)
	if err != nil {
		return nil, err
	}
	l := &listener{
		cfg: lc, service: service, upstream: newUpstream(&lc, service), log: log, metrics: m.listener(endpoint),
		connectTimeout: cfg.ConnectTimeout, tracer: cfg.Tracer,
	}
	l.handler = l
	if l.wrapped = cfg.Wrap != nil; l.wrapped {
		l.handler = cfg.Wrap(endpoint, lc.Addr, l)
	}
	if access != nil {
		options := cfg.AccessLog
		options.Subsystem = cmp.Or(options.Subsystem, accessSubsystem)
		l.access = accesslog.New(access, lc.AccessLog, options)
	}
	return l, nil
}

// run serves until ctx ends, or until the listener has failed for good; then
// it returns why. It returns when no goroutine of it is left.
func (l *listener) run(ctx context.Context, grace time.Duration) error {
	if l.upstream != nil {
		defer l.upstream.close()
	}
	if l.check != nil {
		defer l.check.start(ctx)()
		select {
		case <-l.check.opened:
		case <-ctx.Done():
			return nil
		}
	}
	ln, err := l.connect(ctx)
	if err != nil {
		if ctx.Err() != nil {
			return nil
		}
		return err // names the endpoint
	}
	if l.check != nil {
		l.check.attach(ln.SetWeight)
	}
	close(l.up)
	// Requests outlive ctx by the grace period.
	requests, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	srv := l.newFront(requests)
	served := make(chan error, 1)
	go func() { served <- srv.Serve(ln) }()
	select {
	case err = <-served:
		err = fmt.Errorf("serve endpoint %s: %w", l.cfg.Endpoint, err)
	case <-ctx.Done():
		l.drain(requests, cut, ln, grace)
	}
	cut(errCut)
	srv.Close()
	ln.Close()
	if err == nil {
		<-served
	}
	l.conns.Wait()
	l.upgrades.Wait()
	l.connection(false, false)
	l.tunnelCount(0)
	return err
}

// connect makes the first connection.
func (l *listener) connect(ctx context.Context) (tunnels, error) {
	if l.connectTimeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, l.connectTimeout)
		defer cancel()
	}
	return l.listen(ctx)
}

// server is the HTTP server over the streams of the tunnels. It has no
// time-outs: a stream may be idle in the node's pool for as long as the node
// likes, and no default ever cuts a long request.
func (l *listener) server(base context.Context) *http.Server {
	return &http.Server{
		Handler:                      l.handler,
		DisableGeneralOptionsHandler: true, // OPTIONS * is the service's
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     log.New(serverLog{l.log}, "", 0),
		BaseContext:                  func(net.Listener) context.Context { return base },
		ConnContext:                  withStream,
		ConnState:                    l.connState,
	}
}

// connState counts the connections that have a goroutine of the server.
// StateNew is reported by Serve itself, so none is added once it has returned.
func (l *listener) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		l.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		l.conns.Done()
	}
}

// drain lets the requests in flight end while the node sends no new ones, and
// cuts what is left when the grace period is over; ctx is that of the requests.
// http.Server.Shutdown is of no use here: it would close idle streams on which
// requests are on their way.
func (l *listener) drain(ctx context.Context, cut context.CancelCauseFunc, ln tunnels, grace time.Duration) {
	l.draining.Store(true)
	begin := time.Now()
	logger := l.log.With("endpoint", l.cfg.Endpoint)
	logger.Info("listener draining", "in_flight", l.active.Load(), "grace_period", grace.String())
	var left int64 // counted before anything is cut, since cutting ends requests
	counted, shut := make(chan struct{}), make(chan struct{})
	streams, cutStreams := context.WithCancel(context.WithoutCancel(ctx))
	defer cutStreams()
	over := time.AfterFunc(grace, func() {
		defer close(counted)
		left = l.active.Load()
		farewell := l.upgraded.Load() > 0
		cut(errCut)
		if farewell { // WebSockets are told why, over streams that must still be there
			select {
			case <-shut:
			case <-time.After(farewellTime):
			}
		}
		cutStreams()
	})
	err := ln.Shutdown(streams)
	close(shut)
	if !over.Stop() {
		<-counted
	}
	switch {
	case left > 0:
		l.metrics.cut.Add(float64(left))
		logger.Warn("requests cut at the end of the grace period", "count", left)
	case err != nil && streams.Err() == nil:
		logger.Warn("drain of the listener failed", "error", err)
	}
	logger.Info("listener stopped", "cut", left, "took", time.Since(begin).String())
}
