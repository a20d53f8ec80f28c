package tunnel

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// Why a session ended. Only the first means that nobody should come back.
var (
	// ErrClosedByUs is what a session ends with after Close or
	// CloseWithGoAway at this end.
	ErrClosedByUs = errors.New("tunnel closed")
	// ErrClosedByPeer is an orderly end by the other side: a close frame or
	// the end of its TCP stream.
	ErrClosedByPeer = errors.New("tunnel closed by the peer")
	// ErrDead is what a session ends with when not a byte has come from the
	// peer for 15 s, although it was asked for one.
	ErrDead = errors.New("tunnel dead: nothing heard from the peer")
	// ErrNoControl is returned by what needs a control stream when the peer
	// does not know of one, as those of v0.9.0.
	ErrNoControl = errors.New("peer has no control stream")
	// ErrNoToken is returned by SendToken when the peer takes no fresh token.
	ErrNoToken = errors.New("peer takes no fresh token")
)

// Session is one tunnel: a mux over a WebSocket, the control stream if both
// sides know it, and the watch over the peer's life. Its methods are safe for
// concurrent use. It runs one goroutine, and for moments one for a ping, one for
// what is to be said on the control stream and one for what is heard there.
type Session struct {
	// Static after construction.
	c      *carrier
	m      *mux
	peer   Peer
	events Events
	ctl    *control // nil without the feature
	wheel  *Wheel   // nil: timer is used
	done   chan struct{}
	wg     sync.WaitGroup // goroutines; Add only while mu is held and err is nil, or by a counted one

	// Guarded by mu.
	mu    sync.Mutex
	err   error // why the session ended; nil while it lives
	life  liveness
	timer *time.Timer

	spoke wheelEntry // guarded by wheel.mu
}

// Accept answers the handshake of an upstream, whose request CheckHandshake has
// let pass, and starts the session. When it returns the 101 is out and the
// session runs by itself: the handler should return, so that net/http lets go
// of what it holds. If it fails, the request has been answered or its
// connection is gone.
func Accept(w http.ResponseWriter, r *http.Request, reply Reply, opt Options) (*Session, error) {
	hello := ReadHello(r)
	c, err := acceptHandshake(w, r, reply)
	if err != nil {
		return nil, fmt.Errorf("accept tunnel: %w", err)
	}
	peer := Peer{Instance: hello.Instance, Protocol: hello.Protocol, Features: reply.Features, Version: hello.Version}
	return startSession(c, true, peer, opt), nil
}

// startSession takes over the carrier.
func startSession(c *carrier, node bool, peer Peer, opt Options) *Session {
	s := &Session{
		c:      c,
		peer:   peer,
		events: opt.Events,
		wheel:  opt.Wheel,
		done:   make(chan struct{}),
	}
	if c.plain {
		s.life.pace = peerPace
		s.wheel = nil // its ticks are too coarse for that
	}
	hurrySocket(c.nc)
	withControl := slices.Contains(peer.Features, FeatureControl)
	if withControl {
		s.ctl = newControl(s, node && slices.Contains(peer.Features, FeatureToken))
	}
	muxOpt := opt.mux(node, peer, s.onGoAway)
	if withControl {
		muxOpt.onControl = s.ctl.onFrame
	}
	s.m = newMux(c, node, muxOpt)
	s.wg.Go(s.runMux)
	if withControl {
		s.ctl.start(node)
	}
	s.watch(time.Now())
	return s
}

// runMux is the session's read loop.
func (s *Session) runMux() { s.end(s.m.run()) }

func (s *Session) onGoAway(code uint32) {
	if s.events.GoAway != nil {
		s.events.GoAway(code)
	}
}

// Open opens a stream, which the peer may not have accepted when it returns.
// Only the node opens streams. An error means that nothing was sent that the
// peer could act on.
func (s *Session) Open(ctx context.Context) (*Stream, error) { return s.m.open(ctx) }

// Accept waits for a stream that the peer opened; it returns an error once the
// session has ended. Only upstreams accept: the node's one peer stream is the
// control stream, which is the session's own.
func (s *Session) Accept() (*Stream, error) { return s.m.accept() }

// StopAccepting has Accept return the streams that have arrived and then
// net.ErrClosed. What the peer opens later is refused: it may try elsewhere.
func (s *Session) StopAccepting() { s.m.stopAccepting() }

// NumStreams is the number of open streams, without the control stream.
func (s *Session) NumStreams() int {
	n := s.m.numStreams()
	if s.ctl != nil && s.ctl.opened() {
		n--
	}
	return max(n, 0)
}

// LastStreamID is the highest id of a stream that the node has opened.
func (s *Session) LastStreamID() uint32 { return s.m.lastStreamID() }

