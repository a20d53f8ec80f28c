package peer

import (
	"context"
	"errors"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/tunnel"
)

const (
	// openTime bounds opening a stream. It only waits for a peer that has
	// accepted none of many streams before this one.
	openTime = time.Second

	// idleStream is how long a pooled stream may be idle.
	idleStream = 45 * time.Second

	// growAbove is how many streams a session may have in use before there
	// should be another one.
	growAbove = 64
)

// session is a connection of a Link: one proven connection and the streams on
// it that are kept for the next request.
type session struct {
	// Static after construction.
	l       *Link
	sess    *tunnel.Session
	pool    *relay.Pool
	since   time.Time
	asked   chan struct{} // closed when the other node wants no more streams
	retired chan struct{} // closed when we want no more

	askOnce, retireOnce sync.Once

	// Written by every request.
	busy    atomic.Int32 // requests that have no answer yet
	leaving atomic.Bool  // is given no new ones

	// Guarded by mu.
	mu      sync.Mutex
	opening int           // Opens under way
	closed  bool          // opens no stream any more
	broken  error         // what opening failed with
	settled chan struct{} // closed when none is under way; nil unless waited for
}

// newSession takes over a proven connection.
func newSession(l *Link, nc net.Conn) *session {
	s := &session{l: l, since: time.Now(), asked: make(chan struct{}), retired: make(chan struct{})}
	s.pool = &relay.Pool{Dial: s.dial, IdleTimeout: idleStream, MaxResponseHeader: maxHeaderBytes}
	s.sess = tunnel.NewPeerSession(nc, true, tunnel.Options{Budget: l.p.opt.Budget, Events: tunnel.Events{
		Drain:  func(tunnel.DrainMessage) { s.onAsked() },
		GoAway: func(uint32) { s.onAsked() },
	}})
	return s
}

func (s *session) onAsked() { s.askOnce.Do(func() { close(s.asked) }) }

// hold takes the session for a request, unless it is leaving or has ended;
// release must follow. Who sees leaving false here is seen by whoever waits for
// busy to fall to 0 after having set it.
func (s *session) hold() bool {
	s.busy.Add(1)
	if !s.leaving.Load() {
		select {
		case <-s.sess.Done():
		default:
			return true
		}
	}
	s.busy.Add(-1)
	return false
}

// why says why the session takes no more requests.
func (s *session) why() error {
	if err := s.sess.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.broken != nil {
		return s.broken
	}
	select {
	case <-s.asked:
		return errAsked
	default:
		return errRetired
	}
}

func (s *session) release() { s.busy.Add(-1) }

// dial opens a stream for the pool, which has none idle: all streams are in
// use. An error means that the other node has seen nothing.
func (s *session) dial(ctx context.Context) (net.Conn, error) {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil, errLeaving
	}
	s.opening++
	s.mu.Unlock()
	defer s.opened()

	bounded, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	st, err := s.sess.Open(bounded)
	switch {
	case err == nil:
		if s.sess.NumStreams() > growAbove {
			s.l.grow()
		}
		return st, nil
	case ctx.Err() != nil:
		return nil, context.Cause(ctx)
	case errors.Is(err, tunnel.ErrTooManyStreams):
		s.l.grow()
		return nil, fault.New(fault.Overloaded, err)
	case errors.Is(err, tunnel.ErrExhausted):
		s.retire()
	case !errors.Is(err, context.DeadlineExceeded): // it has ended, or is about to
		s.mu.Lock()
		s.broken = err
		s.mu.Unlock()
		s.leaving.Store(true)
		s.l.forsake(s)
	}
	return nil, fault.New(fault.UpstreamUnreachable, err)
}

// opened ends an Open.
func (s *session) opened() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.opening--; s.opening == 0 && s.settled != nil {
		close(s.settled)
		s.settled = nil
	}
}

// shut opens no stream any more and closes the idle ones; what is under way
// goes on. It returns when no Open is under way, which takes openTime at most.
func (s *session) shut() {
	s.leaving.Store(true)
	s.mu.Lock()
	s.closed = true
	var settled chan struct{}
	if s.opening > 0 {
		settled = make(chan struct{})
		s.settled = settled
	}
	s.mu.Unlock()
	s.pool.Close()
	if settled != nil {
		<-settled
	}
}

// retire has the session left by us.
func (s *session) retire() {
	s.leaving.Store(true)
	s.retireOnce.Do(func() { close(s.retired) })
}

// run ends the session when it has to end, and waits for it. It outlives its link
// by what is under way; ctx is of all of the node's sessions.
func (s *session) run(ctx context.Context) {
	select {
	case <-s.asked:
		s.leave(ctx)
	case <-s.retired:
		s.yield(ctx)
	case <-s.l.ctx.Done():
		s.yield(ctx)
	case <-s.sess.Done():
	case <-ctx.Done():
	}
	s.leaving.Store(true)
	s.l.forsake(s)
	_ = s.sess.Close()
	s.shut()
	s.l.gone(s)
}

// yield is leave when it is we who want it: who has chosen the session already is
// not to be told no.
func (s *session) yield(ctx context.Context) {
	s.leaving.Store(true)
	s.l.forsake(s)
	for s.busy.Load() > 0 && s.pause(ctx) {
	}
	s.leave(ctx)
}

// leave ends the session when its last stream has ended.
func (s *session) leave(ctx context.Context) {
	s.leaving.Store(true)
	s.l.forsake(s)
	s.shut()
	_ = s.sess.Drained(s.sess.LastStreamID()) // an error says that it has ended
	for s.sess.NumStreams() > 0 {
		if !s.pause(ctx) {
			return
		}
	}
	if s.pause(ctx) { // the other side may want to be the first
		_ = s.sess.CloseWithGoAway(tunnel.CodeNormal)
	}
}

// pause reports whether the session is still there after a while.
func (s *session) pause(ctx context.Context) bool {
	t := time.NewTimer(leavePoll)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-s.sess.Done():
	case <-ctx.Done():
	}
	return false
}

// leavePoll is how often we look whether the last stream of a session that we
// leave has ended.
const leavePoll = 100 * time.Millisecond

// Why a session takes no more requests, though it has not ended.
var (
	errAsked   = errors.New("the node asked to be left")
	errRetired = errors.New("the session is not needed or used up")
)

// errLeaving is what a session returns that opens no stream any more.
var errLeaving error = &neverError{fault.New(fault.Draining, errors.New("open stream: the node is leaving"))}

// neverError is an error of a request that the other node has seen nothing of.
type neverError struct{ err error }

// Error is that of the cause.
func (e *neverError) Error() string { return e.err.Error() }

// Unwrap returns the cause.
func (e *neverError) Unwrap() error { return e.err }

// Refused says that trying elsewhere repeats nothing: package relay asks for it.
func (e *neverError) Refused() bool { return true }
