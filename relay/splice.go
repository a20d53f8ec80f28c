package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"
)

// lastWords is how long a connection that failed in one direction may still deliver in the other what had arrived.
const lastWords = time.Second

// SpliceError says which connection of a Splice failed.
type SpliceError struct {
	// Conn is the connection that failed: one of the two that Splice was given.
	Conn net.Conn
	// Op is what failed: "read", "write" or "close".
	Op  string
	Err error
}

// Error implements error.
func (e *SpliceError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *SpliceError) Unwrap() error { return e.Err }

// Splice copies between a and b, both ways, until both directions have ended, one has failed, or ctx ends. It owns both
// connections: when it returns they are closed and nobody uses them any more.
//
// The end of one direction is passed on with CloseWrite, and the other goes on. A connection that has no CloseWrite, or
// whose CloseWrite says errors.ErrUnsupported, has only one end: when the direction that leads to it is over, both
// connections are closed in order. Both are closed in order, too, when both directions have ended. A failure of one
// connection resets the other, as does the end of ctx, so that nobody takes a part for the whole: with the method Reset
// or Abort, or SetLinger(0) and Close. What a connection had sent before it failed is passed on first. Behind the end of
// what it sends nobody reads a connection; if it has a method `Done() <-chan struct{}`, a failure is noticed there, too:
// that of a, which is the client's side, resets b at once, that of b gives a a second to read its answer.
//
// Nothing is cut for being idle, and nothing is read from one side that the other does not take but for one buffer. An
// idle direction holds no buffer if it is a TCP connection, and 1 KiB otherwise.
//
// aToB and bToA count bytes that were written. The error is nil if both directions ended in order; a *SpliceError if a
// connection failed, with the failure that came first; the cause of ctx if that ended.
func Splice(ctx context.Context, a, b net.Conn) (aToB, bToA int64, err error) {
	s := newSplice(a, b)
	err = s.run(ctx)
	return s.forth.n, s.back.n, err
}

// splice copies between two connections.
type splice struct {
	// Static after construction.
	forth, back direction // from a to b, from b to a
	farewell    *farewell // nil if there is nothing to be said at the end

	over atomic.Bool // both were closed or reset: failures mean nothing any more

	copying atomic.Int32  // directions
	copied  chan struct{} // closed when there are none any more

	// Guarded by mu.
	mu  sync.Mutex
	err error // the first
}

// direction is one of the two. What is not said to be guarded belongs to the goroutine that copies, and after it to run.
type direction struct {
	// Static after construction.
	s        *splice
	src, dst io.ReadWriteCloser // net.Conns, but for services of an upgrade
	early    []byte             // what comes before the first read of src
	w        io.Writer          // to dst

	n       int64 // bytes written
	refused bool  // dst takes no more
	reset   bool  // for it has been reset, or its host is gone; guarded by over

	over  chan struct{} // closed when nothing more is copied
	ended bool          // src has ended in order, and dst knows
}

func newSplice(a, b io.ReadWriteCloser) *splice {
	s := &splice{copied: make(chan struct{})}
	s.copying.Store(2)
	s.forth = direction{s: s, src: a, dst: b, w: b, over: make(chan struct{})}
	s.back = direction{s: s, src: b, dst: a, w: a, over: make(chan struct{})}
	return s
}

// run copies until both directions are over, and closes both connections.
func (s *splice) run(ctx context.Context) error {
	stop := afterContext(ctx, func() { s.end(context.Cause(ctx)) })
	var wg sync.WaitGroup
	wg.Go(s.forth.copy)
	s.back.copy()
	wg.Wait()
	s.linger()
	stop()
	if s.farewell.isLeaving() {
		s.finish()
	}
	s.close()
	return s.err
}

// end ends both connections, with a farewell if there is one and the cause is not that one of them is gone.
func (s *splice) end(cause error) {
	s.note(cause)
	if s.farewell == nil || !errors.Is(cause, ErrGoingAway) {
		s.reset()
		return
	}
	by := time.Now().Add(goodbye)
	if setDeadline(s.forth.src, by) != nil || setDeadline(s.forth.dst, by) != nil {
		s.reset() // it could take for ever
		return
	}
	s.farewell.say()
}

// finish closes in order what a farewell was said to.
func (s *splice) finish() {
	if s.over.Swap(true) {
		return
	}
	s.forth.finish(&s.farewell.in)
	s.back.finish(&s.farewell.out)
}

func (d *direction) finish(to *speaker) {
	if d.ended || to.ended() {
		closeConn(d.dst)
	} else {
		resetConn(d.dst)
	}
}

// afterContext calls f when ctx ends. stop returns when f will not be called, or has returned.
func afterContext(ctx context.Context, f func()) (stop func()) {
	done := make(chan struct{})
	unhook := context.AfterFunc(ctx, func() {
		defer close(done)
		f()
	})
	return func() {
		if !unhook() {
			<-done
		}
	}
}

