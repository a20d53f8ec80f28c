package tunnel

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// maxUnacked is how many streams may be open that the peer has not
	// accepted: half of what default yamux queues, since it goes on counting
	// those that were reset meanwhile.
	maxUnacked = 128

	// lastStream is where ids end for us: the session must be renewed before.
	// (The wire has twice as many.)
	lastStream = 1 << 31

	// lingerTime is how long the peer may take to end its side of a stream
	// that we have closed.
	lingerTime = 30 * time.Second

	// goodbyeTime bounds how long goAway waits until the frame is written,
	// brokenTime how long the read side goes on when writing has failed: what
	// the peer said before it went may still be on its way.
	goodbyeTime = 2 * time.Second
	brokenTime  = time.Second
)

// A muxConn carries a mux. One goroutine reads; writeMessage, of b[headroom:],
// is called by one goroutine at a time, may use b's headroom, and may change
// what it has sent; it fails with a *partlySentError if some of it is out.
// close may be called by anyone at any time, and makes the other two return.
type muxConn interface {
	io.Reader
	writeMessage(b []byte) error
	close(code uint16, reason string)
}

// muxOptions are a mux's settings.
type muxOptions struct {
	window      int // what the peer may send on a stream unread, at least 256 KiB
	maxStreams  int // streams at once; 0 means 4096
	maxBuffered int // memory for unread bytes over all streams; 0 means 256 MiB
	// allowPeerStreams is how many streams the peer may open: at a node in all,
	// at an upstream how many it has not accepted yet.
	allowPeerStreams int
	budget           *Budget           // nil is none
	meta             bool              // the node's streams begin with a preamble
	onGoAway         func(code uint32) // called by run, once, without locks; may be nil
	// onControl is called by run, without locks, after every frame of a stream
	// that the upstream has opened, which is the control stream. A node does
	// not accept it then. nil: there is none.
	onControl func(s *Stream)
}

// A mux is one end of a yamux session over a muxConn. Its one goroutine is the
// read loop, run, which never waits for a write; see outbox for the rest.
// Methods other than run are safe for concurrent use.
type mux struct {
	// Static after construction.
	c    muxConn
	node bool // we are yamux' server: our ids are even
	opt  muxOptions
	out  outbox
	done chan struct{} // closed when err is set

	in    muxReader // owned by run
	guard guard     // owned by run

	unread atomic.Int64 // memory of received bytes that nobody has read

	// Guarded by mu, which is held before out.mu, and never with a stream's.
	mu         sync.Mutex
	streams    map[uint32]*Stream
	peak       int // the most streams since the map was made
	nextID     uint32
	lastPeerID uint32 // the highest id that the peer opened
	peerOpened int    // how many it opened, up to what is allowed at a node
	backlog    []*Stream
	greeting   int           // the peer's streams whose preamble has not come yet
	acceptable sync.Cond     // of backlog and err
	unacked    int           // streams that we opened and the peer did not accept
	slot       chan struct{} // closed when unacked falls; nil if nobody waits
	late       lateCredit
	linger     *time.Timer // runs sweep; nil until a stream lingers
	lingering  bool        // linger is set
	weLeave    bool        // we sent a GoAway and refuse streams
	noMore     bool        // accept returns what has arrived and then no more; we refuse streams
	peerLeaves bool        // the peer did
	broken     *time.Timer // runs giveUp, after writing has failed
	err        error       // why the session ended
}

// newMux returns a mux over c, whose run must be called. node says which role
// it has.
func newMux(c muxConn, node bool, opt muxOptions) *mux {
	if opt.maxStreams <= 0 {
		opt.maxStreams = 4096
	}
	if opt.maxBuffered <= 0 {
		opt.maxBuffered = maxBuffered
	}
	opt.window = max(opt.window, initialWindow)
	m := &mux{c: c, node: node, opt: opt, done: make(chan struct{}), nextID: 1}
	if node {
		m.nextID = 2
	}
	m.acceptable.L = &m.mu
	m.late.frames = lateFrames
	m.in.init(c)
	m.out.c, m.out.broken = c, m.writeBroke
	return m
}

// open opens a stream. It waits, as long as ctx lets it, while too many are not
// accepted yet. The peer learns of the stream at once, or with the first write
// if that follows immediately.
func (m *mux) open(ctx context.Context) (*Stream, error) {
	client := ClientAddr(ctx)
	for {
		if ctx.Err() != nil {
			return nil, fmt.Errorf("open stream: %w", context.Cause(ctx))
		}
		s, wait, err := m.tryOpen(client)
		if err != nil {
			return nil, fmt.Errorf("open stream: %w", err)
		}
		if s != nil {
			return s, nil
		}
		select {
		case <-wait:
		case <-m.done:
		case <-ctx.Done():
		}
	}
}

