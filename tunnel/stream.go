package tunnel

import (
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"sync/atomic"
	"time"
)

// A Stream is one byte stream of a session: a net.Conn that can be closed one
// way, with CloseWrite, and reset. Its methods are safe for concurrent use;
// calls of Read wait for each other, as calls of Write do.
//
// Close ends both ways: what was written still goes out, then the peer reads
// EOF; what it sends afterwards is answered with a reset. A peer that does not
// end its side within 30 s is reset as well. When the session ends, what had
// arrived can still be read; then Read returns the session's error, and EOF
// only if the peer had ended the stream.
//
// A Write returns when its bytes are in the tunnel's send buffer or sent; an
// error that comes later is returned by the next call. Without a write deadline
// the caller may be the one who writes to the connection, which then may take
// as long as the connection does.
type Stream struct {
	// Static after construction.
	m      *mux
	id     uint32
	opener bool           // we opened it
	client netip.AddrPort // set before accept returns the stream

	// rmu is held by Read, wmu by Write. Each is held before mu.
	rmu, wmu sync.Mutex
	current  *chunk // what Read reads from; guarded by rmu

	// Guarded by mu, which is held before out.mu.
	mu           sync.Mutex
	rcond, wcond sync.Cond // Read's, Write's
	closed       bool      // by Close or Reset
	finSent      bool
	finSeen      bool
	acked        bool // accepted by either side
	heard        bool // something came from the peer
	err          error
	first, last  *chunk                 // unread, behind current
	filling      *chunk                 // what the read loop adds to just now; Read takes bytes out, but not the chunk
	shown        bool                   // filling is in the list, as the last one
	take         func(p []byte) (n int) // of the ReadOr that waits; nil if none does
	taking       bool                   // the read loop calls take: ReadOr is not to return
	recvWindow   uint32                 // what the peer may send
	consumed     uint32                 // what was read and not been added to recvWindow
	sendWindow   uint32                 // what we may send
	rdeadline    deadline
	wdeadline    deadline
	done         chan struct{} // nil until somebody asks
	over         bool          // done is closed
	onEnd        func()        // nil if nobody has to be told
	budgeted     bool          // in the list of the budget
	lost         bool          // bytes were dropped that somebody would have read
	total        uint64        // read so far
	mark         uint64        // of total, when the budget looked
	pace         int64         // read in each tick of the budget, on average of the last few
	habit        int64         // the same, on average of the last seconds

	// Guarded by m.mu.
	unacked     bool      // counted in m.unacked
	lingerUntil time.Time // zero unless closed and waiting for the peer, or greeting
	greeting    bool      // counted in m.greeting

	gone atomic.Bool // nobody will read what has arrived; set with mu held, before dropCurrent

	unheard bool // the preamble has not come; belongs to the read loop

	// Guarded by m.out.mu.
	queued     bool
	rest       []byte // the writer's bytes that wait for room
	nextQueued *Stream
	smallIn    uint64 // the message to which a small write was added beyond its bound

	nextServed *Stream // belongs to whoever has the outbox's state flushing
}

// newStream returns a stream that m has yet to add.
func newStream(m *mux, id uint32, opener bool) *Stream {
	s := &Stream{
		m: m, id: id, opener: opener,
		recvWindow: uint32(m.opt.window),
		sendWindow: initialWindow,
	}
	s.rcond.L, s.wcond.L = &s.mu, &s.mu
	return s
}

// ID is the stream's number in its session: even if the node opened it.
func (s *Stream) ID() uint32 { return s.id }

// Acked says whether the peer has accepted the stream that we opened.
func (s *Stream) Acked() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.acked
}

// Quiet says that the stream works both ways and nothing has come that was not
// read: what a connection must be to be used for another request.
func (s *Stream) Quiet() bool {
	if !s.rmu.TryLock() {
		return false
	}
	defer s.rmu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.current == nil && s.first == nil && s.filling == nil &&
		!s.closed && !s.finSent && !s.finSeen && s.err == nil
}

// CloseWrite ends our side of the stream: the peer reads EOF behind what was
// written. Reading goes on.
func (s *Stream) CloseWrite() error {
	s.mu.Lock()
	switch {
	case s.finSent && !s.closed:
		s.mu.Unlock()
		return nil
	case s.closed:
		s.mu.Unlock()
		return ErrClosed
	case s.err != nil:
		defer s.mu.Unlock()
		return s.err
	}
	s.sendFIN(0)
	over := s.finSeen
	s.mu.Unlock()
	if over {
		s.m.remove(s)
	}
	return nil
}

