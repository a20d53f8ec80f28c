package relay

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"io"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// ErrGoingAway is what the cause of a request's context wraps when a program stops. A WebSocket is then told so, with a
// close frame of status 1001, where one may stand.
var ErrGoingAway = errors.New("going away")

// statusGoingAway is what a close frame says (RFC 6455, section 7.4.1).
const statusGoingAway = 1001

// goodbye bounds what it may take to end a connection in order: closing TLS, or the answers to close frames.
const goodbye = time.Second

// errAnswered is why nothing more is read from a side of a WebSocket that has ended.
var errAnswered = errors.New("close frame was answered")

// farewell is what can be said to both sides of a WebSocket at its end. A nil one says nothing.
type farewell struct {
	leaving atomic.Bool
	in, out speaker // to the service, to the client
}

// speaker writes one direction of a WebSocket and knows when a frame of our own may go between.
type speaker struct {
	// Static after construction.
	f   *farewell
	dst io.Writer

	// Guarded by mu, which is held by each write.
	mu     sync.Mutex
	frames frames
	said   bool // our close frame was sent: nothing may follow it
}

// newFarewell returns nil if the response switches to anything but WebSocket.
func newFarewell(res *http.Response, s *splice) *farewell {
	protocol := res.Header["Upgrade"]
	if len(protocol) != 1 || !strings.EqualFold(protocol[0], "websocket") {
		return nil
	}
	f := new(farewell)
	f.in.f, f.in.dst, f.in.frames.masked = f, s.forth.dst, true
	f.out.f, f.out.dst = f, s.back.dst
	s.farewell, s.forth.w, s.back.w = f, &f.in, &f.out
	return f
}

// isLeaving reports whether the connection is being ended.
func (f *farewell) isLeaving() bool { return f != nil && f.leaving.Load() }

// say ends both directions as soon as their frames allow. What is not over within the deadlines of both connections,
// which are set, ends without.
func (f *farewell) say() {
	f.leaving.Store(true)
	var wg sync.WaitGroup
	wg.Go(f.in.say) // a side that takes nothing is not to hold up the other
	f.out.say()
	wg.Wait()
}

// Write writes p. When the connection is being ended it writes what is left of a frame, then a close frame, and drops
// all else; when the other side has ended its frames, too, it says errAnswered.
func (s *speaker) Write(p []byte) (n int, err error) {
	s.mu.Lock()
	if s.f.leaving.Load() {
		n, err = s.writeLast(p)
	} else if n, err = s.dst.Write(p); err == nil {
		s.frames.follow(p)
	}
	s.mu.Unlock()
	if err == nil && s.f.leaving.Load() {
		s.say() // nobody else could: we had the lock
	}
	return n, err
}

// writeLast needs mu.
func (s *speaker) writeLast(p []byte) (n int, err error) {
	if !s.said && !s.frames.between() {
		n = s.frames.next(p)
		if k, err := s.dst.Write(p[:n]); err != nil {
			return k, err
		}
	}
	if err := s.close(); err != nil {
		return n, err
	}
	s.frames.follow(p[n:])
	if s.frames.state == framesClosed {
		return len(p), errAnswered
	}
	return len(p), nil
}

// say sends a close frame if that may be done now. It does not wait for a write that is under way.
func (s *speaker) say() {
	if s.mu.TryLock() {
		defer s.mu.Unlock()
		_ = s.close() // a side that is gone shows when it is read
	}
}

// close sends a close frame if one may stand here. It needs mu.
func (s *speaker) close() error {
	if s.said || !s.frames.between() {
		return nil
	}
	s.said = true
	_, err := s.dst.Write(closeFrame(s.frames.masked))
	return err
}

// ended reports whether the direction has ended in order. Nobody may write any more.
func (s *speaker) ended() bool { return s.said || s.frames.state == framesClosed }

// closeFrame is a frame that says statusGoingAway.
func closeFrame(masked bool) []byte {
	b := binary.BigEndian.AppendUint16([]byte{0x80 | opClose, 2}, statusGoingAway)
	if !masked {
		return b
	}
	var mask [4]byte
	_, _ = rand.Read(mask[:]) // never fails
	return []byte{b[0], 0x80 | b[1], mask[0], mask[1], mask[2], mask[3], b[2] ^ mask[0], b[3] ^ mask[1]}
}
