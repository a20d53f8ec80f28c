package proxy

import (
	"sync"
	"sync/atomic"
	"time"
)

// Retries of requests that may have been executed are bounded over a window of the last 10 to 20 s: when everything
// fails, retries must not be what keeps it down.
const (
	budgetWindow = 10 * time.Second
	budgetShare  = 5   // one retry for so many requests
	budgetFloor  = 100 // retries in a window whatever the number of requests: 10/s
)

// budget says whether a request may be tried again. Safe for concurrent use.
type budget struct {
	requests atomic.Uint64 // since the start

	// Guarded by mu, which only retries take.
	mu      sync.Mutex
	start   time.Time                          // of this window
	base    uint64                             // requests when it started
	retries uint64                             // in it
	before  struct{ requests, retries uint64 } // in the window before
}

func newBudget(now time.Time) *budget { return &budget{start: now} }

// request counts one. It takes no lock.
func (b *budget) request() { b.requests.Add(1) }

// retry counts a retry and says true if there may be one.
func (b *budget) retry(now time.Time) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.turn(now)
	all := b.requests.Load() - b.base + b.before.requests
	if b.retries+b.before.retries >= max(budgetFloor, all/budgetShare) {
		return false
	}
	b.retries++
	return true
}

// turn starts a new window when this one is over. It wants mu.
func (b *budget) turn(now time.Time) {
	age := now.Sub(b.start)
	if age < budgetWindow {
		return
	}
	n := b.requests.Load()
	b.before.requests, b.before.retries = n-b.base, b.retries
	if age >= 2*budgetWindow { // nobody asked for a while: what happened then is unknown, and old
		b.before.requests, b.before.retries = 0, 0
	}
	b.start, b.base, b.retries = now, n, 0
}