// Close ends the stream, as the type's comment says. It does not wait, wakes
// those who do, and returns nil. Closing again does nothing.
func (s *Stream) Close() error {
	s.mu.Lock()
	if s.closed {
		s.mu.Unlock()
		return nil
	}
	s.shut()
	over := s.err != nil || s.finSeen
	// A peer that waits for window must be able to send, and so learn that
	// nobody reads.
	more := s.consumed
	s.recvWindow += more
	s.consumed = 0
	switch {
	case s.err != nil:
	case !s.finSent:
		s.sendFIN(more)
	case !s.finSeen && more > 0:
		_ = s.m.out.control(muxFrame{kind: kindWindow, id: s.id, length: more})
	}
	s.mu.Unlock()
	s.dropCurrent()
	if over {
		s.m.remove(s)
	} else {
		s.m.await(s)
	}
	return nil
}

// Reset ends the stream at once, both ways: the peer's reads and writes fail.
// It does not wait, and wakes those who do.
func (s *Stream) Reset() {
	s.mu.Lock()
	s.shut()
	if s.err == nil && !(s.finSent && s.finSeen) {
		s.err = ErrClosed
		s.sendRST()
	}
	s.mu.Unlock()
	s.dropCurrent()
	s.m.remove(s)
}

// shut is what Close and Reset have in common. It needs mu.
func (s *Stream) shut() {
	s.closed = true
	s.gone.Store(true)
	s.m.out.cancel(s)
	s.dropUnread()
	if b := s.m.opt.budget; b != nil {
		b.forget(s)
	}
	s.rdeadline.stop()
	s.wdeadline.stop()
	s.wake()
}

// sendFIN sends the end of our side, behind what was written, and adds to the
// peer's window. It needs mu.
func (s *Stream) sendFIN(more uint32) {
	s.m.out.cancel(s)
	s.finSent = true
	// It cannot be sent only if the session has ended.
	_ = s.m.out.control(muxFrame{kind: kindWindow, flags: flagFIN, id: s.id, length: more})
	s.wcond.Signal()
}

// sendRST tells the peer that the stream is gone. It needs mu.
func (s *Stream) sendRST() { s.resetWith(0) }

// resetWith is sendRST with a code that says why, in the place of what the frame
// adds to the window: peers that do not know it add it to that of a stream that
// is no more.
func (s *Stream) resetWith(code uint32) {
	_ = s.m.out.control(muxFrame{kind: kindWindow, flags: flagRST, id: s.id, length: code})
}

// owed is what the peer may have sent until it knows that the stream is gone; of
// one that has ended in order nothing.
func (s *Stream) owed() uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		return 0
	}
	return s.recvWindow
}

// wake wakes whoever waits, when the stream has ended. It needs mu.
func (s *Stream) wake() {
	s.rcond.Signal()
	s.wcond.Signal()
	s.end()
}

// fail ends the stream because the session has ended.
func (s *Stream) fail(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.err = err
	}
	s.wake()
}

// dropCurrent frees what Read has left, unless Read is at it, which then does it
// itself when it returns.
func (s *Stream) dropCurrent() {
	if !s.rmu.TryLock() {
		return
	}
	if s.current != nil {
		s.current.free()
		s.current = nil
	}
	s.rmu.Unlock()
}

// dropIfGone is what Read ends with, without rmu.
func (s *Stream) dropIfGone() {
	if s.gone.Load() {
		s.dropCurrent()
	}
}

// readFails is why Read returns at once whatever has arrived. It needs mu.
func (s *Stream) readFails() error {
	switch {
	case s.closed:
		return ErrClosed
	case s.lost:
		return s.err
	case s.rdeadline.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// readEnds is why nothing will follow what has arrived. It needs mu.
func (s *Stream) readEnds() error {
	if s.finSeen {
		return io.EOF
	}
	return s.err
}

// writeFails is why nothing can be written. It needs mu.
func (s *Stream) writeFails() error {
	switch {
	case s.closed, s.finSent:
		return ErrClosed
	case s.err != nil:
		return s.err
	case s.wdeadline.passed:
		return os.ErrDeadlineExceeded
	}
	return nil
}

// LocalAddr is the tunnel's.
func (s *Stream) LocalAddr() net.Addr {
	if c, ok := s.m.c.(interface{ LocalAddr() net.Addr }); ok {
		return c.LocalAddr()
	}
	return unknownAddr{}
}

// unknownAddr stands in where the connection below has no addresses.
type unknownAddr struct{}

func (unknownAddr) Network() string { return "tunnel" }
func (unknownAddr) String() string  { return "unknown" }

var _ net.Conn = (*Stream)(nil)
