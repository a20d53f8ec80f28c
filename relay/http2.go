package relay

import (
	"context"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Defaults and bounds of an HTTP2Pool.
const (
	defaultHTTP2Conns = 64
	// growAt is how many exchanges a connection has before another one is opened beside it, up to growTo: all frames of a
	// connection pass one lock and one reader, and a lost packet stops them all.
	growAt = 64
	growTo = 16
	// maxAttempts is how often one RoundTrip sends a request that the service says it did not take.
	maxAttempts = 3
)

// HTTP2Pool makes HTTP/2 exchanges with one destination, over a few connections that it opens as the load asks for. It
// keeps the contract of Pool, so that callers use either: Watcher contexts, NeverExecuted, Responded and ClientError,
// 1xx, trailers both ways, full duplex, bodies that end nothing but their own exchange. It knows no upgrades: Upgrade
// fields are left out, and the request is an ordinary one. The zero value with Dial works. It is safe for concurrent use.
//
// What differs is what HTTP/2 and Go's client for it say: a response of status 300 and up stops the request's body, and
// a connection that breaks takes all of its exchanges with it.
type HTTP2Pool struct {
	// Static after the first use.

	// Dial opens a connection whose other side speaks HTTP/2 at once, with TLS done if there is any. What it fails with
	// is NeverExecuted. Requests that wait for the same connection share one call, whose context is not a request's.
	Dial func(ctx context.Context) (net.Conn, error)
	// TLS says that the connections are encrypted: requests carry the scheme https rather than http.
	TLS bool
	// MaxConns bounds the connections. 0 is 64. Requests beyond what they can carry wait.
	MaxConns int
	// IdleTimeout closes connections that were idle for so long. 0 is 90 s, less than 0 never.
	IdleTimeout time.Duration
	// PingInterval is how long a connection may be silent before the other side is asked whether it lives; it has 15 s
	// to answer. 0 is 5 min and 10 s, less than 0 never: servers of gRPC end connections whose clients ask more often
	// than every 5 min while nothing else is said.
	PingInterval time.Duration
	// MaxResponseHeader bounds the header of a response in bytes; 0 is 256 KiB.
	MaxResponseHeader int
	// RetryStale is that of Pool.
	RetryStale bool

	waiting atomic.Int32 // requests that wait for room

	once      sync.Once
	transport *http.Transport // set by once

	// Guarded by mu, which is not held while a connection's methods are called: they call back.
	mu      sync.Mutex
	conns   []*http2Conn  // never changed in place
	dialing *http2Dial    // nil: nobody dials
	changed chan struct{} // closed when there may be room; nil: nobody waits
	closed  bool
}

// RoundTrip implements http.RoundTripper as Pool.RoundTrip does, but for 101: the response is never an upgrade.
func (p *HTTP2Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	err := checkRequest(req)
	if err == nil && ctx.Err() != nil {
		err = &exchangeError{op: "send request", err: context.Cause(ctx), never: true}
	}
	for attempt := 1; err == nil; attempt++ {
		c, takeErr := p.take(ctx)
		if takeErr != nil {
			err = &exchangeError{op: "open connection", err: takeErr, never: true}
			break
		}
		x := newHTTP2Exchange(p, c, req)
		res, xerr := x.run()
		if xerr == nil {
			return res, nil
		}
		if x.body != nil && !x.body.untouched() {
			return nil, xerr // it closes the request's body
		}
		if attempt == maxAttempts || !p.again(x, xerr) {
			err = xerr
		}
	}
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return nil, err
}

// again reports whether a request of whose body nothing was read may be sent once more.
func (p *HTTP2Pool) again(x *http2Exchange, err error) bool {
	req := x.req
	if req.Context().Err() != nil {
		return false
	}
	if NeverExecuted(err) {
		return true
	}
	// A service that ends one stream and keeps the connection has seen the request, and most likely would end the next.
	stale := x.reused && x.c.cc.Err() != nil
	return p.RetryStale && stale && !hasBody(req) && Idempotent(req.Method) && !Responded(err)
}

// Probe opens a connection unless there is one, and says nil if the other side speaks HTTP/2, ErrNotHTTP2 if it does
// not, and something else if that is not known. ctx ends the waiting, but not the dial.
func (p *HTTP2Pool) Probe(ctx context.Context) error {
	c, err := p.take(ctx)
	if err == nil {
		c.cc.Release()
	}
	return err
}

// CloseIdle closes the connections that no exchange uses now. Later exchanges open new ones.
func (p *HTTP2Pool) CloseIdle() {
	for _, c := range p.list() {
		if c.cc.InFlight() == 0 {
			p.retire(c)
		}
	}
}

// Close closes the idle connections, now and for good: exchanges under way go on to their end, new ones fail with
// ErrPoolClosed. It waits for nothing.
func (p *HTTP2Pool) Close() {
	p.mu.Lock()
	p.closed = true
	if p.dialing != nil {
		p.dialing.cancel()
	}
	p.wake()
	p.mu.Unlock()
	for _, c := range p.list() {
		p.retire(c)
	}
}

// list returns the connections; it is not to be changed.
func (p *HTTP2Pool) list() []*http2Conn {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.conns
}

func (p *HTTP2Pool) maxConns() int {
	if p.MaxConns <= 0 {
		return defaultHTTP2Conns
	}
	return p.MaxConns
}
