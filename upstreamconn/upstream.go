package upstreamconn

import (
	"context"
	"errors"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

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
	local    *router.Local
	since    time.Time

	// pool is nil until the first request. Set with mu held; read without, for
	// every request.
	pool atomic.Pointer[relay.Pool]

	older, newer *upstream // of the same instance. Guarded by server.registry.mu

	// Guarded by mu. The table's own lock is the only one taken under it.
	mu      sync.Mutex
	sess    *tunnel.Session // nil until Accept has returned; then static
	remove  func()          // takes it out of the table; nil when it is not in there
	opening int             // Opens under way
	leaving bool            // opens no stream any more
	drained bool            // tell the peer when the last Open is through
	ended   error           // why the session ended
}

func newUpstream(s *Server, id instance) *upstream {
	u := &upstream{server: s, instance: id, since: time.Now()}
	u.local = router.NewLocal(u)
	return u
}

// options are those of u's session.
func (u *upstream) options() tunnel.Options {
	return tunnel.Options{
		StreamWindow: u.server.StreamWindow,
		MaxStreams:   u.server.MaxStreams,
		Wheel:        u.server.wheel,
		Events: tunnel.Events{
			Drain:  u.onDrain,
			Weight: u.local.SetWeight,
			GoAway: u.onGoAway,
			Closed: u.onClosed,
		},
	}
}

// RoundTrip sends a request over a stream that is kept for the next one.
func (u *upstream) RoundTrip(req *http.Request) (*http.Response, error) {
	pool := u.pool.Load()
	if pool == nil {
		var err error
		if pool, err = u.makePool(); err != nil {
			return nil, err
		}
	}
	u.server.metrics.requests.Inc()
	return pool.RoundTrip(req)
}

// Open opens a stream that is the caller's.
func (u *upstream) Open(ctx context.Context) (net.Conn, error) {
	u.server.metrics.requests.Inc()
	return u.dial(ctx)
}

// makePool makes the pool for the first request.
func (u *upstream) makePool() (*relay.Pool, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.leaving {
		return nil, errLeaving
	}
	pool := u.pool.Load()
	if pool == nil {
		pool = &relay.Pool{Dial: u.dial, Fresh: u.fresh}
		u.pool.Store(pool)
	}
	return pool, nil
}

// fresh says which requests must not meet a stream that the peer may be about
// to close: one without control cannot say beforehand that it will, and its
// race with a request that cannot be repeated would be lost.
func (u *upstream) fresh(req *http.Request) bool {
	if u.sess.HasControl() {
		return false
	}
	switch req.Method {
	case http.MethodGet, http.MethodHead, http.MethodOptions, http.MethodTrace, http.MethodPut, http.MethodDelete:
		return false
	}
	return true
}

// dial opens a stream, unless the upstream is leaving. An error means that the
// upstream has seen nothing.
func (u *upstream) dial(ctx context.Context) (net.Conn, error) {
	u.mu.Lock()
	if u.leaving {
		u.mu.Unlock()
		return nil, errLeaving
	}
	u.opening++
	u.mu.Unlock()
	defer u.opened()

	bounded, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	st, err := u.sess.Open(bounded)
	switch {
	case err == nil:
		return st, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, tunnel.ErrTooManyStreams):
		return nil, fault.New(fault.Overloaded, err)
	case errors.Is(err, tunnel.ErrExhausted):
		u.renew()
	}
	return nil, fault.New(fault.UpstreamUnreachable, err)
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

// onDrain: the peer wants no new streams.
func (u *upstream) onDrain(m tunnel.DrainMessage) {
	u.server.log.Info("upstream drains", "endpoint", u.instance.endpoint, "instance", u.instance.id, "reason", m.Reason)
	u.leave()
	u.mu.Lock()
	u.drained = true
	tell := u.sess != nil && u.opening == 0
	u.mu.Unlock()
	if tell {
		u.sayDrained()
	}
}

// onGoAway: a peer without control wants no new streams.
func (u *upstream) onGoAway(code uint32) {
	u.server.log.Info("upstream goes away", "endpoint", u.instance.endpoint, "instance", u.instance.id, "code", code)
	u.leave()
}