// tryOpen opens a stream, or returns what to wait for before the next try.
func (m *mux) tryOpen(client netip.AddrPort) (s *Stream, wait <-chan struct{}, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch {
	case m.err != nil:
		return nil, nil, m.err
	case m.peerLeaves:
		return nil, nil, ErrGoAway
	case m.nextID >= lastStream:
		return nil, nil, ErrExhausted
	case len(m.streams) >= m.opt.maxStreams:
		return nil, nil, ErrTooManyStreams
	case m.unacked >= maxUnacked:
		if m.slot == nil {
			m.slot = make(chan struct{})
		}
		return nil, m.slot, nil
	}
	s = newStream(m, m.nextID, true)
	// With mu held, so that SYNs are in the order of their ids.
	var preamble []byte
	if m.node && m.opt.meta {
		var b [1 + maxMeta]byte
		preamble = appendMeta(b[:0], client)
		s.sendWindow -= uint32(len(preamble))
	}
	if err := m.out.opening(s.id, m.extraWindow(), preamble); err != nil {
		return nil, nil, err
	}
	m.nextID += 2
	m.unacked++
	s.unacked = true
	m.add(s)
	return s, nil, nil
}

// extraWindow is what SYN and ACK add to the window that yamux starts with.
func (m *mux) extraWindow() uint32 { return uint32(m.opt.window - initialWindow) }

// accept waits for a stream that the peer opened, and acknowledges it.
func (m *mux) accept() (*Stream, error) {
	m.mu.Lock()
	for len(m.backlog) == 0 && m.err == nil && !(m.noMore && m.greeting == 0) {
		m.acceptable.Wait()
	}
	if err := m.err; err != nil || len(m.backlog) == 0 {
		m.mu.Unlock()
		return nil, fmt.Errorf("accept stream: %w", cmp.Or(err, net.ErrClosed))
	}
	s := m.backlog[0]
	m.backlog[0] = nil
	if m.backlog = m.backlog[1:]; len(m.backlog) == 0 {
		m.backlog = nil
	}
	m.mu.Unlock()
	s.accepted()
	return s, nil
}

// stopAccepting ends accept behind the streams that have arrived.
func (m *mux) stopAccepting() {
	m.mu.Lock()
	m.noMore = true
	m.acceptable.Broadcast()
	m.mu.Unlock()
}

// goAway tells the peer to open no more streams. Those that cross the frame are
// refused, but not by an upstream that only leaves: it has all the time to
// serve them, and a v0.9.0 node answers a client whose stream was refused with
// 502. It returns when the frame has been handed to the connection, with all
// that was written before; it gives up after 2 s.
func (m *mux) goAway(code uint32) error {
	m.mu.Lock()
	m.weLeave = m.weLeave || m.node || code != goAwayNormal
	m.mu.Unlock()
	written, err := m.out.controlThen(muxFrame{kind: kindGoAway, length: code})
	if err != nil {
		return fmt.Errorf("send goaway: %w", err)
	}
	timeout := time.NewTimer(goodbyeTime)
	defer timeout.Stop()
	select {
	case err = <-written:
	case <-timeout.C:
		err = os.ErrDeadlineExceeded
	}
	if err != nil {
		return fmt.Errorf("send goaway: %w", err)
	}
	return nil
}

// numStreams is the number of streams that are open or wait for the peer to end
// its side.
func (m *mux) numStreams() int {
	m.mu.Lock()
	defer m.mu.Unlock()
	return len(m.streams)
}

// lastStreamID is the highest id that the node has opened, 0 if none.
func (m *mux) lastStreamID() uint32 {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.node {
		return m.lastPeerID
	}
	return m.nextID - 2
}

// fail ends the mux for its users: streams, accept and open return err, after
// what had arrived. The first call counts. run goes on until the connection is
// closed, which the caller sees to.
func (m *mux) fail(err error) {
	m.mu.Lock()
	if m.err != nil {
		m.mu.Unlock()
		return
	}
	m.err = err
	streams, unaccepted := m.streams, m.unaccepted()
	m.streams, m.backlog = nil, nil
	close(m.done)
	m.acceptable.Broadcast()
	if m.linger != nil {
		m.linger.Stop()
	}
	if m.broken != nil {
		m.broken.Stop()
	}
	m.mu.Unlock()
	m.out.fail(err)
	for _, s := range streams {
		s.fail(err)
	}
	for _, s := range unaccepted {
		s.drop()
	}
}

// writeBroke lets the read loop have a little time to find out why.
func (m *mux) writeBroke(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.err == nil && m.broken == nil {
		m.broken = time.AfterFunc(brokenTime, func() {
			m.fail(err)
			m.c.close(closeGoingAway, "")
		})
	}
}
