package tunnel

import "time"

// What a peer did that ends the session.
var (
	errBadVersion   = broke("frame of an unknown version")
	errBadKind      = broke("frame of an unknown type")
	errBadSession   = broke("ping or goaway with a stream id")
	errWrongSide    = broke("stream opened with an id of the other side's")
	errDuplicate    = broke("stream opened twice")
	errOpensTooMany = broke("streams opened on and on that are refused")
	errOverWindow   = broke("more data than the stream's window allows")
	errWindowWraps  = broke("window grown beyond 2^32 bytes")
	errNoSuchStream = broke("frame for a stream that never was")
	errLateFrames   = broke("too many frames for streams that are gone, or without effect")
	errPingFlood    = broke("more than 10 pings in a second")
)

func broke(reason string) error { return &ProtocolError{Reason: reason} }

// What a peer may send that is of no use. All of it is bounded by what we did,
// so that honest peers, however late their frames come, never get near.
const (
	// pingRate is how many pings a second are answered.
	pingRate = 10

	// refusalRate and refusalBurst bound the streams a second that we refuse.
	// A burst comes when they cross our GoAway.
	refusalRate  = 100
	refusalBurst = 256

	// lateFrames is how many frames without content may come for streams that
	// are gone, or change nothing, before any stream was forgotten; and
	// lateFramesEach how many more for each that was.
	lateFrames     = 256
	lateFramesEach = 16
	maxLateFrames  = 1 << 20
)

// guard counts what only the read loop sees. The zero value is ready.
type guard struct {
	pings    bucket
	refusals bucket
}

// bucket allows events at a rate.
type bucket struct {
	used float64 // of the burst
	last time.Time
}

// allow says whether one more event is within rate a second and the burst.
func (b *bucket) allow(now time.Time, rate, burst float64) bool {
	b.used = max(0, b.used-rate*now.Sub(b.last).Seconds())
	b.last = now
	if b.used+1 > burst {
		return false
	}
	b.used++
	return true
}

// lateCredit is what may still come for streams that are gone.
type lateCredit struct {
	bytes  int64 // of data: what their windows allowed
	frames int   // of other frames
}

// add notes that a stream is gone, with that much left of its window.
func (l *lateCredit) add(window uint32) {
	l.bytes += int64(window)
	l.frames = min(l.frames+lateFramesEach, maxLateFrames)
}

// spend reports whether f may have come.
func (l *lateCredit) spend(f muxFrame) bool {
	if f.kind == kindData && f.length > 0 {
		l.bytes -= int64(f.length)
		return l.bytes >= 0
	}
	l.frames--
	return l.frames >= 0
}
