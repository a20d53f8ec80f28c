package gossip

import (
	"context"
	"sync"
	"time"
)

// removalDelay is how long an endpoint that nobody serves any more is still told
// to others: an upstream that comes back in that time has not been away.
const removalDelay = 250 * time.Millisecond

// removals stands between what the table observes and the log: it holds removals
// back for a while.
type removals struct {
	// Static after construction.
	set  func(endpoint string, weight int)
	wake chan struct{} // holds one

	// Guarded by mu, which is held while set is called: the order of the changes of
	// one endpoint must not be lost.
	mu    sync.Mutex
	due   map[string]time.Time // when it is to be removed
	queue []removal            // in the order of time; some do not hold any more
}

type removal struct {
	endpoint string
	at       time.Time
}

func newRemovals(set func(endpoint string, weight int)) *removals {
	return &removals{set: set, wake: make(chan struct{}, 1), due: make(map[string]time.Time)}
}

// observe is told by the table, with its lock held.
func (r *removals) observe(endpoint string, weight int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if weight > 0 {
		delete(r.due, endpoint)
		r.set(endpoint, weight)
		return
	}
	at := time.Now().Add(removalDelay)
	r.due[endpoint] = at
	r.queue = append(r.queue, removal{endpoint, at})
	if len(r.queue) == 1 {
		kick(r.wake)
	}
}

// run removes when it is time.
func (r *removals) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-r.wake:
		}
		if wait, any := r.expire(time.Now()); any {
			timer.Reset(wait)
		}
	}
}

// expireBatch bounds how long the table waits for this.
const expireBatch = 1024

// expire removes what is due, and says how long to wait for the next if there is
// one.
func (r *removals) expire(now time.Time) (wait time.Duration, any bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	done := 0
	for ; done < len(r.queue) && done < expireBatch && !r.queue[done].at.After(now); done++ {
		if next := r.queue[done]; r.due[next.endpoint].Equal(next.at) {
			delete(r.due, next.endpoint)
			r.set(next.endpoint, 0)
		}
	}
	if r.queue = r.queue[done:]; len(r.queue) == 0 {
		r.queue = nil // and the room that it had
		return 0, false
	}
	return max(r.queue[0].at.Sub(now), 0), true
}