// Done is closed when the session has ended: no stream works any more. Its
// goroutines may still be about to end; Close waits for them.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err says why the session ended, nil while it lives: ErrClosedByUs,
// ErrClosedByPeer, ErrDead, a *ProtocolError, or what the network said.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// Close ends the session and all its streams at once, and waits for the
// session's goroutines: about a second at most, if the peer reads nothing.
func (s *Session) Close() error {
	s.end(ErrClosedByUs)
	s.wg.Wait()
	return nil
}

// CloseWithGoAway is Close with a GoAway frame before it.
func (s *Session) CloseWithGoAway(code uint32) error {
	err := s.m.goAway(code)
	s.Close()
	return err
}

// GoAway tells the peer to open no more streams. It may be sent by either side;
// what has been opened goes on.
func (s *Session) GoAway(code uint32) error { return s.m.goAway(code) }

// end is the one way a session ends; the first reason counts. It does not
// block, and may be called by the session's own goroutines.
func (s *Session) end(err error) {
	s.mu.Lock()
	if s.err != nil {
		s.mu.Unlock()
		return
	}
	s.err = err
	if s.timer != nil {
		s.timer.Stop()
	}
	// The counter is not 0: runMux calls end before it is done.
	s.wg.Go(func() { s.closeCarrier(err) })
	s.mu.Unlock()
	if s.wheel != nil {
		s.wheel.remove(s)
	}
	s.m.fail(err)
	if s.ctl != nil {
		s.ctl.end()
	}
	close(s.done)
	if s.events.Closed != nil {
		s.events.Closed(err)
	}
}

// closeCarrier says goodbye to a peer that may hear it.
func (s *Session) closeCarrier(err error) {
	code := uint16(closeNormal)
	if errors.Is(err, ErrClosedByUs) {
		code = closeGoingAway
	}
	if bad, ok := errors.AsType[*ProtocolError](err); ok {
		code = bad.closeCode()
	}
	if errors.Is(err, ErrDead) {
		code = 0 // nobody hears it
	}
	s.c.close(code, "")
}

// Drain tells the peer that we want to move: at a node, please go elsewhere; at
// an upstream, open no more streams to me. The control messages are queued, the
// newest of a kind replaces an older one that was not sent yet, and none waits
// for the network. They return ErrNoControl, or why the session ended.
func (s *Session) Drain(m DrainMessage) error { return s.say(drainMessage(m)) }

// Drained tells the upstream that no stream with an id above last will come.
func (s *Session) Drained(last uint32) error {
	return s.say(message{Type: typeDrained, Last: last})
}

// Cluster tells the upstream how many nodes are not draining.
func (s *Session) Cluster(nodes int) error {
	return s.say(message{Type: typeCluster, Nodes: nodes})
}

// Weight tells the node how much of the traffic we want, 0 to 100.
func (s *Session) Weight(w int) error { return s.say(message{Type: typeWeight, Weight: &w}) }

// SendToken gives the node a fresh bearer token, in place of the one that the
// tunnel lives by. One that the node refuses ends the tunnel. Beside what the
// other messages return there is ErrNoToken, and an error for a token that
// is longer than MaxToken.
func (s *Session) SendToken(token string) error {
	if !slices.Contains(s.peer.Features, FeatureToken) {
		return ErrNoToken
	}
	m := message{Type: typeToken, Token: token}
	if len(token) > MaxToken || len(appendMessage(nil, m))-1 > maxTokenLine {
		return fmt.Errorf("send token: it has %d bytes, more than %d", len(token), MaxToken)
	}
	return s.say(m)
}

func (s *Session) say(m message) error {
	if s.ctl == nil {
		return ErrNoControl
	}
	s.ctl.send(m)
	return s.Err()
}

// HasControl says whether the peer has a control stream.
func (s *Session) HasControl() bool { return s.ctl != nil }

// Peer is what the other side said of itself.
func (s *Session) Peer() Peer { return s.peer }

// Bytes is what has come from the peer and gone to it so far, with all that
// frames it; below TLS it is more.
func (s *Session) Bytes() (received, sent uint64) { return s.c.received.Load(), s.c.sent.Load() }

// RemoteAddr is the peer's address, or that of a proxy between.
func (s *Session) RemoteAddr() net.Addr { return s.c.RemoteAddr() }

// LocalAddr is our address of the connection.
func (s *Session) LocalAddr() net.Addr { return s.c.LocalAddr() }

// spawn runs f in a goroutine of the session, unless that has ended.
func (s *Session) spawn(f func()) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return false
	}
	s.wg.Go(f)
	return true
}
