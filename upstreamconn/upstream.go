package upstreamconn

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"piko/auth"
	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// openTime bounds opening a stream. It only waits for a peer that has accepted
// none of many streams before this one.
const openTime = 2 * time.Second

// renewTime is how long streams may go on in a tunnel that has no stream ids
// left.
const renewTime = 10 * time.Second

// upstream is one tunnel, as the router knows it. There may be very many of
// them, most of them idle: what only a busy one needs is made when it is.
type upstream struct {
	// Static after construction.
	server   *Server
	instance instance
	tenant   string // "" without tenants; in the instance's endpoint only if they are isolated
	local    *router.Local
	since    time.Time
	number   uint64 // of the tunnel at this node

	account account

	// pool and pool2 are nil until the first request that needs them. Set with
	// mu held; read without, for every request.
	pool  atomic.Pointer[relay.Pool]
	pool2 atomic.Pointer[relay.HTTP2Pool]

	question atomic.Pointer[question] // nil: not asked
	broken   atomic.Int32             // questions that came to nothing

	older, newer *upstream // of the same instance. Guarded by server.registry.mu
	due          due       // Guarded by server.expiries.mu

	// Guarded by mu. Only the table's own lock, that of the expiries and those
	// of the session are taken under it; the session holds none when it calls an event.
	mu      sync.Mutex
	sess    *tunnel.Session // nil until Accept has returned; then static
	name    string          // set with sess
	http2   bool            // it serves HTTP/2, too; set with sess
	remove  func()          // takes it out of the table; nil when it is not in there
	opening int             // Opens under way
	leaving bool            // opens no stream any more
	asked   bool            // to move, by us, because the node stops
	lingers bool            // stays in the table although it is leaving, see lingering
	drained bool            // tell the peer when the last Open is through
	held    chan struct{}   // closed when Opens need not wait any more; nil: they need not
	told    int             // the size of the cluster that the peer knows
	ended   error           // why the session ended
	renewed chan struct{}   // closed when the goroutine of retire has ended; nil if there is none

	grant     *auth.Grant   // of the token that it lives by; nil without authentication
	token     string        // a fresh one that is to be verified; "": none
	waiting   string        // one that could not be verified
	retry     time.Time     // when to try that again; zero: not to
	verifying chan struct{} // closed when the goroutine of verify has ended; nil if there is none
	expired   time.Time     // when it had to leave because of its token
	why       string        // it had to
}

func newUpstream(s *Server, id instance) *upstream {
	u := &upstream{server: s, instance: id, since: time.Now(), number: s.numbers.next()}
	u.local = router.NewLocal(u)
	return u
}

// options are those of u's session.
func (u *upstream) options() tunnel.Options {
	return tunnel.Options{
		StreamWindow: u.server.StreamWindow,
		MaxStreams:   u.server.MaxStreams,
		Wheel:        u.server.wheel,
		Budget:       u.server.Budget,
		Events: tunnel.Events{
			Drain:  u.onDrain,
			Weight: u.onWeight,
			GoAway: u.onGoAway,
			Token:  u.onToken,
			Closed: u.onClosed,
		},
	}
}

// String is the address of the tunnel's other end, for the access log: the
// lines about connects and disconnects have it too.
func (u *upstream) String() string { return u.name }

// RoundTrip sends a request over a stream that is kept for the next one, or over
// one that carries several at once if the request needs HTTP/2 and the upstream
// serves it, or serves nothing else.
func (u *upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	pool, err := u.poolFor(req)
	if err != nil {
		return nil, err
	}
	u.server.metrics.requests.Inc()
	u.account.requests.Add(1)
	res, err := pool.RoundTrip(req)
	if errors.Is(err, relay.ErrPoolClosed) {
		err = errLeaving // which is why
	}
	return res, err
}

// poolFor returns the pool for a request.
func (u *upstream) poolFor(req *http.Request) (http.RoundTripper, error) {
	if u.http2 && (relay.NeedsHTTP2(req) || u.isOnly2(req.Context())) {
		return lazily(u, &u.pool2, func() *relay.HTTP2Pool { return &relay.HTTP2Pool{Dial: u.dial, PingInterval: -1} }) // the tunnel is pinged
	}
	return u.pool1()
}

func (u *upstream) pool1() (*relay.Pool, error) {
	return lazily(u, &u.pool, func() *relay.Pool { return &relay.Pool{Dial: u.dial, Fresh: u.fresh} })
}

