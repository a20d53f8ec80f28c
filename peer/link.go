package peer

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/relay"
)

const (
	// waitTime bounds how long a request waits for a session, and maxWaiting
	// how many do.
	waitTime   = time.Second
	maxWaiting = 1024

	// maxTries is on how many sessions a request is tried.
	maxTries = 3

	// maxSessions is how many sessions a link opens, as far as they are needed.
	maxSessions = 4
	// maxLeaving bounds the sessions that a link has left and that still have
	// streams; a node that asks to be left again and again could otherwise
	// pile them up. One more, and the oldest is closed.
	maxLeaving = 8
)

// Link is this node's connections to one other node. There is one open ahead
// of need, as long as the node lives. Its methods are safe for concurrent use.
type Link struct {
	// Static after construction.
	p         *Peers
	node      Node
	reachable func(bool)
	ctx       context.Context // a server's base context: of the link's life
	cancel    context.CancelFunc
	wake      chan struct{}    // has room for one: run should look again
	dialed    chan dialOutcome // from the one dial under way
	down      error            // why requests fail once the link is closed

	// sessions are those that take requests. Replaced with mu held; read
	// without, for every request.
	sessions atomic.Pointer[[]*session]

	// Guarded by mu.
	mu      sync.Mutex
	open    []*session    // all that have not ended, oldest first
	ready   chan struct{} // closed when there is a session, or a dial has failed
	waiting int
	pausing bool  // between a dial that failed and the next one
	failed  error // why the last one failed
	short   bool  // a session asked for another one beside it
	ended   ended // what became of sessions since run looked last
	why     error // why the last one takes no more requests
}

// Connect makes a link to n, and returns at once. reachable is called, by a
// goroutine of the link, with false at first, with true when a session is open
// and with false as soon as there is none that takes requests; not after Close,
// but for a call that is under way. It may block the link, and must not call it.
func (p *Peers) Connect(n Node, reachable func(bool)) *Link {
	l := &Link{
		p: p, node: n, reachable: reachable,
		wake: make(chan struct{}, 1), dialed: make(chan dialOutcome, 1), ready: make(chan struct{}),
		down: &neverError{fault.New(fault.UpstreamUnreachable, errors.New("link closed"))},
	}
	l.sessions.Store(new([]*session))
	l.ctx, l.cancel = context.WithCancel(p.base)
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		l.cancel()
		return l
	}
	p.links[l] = struct{}{}
	p.wg.Go(l.run)
	return l
}

// Close takes no more requests. What is under way goes on: a session ends with its
// last stream, when the other node ends, or with Peers. It waits for nothing: the
// link's goroutines have ended when Run of its Peers returns.
func (l *Link) Close() {
	l.cancel()
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.open {
		s.leaving.Store(true)
	}
}

// Stats counts the sessions that take requests, and the streams on them, idle
// ones included.
func (l *Link) Stats() (sessions, streams int) {
	list := *l.sessions.Load()
	for _, s := range list {
		streams += s.sess.NumStreams()
	}
	return len(list), streams
}

// RoundTrip makes an exchange as relay.Pool does, over a stream that is kept
// for the next one. Without a session it waits for one, for 1 s at most. That
// there is none is an error that relay.NeverExecuted says true of, as is
// everything that happens before a byte was sent; it is fault.UpstreamUnreachable,
// or fault.Draining if the node asked to be left just now.
func (l *Link) RoundTrip(req *http.Request) (*http.Response, error) {
	for tries := 1; ; tries++ {
		s := l.pick()
		if s == nil {
			var err error
			if s, err = l.await(req.Context()); err != nil {
				if req.Body != nil {
					req.Body.Close()
				}
				return nil, err
			}
		}
		res, err := s.pool.RoundTrip(req)
		s.release()
		if err != nil && tries < maxTries && again(s, req, err) {
			continue
		}
		return res, err
	}
}

// again says that the request only met a session in the moment of its end, and
// that another, or the next one, may take it. What has a body is left to the
// caller, who knows whether it can be had again.
func again(s *session, req *http.Request, err error) bool {
	return s.leaving.Load() && (req.Body == nil || req.Body == http.NoBody) &&
		relay.NeverExecuted(err) && req.Context().Err() == nil
}

// pick chooses a session for a request and holds it: of two, that with fewer
// requests without an answer. nil: there is none.
func (l *Link) pick() *session {
	for {
		list := *l.sessions.Load()
		if len(list) == 0 {
			return nil
		}
		s := list[0]
		if n := len(list); n > 1 {
			i := rand.IntN(n)
			other := list[(i+1+rand.IntN(n-1))%n]
			if s = list[i]; other.busy.Load() < s.busy.Load() {
				s = other
			}
		}
		if s.hold() {
			return s
		}
		l.forsake(s)
	}
}

// await waits for a session to be opened, if one is about to be, and holds it.
func (l *Link) await(ctx context.Context) (*session, error) {
	l.mu.Lock()
	ready := l.ready
	err := l.failed
	switch {
	case l.ctx.Err() != nil:
		err = l.down
	case len(*l.sessions.Load()) > 0: // add was here since the caller looked
		l.mu.Unlock()
		if s := l.pick(); s != nil {
			return s, nil
		}
		return nil, errLost
	case l.pausing:
	case l.waiting >= maxWaiting:
		err = &neverError{fault.New(fault.Overloaded, errors.New("too many requests wait for the node"))}
	default:
		err = nil
		l.waiting++
	}
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	err = l.waitReady(ctx, ready)
	l.mu.Lock()
	l.waiting--
	if err == nil && l.failed != nil {
		err = l.failed
	}
	l.mu.Unlock()
	if s := l.pick(); s != nil {
		return s, nil
	}
	if err == nil {
		err = errLost // it came and went
	}
	return nil, err
}

func (l *Link) waitReady(ctx context.Context, ready <-chan struct{}) error {
	late := time.NewTimer(waitTime)
	defer late.Stop()
	select {
	case <-ready:
		return nil
	case <-l.ctx.Done():
		return l.down
	case <-ctx.Done():
		return &neverError{context.Cause(ctx)}
	case <-late.C:
		return errLost
	}
}

// errLost says that no session came about.
var errLost error = &neverError{fault.New(fault.UpstreamUnreachable, errors.New("no connection to the node"))}
