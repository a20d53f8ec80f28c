package upstreamconn

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"time"
)

const (
	// sendBackRate is how many v0.9.0 upstreams are sent back in a second;
	// more if it would take more than a quarter of the time that there is.
	sendBackRate = 500

	// quietPoll is how often they are looked at, lookAgain how often it is
	// looked whether there are more.
	quietPoll = 20 * time.Millisecond
	lookAgain = 500 * time.Millisecond

	// patience is how long one is waited for that never stops being busy:
	// after that it is held, the first time for firstHold. Each time that this
	// is not long enough both double, the latter up to maxHold: new requests
	// wait as long, and one of v0.9.0's without end, such as a WebSocket, would
	// otherwise stop them again and again.
	patience  = 2 * time.Second
	firstHold = 250 * time.Millisecond
	maxHold   = 800 * time.Millisecond
)

// SendBack ends the tunnels of v0.9.0 upstreams, such that they connect again:
// each when it has nothing under way, or by making new requests wait shortly if
// that never comes. Requests that meet the end of a tunnel are refused before
// they have reached the upstream. Call it after Drain, when another node would
// take the upstreams or no request needs them any more.
//
// It takes a fifth of a second for 100 tunnels, or a quarter of the time that
// ctx leaves if that is less. It returns when all have ended or ctx has; those
// that are left serve on until Close. Upstreams that go away by themselves are
// not waited for.
func (s *Server) SendBack(ctx context.Context) {
	s.init()
	r := newReturning(ctx, s, s.ofV090(), patience)
	defer r.finish()
	for again := r.begun.Add(lookAgain); ; {
		now := time.Now()
		if r.look(now); len(r.list) == 0 || now.After(again) {
			again = now.Add(lookAgain)
			r.add(s.ofV090(), now)
		}
		if len(r.list) == 0 || !sleep(ctx, quietPoll) {
			return
		}
	}
}

// ofV090 are the upstreams that cannot be asked to move, in no order.
func (s *Server) ofV090() []*upstream {
	list := slices.DeleteFunc(s.registry.all(), func(u *upstream) bool {
		sess := u.session()
		return sess == nil || sess.HasControl() || u.goes()
	})
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	return list
}

// sendIdleBack is SendBack for those of the list that are idle all the time. It
// returns how many have left.
func (s *Server) sendIdleBack(ctx context.Context, list []*upstream) (left int) {
	r := newReturning(ctx, s, list, time.Hour)
	defer r.finish()
	for r.look(time.Now()); len(r.list) > 0 && sleep(ctx, quietPoll); {
		r.look(time.Now())
	}
	return r.left
}

// sendBackTime is over what time n upstreams are sent back.
func sendBackTime(ctx context.Context, n int) time.Duration {
	within := time.Duration(n) * time.Second / sendBackRate
	if end, ok := ctx.Deadline(); ok {
		within = min(within, time.Until(end)/4)
	}
	return max(within, quietPoll)
}

// returning are v0.9.0 upstreams that are sent back, by one goroutine.
type returning struct {
	// Static after construction.
	server   *Server
	begun    time.Time
	within   time.Duration // all are sent back evenly over that time
	patience time.Duration

	list   []*returnee
	left   int
	closes sync.WaitGroup
}

// returnee is one of them.
type returnee struct {
	u        *upstream
	held     time.Time     // since when; zero if not
	vain     bool          // it has been held in vain
	next     time.Time     // when it will be held whatever it does
	patience time.Duration // between holding it in vain and the next time
	length   time.Duration // of the next time
}

func newReturning(ctx context.Context, s *Server, list []*upstream, patience time.Duration) *returning {
	r := &returning{server: s, begun: time.Now(), within: sendBackTime(ctx, len(list)), patience: patience}
	r.add(list, r.begun.Add(r.within))
	return r
}

// add puts those of list on the list that are not yet.
func (r *returning) add(list []*upstream, now time.Time) {
	known := make(map[*upstream]bool, len(r.list))
	for _, e := range r.list {
		known[e.u] = true
	}
	for _, u := range list {
		if !known[u] {
			r.list = append(r.list, &returnee{u: u, next: now.Add(r.patience), patience: r.patience, length: firstHold})
		}
	}
}

// look does what can be done now, and takes those off the list that have left.
func (r *returning) look(now time.Time) {
	var gone []*upstream
	allowed := r.allowed(now)
	r.list = slices.DeleteFunc(r.list, func(e *returnee) bool {
		if e.u.goes() { // by itself, or as it has been used up
			return true
		}
		if e.held.IsZero() && (r.left+len(gone) >= allowed || !e.begin(now)) {
			return false
		}
		if e.u.depart() {
			r.server.lingers.add(e.u, now)
			gone = append(gone, e.u)
			return true
		}
		e.giveUp(now)
		return false
	})
	r.left += len(gone)
	for part := range slices.Chunk(gone, max(len(gone)/closers, 1)) {
		r.closes.Go(func() { sentBack(part) })
	}
}

// allowed is how many may have left by now.
func (r *returning) allowed(now time.Time) int {
	all := len(r.list) + r.left
	if passed := now.Sub(r.begun) + quietPoll; passed < r.within {
		return max(int(int64(all)*int64(passed)/int64(r.within)), 1)
	}
	return all
}

// begin holds the upstream if it is idle, or has been busy for too long.
func (e *returnee) begin(now time.Time) bool {
	busy := e.vain || e.u.local.InFlight() > 0
	if busy && now.Before(e.next) || !e.u.hold() {
		return false
	}
	e.held = now
	return true
}

// giveUp lets an upstream go on that was held for long enough.
func (e *returnee) giveUp(now time.Time) {
	if now.Sub(e.held) < e.length {
		return
	}
	e.u.release()
	e.held, e.vain = time.Time{}, true
	e.next, e.patience = now.Add(e.patience), 2*e.patience
	e.length = min(2*e.length, maxHold)
}

// finish lets those go on that have not left, and waits for the ends of the
// others.
func (r *returning) finish() {
	for _, e := range r.list {
		if !e.held.IsZero() {
			e.u.release()
		}
	}
	r.closes.Wait()
}
