package upstreamconn

import (
	"container/heap"
	"context"
	"sync"
	"time"

	"piko/tunnel"
)

const (
	// expiryGrace is how long requests in flight may go on in a tunnel whose
	// token has expired.
	expiryGrace = 30 * time.Second

	// moveGrace is how long an upstream of ours has to leave a tunnel in order
	// on which nothing goes on.
	moveGrace = 5 * time.Second

	// expiryPoll is how often we look whether the last request has ended.
	expiryPoll = 250 * time.Millisecond

	// clockCheck is how often a deadline is compared with the clock, which may
	// have been set meanwhile.
	clockCheck = 10 * time.Second
)

// A tunnel whose token has expired, or was replaced by one that is refused, is
// taken out of the table and asked to move; it ends when nothing goes on in it
// any more, or after a grace. All of them share one timer.

// expiries are the tunnels for which there is something to be done at a time.
type expiries struct {
	wake chan struct{} // the first of them has changed; holds one token

	// Guarded by mu.
	mu   sync.Mutex
	heap dueHeap
}

// due is when to look at a tunnel. Guarded by the mu of expiries.
type due struct {
	at    time.Time
	index int // in the heap plus 1; 0: not in there
}

func (e *expiries) init() { e.wake = make(chan struct{}, 1) }

// set has u looked at then, and not when it was said before; the zero time is never.
func (e *expiries) set(u *upstream, at time.Time) {
	e.mu.Lock()
	defer e.mu.Unlock()
	u.due.at = at
	switch in := u.due.index > 0; {
	case !in && at.IsZero():
		return
	case !in:
		heap.Push(&e.heap, u)
	case at.IsZero():
		heap.Remove(&e.heap, u.due.index-1)
		return
	default:
		heap.Fix(&e.heap, u.due.index-1)
	}
	if e.heap[0] == u {
		select {
		case e.wake <- struct{}{}:
		default:
		}
	}
}

// take returns the tunnels that are due by now, and how long it is to the next.
func (e *expiries) take(now time.Time) (list []*upstream, wait time.Duration) {
	e.mu.Lock()
	defer e.mu.Unlock()
	for len(e.heap) > 0 {
		if left := e.heap[0].due.at.Sub(now); left > 0 {
			return list, min(left, clockCheck)
		}
		list = append(list, heap.Pop(&e.heap).(*upstream))
	}
	return list, 1<<63 - 1
}

// dueHeap is a container/heap of tunnels.
type dueHeap []*upstream

func (h dueHeap) Len() int           { return len(h) }
func (h dueHeap) Less(i, j int) bool { return h[i].due.at.Before(h[j].due.at) }

// Swap implements heap.Interface.
func (h dueHeap) Swap(i, j int) {
	h[i], h[j] = h[j], h[i]
	h[i].due.index, h[j].due.index = i+1, j+1
}

// Push implements heap.Interface.
func (h *dueHeap) Push(x any) {
	u := x.(*upstream)
	*h = append(*h, u)
	u.due.index = len(*h)
}

// Pop implements heap.Interface.
func (h *dueHeap) Pop() any {
	last := len(*h) - 1
	u := (*h)[last]
	(*h)[last] = nil
	*h = (*h)[:last]
	u.due.index = 0
	return u
}

// endExpired does what is due until ctx ends.
func (s *Server) endExpired(ctx context.Context) {
	var closing sync.WaitGroup
	defer closing.Wait()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.expiries.wake:
		case <-timer.C:
		}
		now := time.Now()
		list, wait := s.expiries.take(now)
		timer.Reset(wait)
		if over := endOf(list, now); len(over) > 0 {
			closing.Go(func() { s.closeExpired(over) })
		}
	}
}

// closeExpired closes tunnels, and tells what that has cut.
func (s *Server) closeExpired(list []*upstream) {
	if cut := closeAll(list); cut > 0 {
		s.log.Warn("requests were cut with tunnels that have no good token any more", "requests", cut, "tunnels", len(list))
	}
}

// endOf looks at tunnels that are due, and returns those that are to be closed.
func endOf(list []*upstream, now time.Time) (over []*upstream) {
	for _, u := range list {
		if u.look(now) {
			over = append(over, u)
		}
	}
	return over
}

// look does what is due for a tunnel, and says whether it is to be closed.
func (u *upstream) look(now time.Time) (over bool) {
	u.mu.Lock()
	begun, expiry, retry := u.expired, u.grant.Expiry(), u.retry
	u.mu.Unlock()
	switch {
	case !begun.IsZero():
		return u.isOver(now, begun)
	case !expiry.IsZero() && !now.Before(expiry):
		u.expire("token has expired")
	case !retry.IsZero() && !now.Before(retry):
		u.verifyAgain()
	default: // the clock was set back
		u.mu.Lock()
		u.schedule()
		u.mu.Unlock()
	}
	return false
}

// schedule needs mu. It has u looked at when its token expires, or when one that
// could not be verified is to be verified again.
func (u *upstream) schedule() {
	if u.sess == nil || u.ended != nil || !u.expired.IsZero() {
		return
	}
	at := u.grant.Expiry()
	if !u.retry.IsZero() && (at.IsZero() || u.retry.Before(at)) {
		at = u.retry
	}
	if !at.IsZero() || u.due.index > 0 {
		u.server.expiries.set(u, at)
	}
}

// expire begins the end of a tunnel that has no good token any more: it gets no
// request, and is asked to move. It does no harm to say it again.
func (u *upstream) expire(reason string) {
	now := time.Now()
	u.mu.Lock()
	again := !u.expired.IsZero() || u.sess == nil || u.ended != nil
	if !again {
		u.expired, u.why = now, reason
		u.asked = true
	}
	sess := u.sess
	u.mu.Unlock()
	if again {
		return
	}
	u.server.log.Info("upstream has to leave", u.attrs("reason", reason, "in_flight", u.local.InFlight(), "grace", expiryGrace.String())...)
	u.leave()
	if sess.HasControl() {
		_ = sess.Drain(tunnel.DrainMessage{Reason: reason}) // an error says that it has ended
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended == nil {
		u.server.expiries.set(u, now.Add(expiryPoll))
	}
}

// isOver says whether a tunnel that has had to leave since begun is to be closed
// now; if not, it is looked at again.
func (u *upstream) isOver(now, begun time.Time) bool {
	passed := now.Sub(begun)
	if passed >= expiryGrace || u.quiet() && (passed >= moveGrace || !u.sess.HasControl()) {
		return true
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.ended == nil {
		u.server.expiries.set(u, now.Add(expiryPoll))
	}
	return false
}
