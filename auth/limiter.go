package auth

import (
	"cmp"
	"math"
	"net/netip"
	"sync"
	"time"
)

const (
	failureRate  = 10 // a second
	failureBurst = 5  // seconds' worth at once
	maxSources   = 8192
)

// limiter counts the refusals of each source. It is bounded: a source that has
// no place any more begins anew.
type limiter struct {
	rate, burst float64 // static

	// Guarded by mu.
	mu      sync.Mutex
	sources map[netip.Prefix]bucket
}

// bucket is what a source has left at a time.
type bucket struct {
	left float64
	at   time.Time
}

func newLimiter(rate float64) *limiter {
	rate = cmp.Or(rate, failureRate)
	return &limiter{rate: rate, burst: rate * failureBurst, sources: map[netip.Prefix]bucket{}}
}

// sourceOf is whose failures an address counts for: who has one address of an
// IPv6 network has as a rule the 64 bits of it.
func sourceOf(a netip.Addr) netip.Prefix {
	a = a.Unmap().WithZone("")
	bits := 32
	if a.Is6() {
		bits = 64
	}
	p, _ := a.Prefix(bits)
	return p
}

// isOver reports whether a source has been refused too often. The zero address
// never is.
func (l *limiter) isOver(a netip.Addr) bool {
	if !a.IsValid() {
		return false
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	b, ok := l.sources[sourceOf(a)]
	return ok && l.leftOf(b, time.Now()) < 1
}

// failed counts a refusal.
func (l *limiter) failed(a netip.Addr) {
	if !a.IsValid() {
		return
	}
	now := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	source := sourceOf(a)
	b, ok := l.sources[source]
	if !ok {
		b = bucket{left: l.burst, at: now}
		if len(l.sources) >= maxSources {
			l.makeRoom(now)
		}
	}
	l.sources[source] = bucket{left: max(l.leftOf(b, now)-1, 0), at: now}
}

func (l *limiter) leftOf(b bucket, now time.Time) float64 {
	return min(b.left+now.Sub(b.at).Seconds()*l.rate, l.burst)
}

// roomTries is how many sources are looked at to make room for one.
const roomTries = 16

// makeRoom forgets the source that has most left of a few, which come in an
// order that nobody can choose.
func (l *limiter) makeRoom(now time.Time) {
	var out netip.Prefix
	most, tries := math.Inf(-1), 0
	for source, b := range l.sources {
		if left := l.leftOf(b, now); left > most {
			out, most = source, left
		}
		if tries++; tries == roomTries {
			break
		}
	}
	delete(l.sources, out)
}

// logLimit lets one line a second through. The zero value is ready.
type logLimit struct {
	// Guarded by mu.
	mu      sync.Mutex
	last    time.Time
	dropped int
}

// allow says whether a line may be written at now, and how many were not since
// the last one.
func (l *logLimit) allow(now time.Time) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.last.IsZero() && now.Sub(l.last) < time.Second {
		l.dropped++
		return false, 0
	}
	dropped, l.dropped, l.last = l.dropped, 0, now
	return true, dropped
}
