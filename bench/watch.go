package bench

import (
	"sync"
	"time"

	"piko/client"
)

// watch follows the states of many listeners. Safe for concurrent use.
type watch struct {
	mu        sync.Mutex
	connected map[string]bool
	lost      int
	back      func(d time.Duration) // of a listener, since it was lost; nil: nobody asks
	returned  map[string]bool       // those of which back was told
	lostAt    map[string]time.Time
}

func newWatch() *watch {
	return &watch{connected: make(map[string]bool), lostAt: make(map[string]time.Time)}
}

// set is a client.Client's OnState.
func (w *watch) set(s client.State) {
	w.mu.Lock()
	defer w.mu.Unlock()
	was := w.connected[s.Endpoint]
	w.connected[s.Endpoint] = s.Connected
	switch {
	case was && !s.Connected && s.Phase == client.PhaseReconnecting:
		w.lost++
		w.lostAt[s.Endpoint] = time.Now()
	case !was && s.Connected:
		if at, ok := w.lostAt[s.Endpoint]; ok {
			delete(w.lostAt, s.Endpoint)
			if w.back != nil && !w.returned[s.Endpoint] {
				w.returned[s.Endpoint] = true
				w.back(time.Since(at))
			}
		}
	}
}

// losses is how often a listener lost its last tunnel.
func (w *watch) losses() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.lost
}

// after has back called for each listener that comes back, the first time, and
// returns a channel that is closed when n of them are.
func (w *watch) after(n int, back func(time.Duration)) <-chan struct{} {
	w.mu.Lock()
	defer w.mu.Unlock()
	whole, seen := make(chan struct{}), 0
	w.returned = make(map[string]bool)
	w.back = func(d time.Duration) {
		back(d)
		if seen++; seen == n {
			close(whole)
		}
	}
	return whole
}