// leave takes the upstream out of the table and closes its idle streams. What
// is under way goes on. It does no harm to say it again.
func (u *upstream) leave() {
	u.mu.Lock()
	u.leaving = true
	remove, pool := u.remove, u.pool.Load()
	u.remove = nil
	u.mu.Unlock()
	if remove != nil {
		remove()
	}
	if pool != nil {
		pool.Close()
	}
	u.server.registry.leave(u)
}

// join puts the upstream into the table, unless it is leaving already: the
// session has been running for a moment.
func (u *upstream) join(sess *tunnel.Session) {
	u.logConnect(sess)
	u.mu.Lock()
	u.sess = sess
	leaving, ended := u.leaving, u.ended
	tell := u.drained && u.opening == 0
	if !leaving {
		u.remove = u.server.Table.Add(u.instance.endpoint, u.local)
	}
	u.mu.Unlock()
	switch {
	case ended != nil:
		u.gone(ended)
	case leaving:
		u.server.registry.leave(u)
		if tell {
			u.sayDrained()
		}
	default:
		u.supersede()
	}
}

// supersede asks the tunnel that the same instance had before for a sign of
// life.
func (u *upstream) supersede() {
	older := u.server.registry.supersede(u)
	if older == nil {
		return
	}
	if sess := older.session(); sess != nil {
		sess.Probe()
	}
}

// renew ends a tunnel that is used up, when its last stream has ended or at the
// latest after renewTime: the upstream will open a new one.
func (u *upstream) renew() {
	u.mu.Lock()
	again := u.leaving
	u.leaving = true
	u.mu.Unlock()
	if again {
		return
	}
	u.server.log.Info("upstream has to reconnect: its tunnel is used up", "endpoint", u.instance.endpoint, "instance", u.instance.id)
	u.leave()
	go u.endWhenQuiet()
}

// endWhenQuiet closes the tunnel. It ends with the session at the latest.
func (u *upstream) endWhenQuiet() {
	late := time.NewTimer(renewTime)
	defer late.Stop()
	look := time.NewTicker(quietPoll)
	defer look.Stop()
	for waiting := true; waiting && u.sess.NumStreams() > 0; {
		select {
		case <-look.C:
		case <-late.C:
			waiting = false
		case <-u.sess.Done():
			return
		}
	}
	_ = u.sess.CloseWithGoAway(tunnel.CodeReconnect)
}

// session is nil until Accept has returned.
func (u *upstream) session() *tunnel.Session {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sess
}

// settled says that no stream is about to be opened, and none will.
func (u *upstream) settled() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.leaving && u.opening == 0
}

// onClosed: the session has ended.
func (u *upstream) onClosed(err error) {
	u.leave()
	u.mu.Lock()
	u.ended = err
	joined := u.sess != nil
	u.mu.Unlock()
	if joined {
		u.gone(err)
	}
}

// gone is called once, when the session has both begun and ended.
func (u *upstream) gone(err error) {
	u.server.registry.leave(u)
	u.server.metrics.disconnects.WithLabelValues(disconnectLabel(err)).Inc()
	u.logDisconnect(err)
	// The session's goroutines are about to end; this one waits for them, and
	// Close of the server for this one.
	go func() {
		_ = u.sess.Close()
		u.server.registry.forget(u)
	}()
}

func (u *upstream) logConnect(sess *tunnel.Session) {
	peer := sess.Peer()
	u.server.log.Info("upstream connected", "endpoint", u.instance.endpoint, "remote", sess.RemoteAddr().String(),
		"instance", peer.Instance, "protocol", peer.Protocol, "features", peer.Features)
}

// logDisconnect warns of what nobody intended.
func (u *upstream) logDisconnect(err error) {
	log := u.server.log.Warn
	if errors.Is(err, tunnel.ErrClosedByPeer) || errors.Is(err, tunnel.ErrClosedByUs) {
		log = u.server.log.Info
	}
	log("upstream disconnected", "endpoint", u.instance.endpoint, "remote", u.sess.RemoteAddr().String(),
		"instance", u.instance.id, "duration", time.Since(u.since), "reason", err.Error())
}

// errLeaving is what an upstream returns that opens no stream any more.
var errLeaving error = leavingError{}

type leavingError struct{}

// Error says why there is no stream.
func (leavingError) Error() string { return "open stream: upstream is leaving" }

// Refused says that the upstream has seen nothing of the request.
func (leavingError) Refused() bool { return true }

// Is says that it is nobody's failure.
func (leavingError) Is(target error) bool { return target == error(fault.Draining) }
