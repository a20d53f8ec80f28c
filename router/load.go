package router

import (
	"sync/atomic"
	"time"
)

// load counts requests in flight.
type load struct{ n atomic.Int64 }

func (l *load) begin() { l.n.Add(1) }

// beginUpTo is begin unless there were limit already; 0 is no limit.
func (l *load) beginUpTo(limit int64) bool {
	if l.n.Add(1) <= limit || limit <= 0 {
		return true
	}
	l.n.Add(-1)
	return false
}

func (l *load) end() { l.n.Add(-1) }

func (l *load) inFlight() int { return int(max(l.n.Load(), 0)) }

// remoteState is what is known here of one endpoint at one node. There may be a
// million of them, few of which are ever used: it is not padded.
type remoteState struct {
	load
	missed  missed
	ejected ejection // of what lies behind the node
}

// missTime is how long a node is left out for an endpoint that it said it cannot
// serve, unless it says something new about the endpoint before. It is longer than
// a request waits for such news.
const missTime = 2 * time.Second

// missed is until when that is, in microseconds of Unix time; 0 is not at all.
type missed struct{ until atomic.Int64 }

func (m *missed) set(now time.Time) { m.until.Store(now.Add(missTime).UnixMicro()) }

// clear writes only if there is something to forget.
func (m *missed) clear() {
	if m.until.Load() != 0 {
		m.until.Store(0)
	}
}

// at holds a time that is too far away for over: the clock was set back.
func (m *missed) at(now time.Time) bool {
	until := m.until.Load()
	if until == 0 {
		return false
	}
	left := time.UnixMicro(until).Sub(now)
	return left > 0 && left <= missTime
}

// Passive ejection: the first failure costs a candidate minEjection, each one
// that follows without a success between doubles that.
const (
	minEjection = 100 * time.Millisecond
	maxEjection = 10 * time.Second
)

// ejection says how often a candidate failed in a row and until when it is
// avoided. Both are one word, so that a failure and a success at the same time
// leave one or the other, and a healthy candidate costs one load: it is 0.
type ejection struct{ word atomic.Uint64 }

// The low bits of the word count failures, the others are microseconds of Unix
// time.
const (
	failureBits = 6
	maxFailures = 1<<failureBits - 1
)

// failed ejects the candidate. A failure while it is ejected already belongs to
// the same incident: requests in flight fail together, and must not double the
// time with each. It reports whether this one did eject it, and the failures in
// a row, up to maxFailures.
func (e *ejection) failed(now time.Time) (ejected bool, failures int) {
	for {
		old := e.word.Load()
		if ejectedAt(old, now) {
			return false, int(old & maxFailures)
		}
		failures = min(int(old&maxFailures)+1, maxFailures)
		until := now.Add(ejectionTime(failures)).UnixMicro()
		if e.word.CompareAndSwap(old, uint64(until)<<failureBits|uint64(failures)) {
			return true, failures
		}
	}
}

// succeeded writes only if there is something to forget: it is called for
// every request. It returns the failures that it forgot.
func (e *ejection) succeeded() (failures int) {
	if e.word.Load() == 0 {
		return 0
	}
	return int(e.word.Swap(0) & maxFailures)
}

func (e *ejection) at(now time.Time) bool {
	word := e.word.Load()
	return word != 0 && ejectedAt(word, now)
}

// ejectedAt holds an ejection that would last longer than any does for over:
// the clock was set back.
func ejectedAt(word uint64, now time.Time) bool {
	if word == 0 {
		return false
	}
	left := time.UnixMicro(int64(word >> failureBits)).Sub(now)
	return left > 0 && left <= maxEjection
}

// ejectionTime is how long a candidate is avoided after that many failures.
func ejectionTime(failures int) time.Duration {
	const doublings = 7 // 100 ms * 2^7 is above the maximum
	return min(minEjection<<min(max(failures-1, 0), doublings), maxEjection)
}