// copy copies until src ends or something fails, and watches over src until the other direction is over, too.
func (d *direction) copy() {
	d.copyAll()
	close(d.over)
	if d.s.copying.Add(-1) == 0 {
		close(d.s.copied)
	}
	gone, ok := d.src.(interface{ Done() <-chan struct{} })
	if !ok {
		return
	}
	select {
	case <-d.s.copied:
		return
	case <-gone.Done():
	}
	d.s.fail(d.src, "read", errGone)
	// Nobody is left for what b does. But a may still read its answer, as one that was early.
	if d == &d.s.forth || setReadDeadline(d.dst, time.Now().Add(lastWords)) != nil {
		d.s.reset()
	}
}

// errGone is the failure of a connection that nobody reads any more.
var errGone = errors.New("connection is gone")

// copyAll copies until src ends or something fails, and sees to what follows from that.
func (d *direction) copyAll() {
	readErr, writeErr := d.pump()
	switch {
	case readErr == nil && writeErr == nil && d.cutOff():
		// The other direction has noted it. What had come before is left to dst, see linger.
	case readErr == nil && (writeErr == nil || writeErr == errAnswered):
		d.passEnd()
	case d.s.farewell.isLeaving():
		// The other direction ends by itself, or by the deadline.
	case readErr != nil:
		d.s.fail(d.src, "read", readErr)
		d.s.reset()
	default:
		// What dst has said before is still brought to src, as a service that answers early and hangs up expects. The other
		// direction ends at once, for the same reason, or by the deadline.
		d.s.fail(d.dst, "write", writeErr)
		d.refused, d.reset = true, !errors.Is(writeErr, syscall.EPIPE)
		_ = setReadDeadline(d.dst, time.Now().Add(lastWords))
	}
}

// cutOff reports whether src, of which all seems to have been read, was reset before it came to its end.
func (d *direction) cutOff() bool {
	src, ok := d.src.(net.Conn)
	if !ok {
		return false
	}
	other := d.other()
	switch metReset(src) {
	case resetMet:
		<-other.over // the write that met it has returned, or all has ended in order
		return other.reset
	case resetMaybe:
		// A write that src has refused before is the only sign. It may have been refused behind an end in order: rather
		// that for a failure than a part for the whole.
		select {
		case <-other.over:
			return other.refused
		default:
		}
	}
	return false
}

// resetVerdict says whether a connection that has just read the end of what it gets may in truth have been reset, and a
// write been told so: most systems give the error only once, and tell whoever asks later that all is over in order.
type resetVerdict uint8

const (
	resetNot   resetVerdict = iota // what was read was the end; or the reset came behind it, and a write meets EPIPE
	resetMet                       // it was reset, and somebody has been told
	resetMaybe                     // nobody can know: this system says EPIPE and an end to those who come later
)

// metReset is systemReset, but in tests.
var metReset = systemReset

func (d *direction) other() *direction {
	if d == &d.s.forth {
		return &d.s.back
	}
	return &d.s.forth
}

// hasEnded reports whether the direction is over, in order. Any goroutine may call it.
func (d *direction) hasEnded() bool {
	select {
	case <-d.over:
		return d.ended
	default:
		return false
	}
}

func (d *direction) pump() (readErr, writeErr error) {
	if len(d.early) > 0 {
		n, err := d.w.Write(d.early)
		d.n += int64(n)
		d.early = nil
		if err != nil {
			return nil, err
		}
	}
	n, readErr, writeErr := pumpAtOnce(d.w, d.src)
	d.n += n
	return readErr, writeErr
}

// passEnd passes the end of the direction on to where it leads.
func (d *direction) passEnd() {
	if tcpConn(d.dst) != nil && d.other().hasEnded() {
		d.ended = true // by the close that follows: what comes from dst has been read to its end
		return
	}
	err := closeWrite(d.dst)
	switch {
	case err == nil:
		d.ended = true
	case d.s.farewell.isLeaving():
	case errors.Is(err, errors.ErrUnsupported):
		d.s.close()
	default:
		d.s.fail(d.dst, "close", err)
		d.s.reset()
	}
}

// linger is for a destination that took no more, and ended in order what it had to say: the source must learn that not
// all of what it sent was taken. It may not have read all that it got, which to be reset now could cost it. A client that
// was reset before it had ended is gone, though, and its service is to know at once.
func (s *splice) linger() {
	if s.back.reset && !s.forth.ended {
		s.reset()
	}
	for _, d := range []*direction{&s.forth, &s.back} {
		if d.refused && !s.over.Load() {
			_ = setReadDeadline(d.src, time.Now().Add(lastWords))
			_, _, _ = pump(io.Discard, d.src)
			s.reset()
		}
	}
}

// fail notes that a connection has failed.
func (s *splice) fail(conn any, op string, err error) {
	nc, _ := conn.(net.Conn)
	s.note(&SpliceError{Conn: nc, Op: op, Err: err})
}

// note keeps the first reason to end; what fails when we have ended it ourselves is none.
func (s *splice) note(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil && !s.over.Load() {
		s.err = err
	}
}

// reset ends both connections at once, so that both sides see a failure; it may be called at any time.
func (s *splice) reset() {
	if s.over.Swap(true) {
		return
	}
	resetConn(s.forth.src)
	resetConn(s.forth.dst)
}

// close ends both connections in order.
func (s *splice) close() {
	if s.over.Swap(true) {
		return
	}
	first, second := s.forth.src, s.forth.dst
	if tcpConn(second) != nil { // which takes no time
		first, second = second, first
	}
	closeConn(first)
	closeConn(second)
}