// LanePool is RoundTrip for who makes the exchange by a relay.Lane: it returns
// the streams for that, or false if the request is RoundTrip's after all.
func (u *upstream) LanePool(r *relay.LaneRequest) (*relay.Pool, bool) {
	if u.http2 && (r.Stream || !u.saidHTTP1()) {
		return nil, false
	}
	pool, err := u.pool1()
	if err != nil {
		return nil, false
	}
	u.server.metrics.requests.Inc()
	u.account.requests.Add(1)
	return pool, true
}

// Open opens a stream that is the caller's, for a client's TCP connection. A
// listener for HTTP would take the connection's bytes for requests, which then
// reach its service without anything that a proxy adds and takes away: such a
// listener gets none. Those of v0.9.0, and others that do not say what they
// are, do.
func (u *upstream) Open(ctx context.Context) (net.Conn, error) {
	if u.sess.Peer().Protocol == "http" {
		return nil, errNotTCP
	}
	u.server.metrics.requests.Inc()
	u.account.requests.Add(1)
	return u.dial(ctx)
}

// lazily returns the pool in p, which it makes for the first request.
func lazily[P relay.Pool | relay.HTTP2Pool](u *upstream, p *atomic.Pointer[P], make func() *P) (*P, error) {
	if pool := p.Load(); pool != nil {
		return pool, nil
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.leaving {
		return nil, errLeaving
	}
	pool := p.Load()
	if pool == nil {
		pool = make()
		p.Store(pool)
	}
	return pool, nil
}

// closePools closes the streams that no request uses; for good, if no request
// will follow.
func (u *upstream) closePools(forGood bool) {
	pool, pool2 := u.pool.Load(), u.pool2.Load()
	switch {
	case pool == nil:
	case forGood:
		pool.Close()
	default:
		pool.CloseIdle()
	}
	switch {
	case pool2 == nil:
	case forGood:
		pool2.Close()
	default:
		pool2.CloseIdle()
	}
}

// fresh says which requests must not meet a stream that the peer may be about
// to close: one without control cannot say beforehand that it will, and its
// race with a request that cannot be repeated would be lost.
func (u *upstream) fresh(method string) bool {
	if u.sess.HasControl() {
		return false
	}
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return false
	}
	return true
}

// dial opens a stream, unless the upstream is leaving. An error means that the
// upstream has seen nothing.
func (u *upstream) dial(ctx context.Context) (net.Conn, error) {
	if err := u.beginOpen(ctx); err != nil {
		return nil, err
	}
	defer u.opened()

	bounded, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	st, err := u.sess.Open(bounded)
	if err != nil {
		return nil, u.notOpened(ctx, err)
	}
	u.server.metrics.streams.Inc()
	return st, nil
}

// notOpened is what dial says of a session that opened no stream.
func (u *upstream) notOpened(ctx context.Context, err error) error {
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case errors.Is(err, tunnel.ErrTooManyStreams):
		return fault.New(fault.Overloaded, err)
	case errors.Is(err, tunnel.ErrExhausted):
		u.retire("its tunnel is used up")
	}
	return fault.New(fault.UpstreamUnreachable, err)
}

// beginOpen counts an Open. While the upstream is held it waits: for a second
// at most, see hold.
func (u *upstream) beginOpen(ctx context.Context) error {
	u.mu.Lock()
	defer u.mu.Unlock()
	for u.held != nil {
		held := u.held
		u.mu.Unlock()
		select {
		case <-held:
		case <-ctx.Done():
		}
		u.mu.Lock()
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
	}
	if u.leaving {
		return errLeaving
	}
	u.opening++
	return nil
}

// opened ends an Open. The last one before the peer leaves says so to the peer.
func (u *upstream) opened() {
	u.mu.Lock()
	u.opening--
	tell := u.drained && u.opening == 0
	u.mu.Unlock()
	if tell {
		u.sayDrained()
	}
}

// sayDrained needs that no Open is under way and none can start. An error says
// that the session has ended, which the peer sees for itself.
func (u *upstream) sayDrained() { _ = u.sess.Drained(u.sess.LastStreamID()) }

// errNotTCP is what an upstream returns that serves HTTP when it is to carry TCP.
var errNotTCP = fault.New(fault.WrongProtocol, nil)

// errLeaving is what an upstream returns that opens no stream any more.
var errLeaving error = leavingError{}

type leavingError struct{}

// Error says why there is no stream.
func (leavingError) Error() string { return "open stream: upstream is leaving" }

// Refused says that the upstream has seen nothing of the request.
func (leavingError) Refused() bool { return true }

// Is says that it is nobody's failure.
func (leavingError) Is(target error) bool { return target == error(fault.Draining) }
