package upstreamconn

import (
	"context"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"piko/tunnel"
)

const (
	// drainWave tunnels are told something at once at most, then there is a
	// drainPause: telling 10,000 takes a second and no storm of goroutines.
	drainWave  = 128
	drainPause = 10 * time.Millisecond

	// maxSpread bounds over what time the tunnels of one wave are told to
	// spread: it is the waves that spread a drain.
	maxSpread = 250 * time.Millisecond

	// closers is how many tunnels are closed at once.
	closers = 64
)

// Drain asks the tunnels to move elsewhere, in waves over msg.ReconnectWithin
// or, if there are too many for that, 12,800 a second; until they have moved
// they are served, as a last resort. From now on new ones are refused while
// Others says that another node would take them; otherwise they are taken, and
// asked to move too. A v0.9.0 upstream cannot be asked: it stays until SendBack
// or Close.
//
// It returns when all were told, which needs no round trip, or ctx has ended.
// Tunnels says how many have not moved yet.
func (s *Server) Drain(ctx context.Context, msg tunnel.DrainMessage) {
	s.init()
	total := msg.ReconnectWithin
	msg.ReconnectWithin = min(total, maxSpread)
	list := slices.DeleteFunc(s.registry.drain(msg), func(u *upstream) bool { return !u.canBeAsked() })
	rand.Shuffle(len(list), func(i, j int) { list[i], list[j] = list[j], list[i] })
	log := s.log.Info
	if len(list) == 0 {
		log = s.log.Debug // there are none, or they have been told before
	}
	log("draining upstreams", "upstreams", s.registry.len(), "asked", len(list), "within", total.String(), "reason", msg.Reason)
	begun := time.Now()
	for told := 0; told < len(list); {
		size, pause := wave(len(list), told, time.Since(begun), total)
		msg.ReconnectWithin = min(pause, total, maxSpread)
		for _, u := range list[told : told+size] {
			u.askToMove(msg)
		}
		if told += size; told < len(list) && !sleep(ctx, pause) {
			return
		}
	}
}

// wave says how many of n to tell now, when some have been told in the time
// that has passed, and how long to wait until the next wave, so that all are
// told evenly within the time. A wave that comes late is larger.
func wave(n, told int, passed, within time.Duration) (size int, pause time.Duration) {
	due := n
	if passed < within {
		due = min(int(float64(n)*float64(passed)/float64(within))+1, n)
	}
	size = min(max(due-told, 0), drainWave)
	next := time.Duration(float64(within) * float64(told+size) / float64(n))
	return size, max(next-passed, drainPause)
}

// Tunnels is how many tunnels there are, those included that serve no endpoint
// any more and only end their last streams.
func (s *Server) Tunnels() int {
	s.init()
	return s.registry.len()
}

// canBeAsked says whether askToMove would do something now.
func (u *upstream) canBeAsked() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sess != nil && u.sess.HasControl() && !u.asked
}

// askToMove starts the drain of a tunnel, once. One that is not in the table
// yet is asked when it is.
func (u *upstream) askToMove(msg tunnel.DrainMessage) {
	u.mu.Lock()
	sess := u.sess
	ask := sess != nil && sess.HasControl() && !u.asked
	u.asked = u.asked || ask
	u.mu.Unlock()
	if ask {
		_ = sess.Drain(msg) // an error says that it has ended
	}
}

// catchUp does to u, which has just been joined, what was done to all others
// while it could not be yet.
func (s *Server) catchUp(u *upstream) {
	switch msg, closed := s.registry.end(); {
	case closed:
		u.close()
	case msg != nil:
		u.askToMove(*msg)
	default:
		u.tellSize()
	}
}

// sleep reports whether ctx is still there after d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// Close ends all tunnels, those of v0.9.0 such that they connect again, and
// refuses new ones. It returns how many requests in flight that cut. It waits
// for the goroutines of the tunnels until ctx ends.
func (s *Server) Close(ctx context.Context) (cut int) {
	s.init()
	cut = closeAll(s.registry.close())
	s.lingers.endAll()
	select {
	case <-s.registry.gone:
	case <-ctx.Done():
	}
	return cut
}

// closeAll closes the tunnels, several at once, and returns how many requests
// in flight that cut.
func closeAll(list []*upstream) (cut int) {
	var wg sync.WaitGroup
	var n atomic.Int64
	next := make(chan *upstream)
	for range min(closers, len(list)) {
		wg.Go(func() {
			for u := range next {
				n.Add(int64(u.close()))
			}
		})
	}
	for _, u := range list {
		next <- u
	}
	close(next)
	wg.Wait()
	return int(n.Load())
}

// close ends the tunnel and returns how many requests that cut. One that is not
// in the table yet ends when it is.
func (u *upstream) close() (cut int) {
	sess := u.session()
	if sess == nil {
		return 0
	}
	cut = u.local.InFlight()
	closeSession(sess)
	return cut
}

// closeSession lets a v0.9.0 peer connect again, which it would not do after
// another end. An error says that the session has ended.
func closeSession(sess *tunnel.Session) {
	if sess.HasControl() {
		_ = sess.Close()
	} else {
		_ = sess.CloseWithGoAway(tunnel.CodeReconnect)
	}
}
