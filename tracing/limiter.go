package tracing

import (
	"sync/atomic"
	"time"
)

// limiter lets so many a second through, and as many at once: GCRA, in one word.
type limiter struct {
	// Static after construction.
	start    time.Time
	interval time.Duration // from one to the next; 0 is no limit

	next atomic.Int64 // when the next one would be due at the full rate, since start
}

// newLimiter is for n a second; 0 is no limit.
func newLimiter(n int, now time.Time) *limiter {
	l := &limiter{start: now}
	if n > 0 {
		l.interval = max(time.Second/time.Duration(n), 1)
	}
	return l
}

// allow is safe for concurrent use.
func (l *limiter) allow(now time.Time) bool {
	if l.interval == 0 {
		return true
	}
	at := int64(now.Sub(l.start))
	for {
		was := l.next.Load()
		due := max(was, at)
		if due+int64(l.interval) > at+int64(max(time.Second, l.interval)) {
			return false
		}
		if l.next.CompareAndSwap(was, due+int64(l.interval)) {
			return true
		}
	}
}
