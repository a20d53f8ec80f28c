package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/relay"
)

const (
	// probeTime is how long a service may take to show whether it speaks HTTP/2.
	probeTime = 2 * time.Second
	// askAgain is how long a service that does not is taken at its word for gRPC.
	askAgain = 30 * time.Second
	// In the time of doubtTime after a service has spoken HTTP/2 it is asked again
	// every askSoon: what hangs up may be starting, or stopping.
	askSoon   = time.Second
	doubtTime = 2 * time.Minute
)

// errRefusesHTTP1 is why there is no connection for HTTP/1.1 to a TLS service.
var errRefusesHTTP1 = errors.New("service does not agree to HTTP/1.1")

// upstream sends requests to a listener's service, in the protocol that each
// needs and the service speaks. Safe for concurrent use.
type upstream struct {
	// Static after construction.
	service *service
	http1   *relay.Pool
	http2   *relay.HTTP2Pool

	connects atomic.Int64  // connections for HTTP/2 that were opened, before it was known whether they are
	only2    atomic.Bool   // the service does not agree to HTTP/1.1
	heard1   atomic.Bool   // the service has answered in HTTP/1.1, and not failed since
	asking   chan struct{} // full while somebody is in isOnly2

	// Guarded by mu.
	mu      sync.Mutex
	known   bool // speaks2 is known
	speaks2 bool
	until   time.Time // when a no is asked about again
	doubt   time.Time // when a no begins to hold for long
}

func newUpstream(l *Listener, s *service) *upstream {
	idle := l.MaxIdle
	if idle < 0 {
		idle = 1 << 16 // there are no more ports
	}
	u := &upstream{service: s, asking: make(chan struct{}, 1)}
	u.http1 = &relay.Pool{Dial: u.dial1, MaxIdle: idle, IdleTimeout: l.IdleTimeout, RetryStale: true}
	u.http2 = &relay.HTTP2Pool{Dial: u.dial2, TLS: s.tls != nil, IdleTimeout: l.IdleTimeout, RetryStale: true}
	return u
}

// close closes the idle connections.
func (u *upstream) close() {
	u.http1.Close()
	u.http2.Close()
}

// choose returns what sends the request.
func (u *upstream) choose(req *http.Request) (http.RoundTripper, error) {
	switch {
	case u.service.speaks == UpstreamHTTP1:
		return u.http1, nil
	case u.service.speaks == UpstreamHTTP2 || u.only2.Load():
		return u.http2, nil
	case !relay.NeedsHTTP2(req):
		if u.unsure(req) && u.isOnly2(req.Context()) {
			return u.http2, nil
		}
		return u.http1, nil
	}
	if u.said1(req) {
		return u.http1, nil
	}
	yes, err := u.ask(req.Context())
	if err != nil {
		return nil, err
	}
	if yes {
		return u.http2, nil
	}
	return u.http1, nil
}

// takes1 reports whether choose would have the request sent as HTTP/1.1.
func (u *upstream) takes1(ctx context.Context, r *relay.LaneRequest) bool {
	switch {
	case u.service.speaks == UpstreamHTTP1:
		return true
	case u.service.speaks == UpstreamHTTP2 || u.only2.Load():
		return false
	case r.Stream:
		return u.heard1.Load() && u.saidNo()
	case !r.Whole && !u.heard1.Load():
		return !u.isOnly2(ctx)
	}
	return true
}

// said1 reports whether a service that has no HTTP/2 need not be asked again for
// this request: HTTP/1.1 carries every body but those of gRPC, the service does
// answer in it, and each question is a strange line in its log.
func (u *upstream) said1(req *http.Request) bool {
	return !fault.IsGRPC(req.Header) && u.heard1.Load() && u.saidNo()
}

// saidNo reports whether the service has had no HTTP/2 for long.
func (u *upstream) saidNo() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.known && !u.speaks2 && time.Now().After(u.doubt)
}

// ask finds out whether the service speaks HTTP/2, unless that is known. An
// error says that the service could not be reached.
func (u *upstream) ask(ctx context.Context) (bool, error) {
	if yes, known := u.verdict(); known {
		return yes, nil
	}
	before := u.connects.Load()
	probe, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	err := u.http2.Probe(probe)
	silent := ctx.Err() == nil && probe.Err() != nil && u.connects.Load() > before
	if err != nil && !silent && !errors.Is(err, relay.ErrNotHTTP2) {
		return false, err
	}
	u.learn(err == nil)
	return err == nil, nil
}

func (u *upstream) verdict() (speaks2, known bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.speaks2, u.known && (u.speaks2 || time.Now().Before(u.until))
}

func (u *upstream) learn(speaks2 bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	now, wait := time.Now(), askAgain
	if u.speaks2 {
		u.doubt = now.Add(doubtTime)
	}
	if now.Before(u.doubt) {
		wait = askSoon
	}
	u.known, u.speaks2, u.until = true, speaks2, now.Add(wait)
}

// mistaken reports whether a request failed only because the service speaks
// another protocol than was thought, and learns that: it may have been replaced
// by another. Nothing of the request has reached it.
func (u *upstream) mistaken(ctx context.Context, rt http.RoundTripper, err error) bool {
	if u.service.speaks != UpstreamAuto {
		return false
	}
	if rt == u.http1 {
		return u.refuses(ctx, err)
	}
	if !errors.Is(err, relay.ErrNotHTTP2) {
		return false
	}
	u.only2.Store(false)
	u.learn(false)
	return true
}

// dial1 opens a connection for HTTP/1.1. A TLS service that does not agree to
// that by ALPN gets everything by HTTP/2 from then on.
func (u *upstream) dial1(ctx context.Context) (net.Conn, error) {
	conn, _, err := u.service.open(ctx, u.service.tls)
	if err != nil && u.service.speaks == UpstreamAuto && strings.Contains(err.Error(), noProtocol) {
		u.only2.Store(true)
		return nil, &dialError{errRefusesHTTP1}
	}
	return conn, err
}

// noProtocol is what crypto/tls calls the alert for ALPN, which has no type of
// its own that is exported.
const noProtocol = "no application protocol"

// dial2 opens a connection for HTTP/2.
func (u *upstream) dial2(ctx context.Context) (net.Conn, error) {
	conn, agreed, err := u.service.open(ctx, u.service.tls2)
	if err != nil {
		return nil, err
	}
	u.connects.Add(1)
	if u.service.tls2 != nil && agreed != "h2" {
		_ = conn.Close()
		return nil, &dialError{fmt.Errorf("%w: it agrees to %q", relay.ErrNotHTTP2, agreed)}
	}
	return conn, nil
}
