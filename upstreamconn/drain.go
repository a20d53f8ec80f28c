package upstreamconn

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"piko/tunnel"
)

const (
	// drainWave tunnels are told to move at once, then there is a drainPause:
	// telling 10,000 takes a second and no storm of goroutines.
	drainWave  = 128
	drainPause = 10 * time.Millisecond

	// quietPoll is how often the v0.9.0 tunnels are looked at whose last
	// stream has to end before they are closed.
	quietPoll = 50 * time.Millisecond

	// closers is how many tunnels are closed at once.
	closers = 64
)

// Drain refuses new tunnels from now on and asks the present ones to move
// elsewhere, spread over msg.ReconnectWithin; until they have, they are served,
// as a last resort. A v0.9.0 upstream cannot be asked: it stays, for what is
// under way, until SendBack or Close.
//
// It returns when all were told, which takes no round trip, or ctx has ended.
// Tunnels says how many have not moved yet.
func (s *Server) Drain(ctx context.Context, msg tunnel.DrainMessage) {
	s.init()
	list := s.registry.drain(msg)
	s.log.Info("draining upstreams", "upstreams", len(list), "reason", msg.Reason)
	for i, u := range list {
		u.askToMove(msg)
		if i%drainWave == drainWave-1 && !sleep(ctx, drainPause) {
			break
		}
	}
}

// SendBack ends the tunnels of v0.9.0 upstreams, such that they connect again,
// each when its last stream has ended. They get no new request, so call it
// after Drain, when no request is left that could need them. It returns when
// they have ended or ctx has; Close ends those that are left.
func (s *Server) SendBack(ctx context.Context) {
	s.init()
	list := slices.DeleteFunc(s.registry.all(), func(u *upstream) bool {
		sess := u.session()
		return sess == nil || sess.HasControl()
	})
	for _, u := range list {
		u.leave()
	}
	for list = closeQuiet(list); len(list) > 0 && sleep(ctx, quietPoll); {
		list = closeQuiet(list)
	}
}

// Tunnels is how many tunnels there are, those included that serve no endpoint
// any more and only end their last streams.
func (s *Server) Tunnels() int {
	s.init()
	return s.registry.len()
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
	}
}

// closeQuiet closes those tunnels of list that have no stream left, and returns
// those that still have to be closed. None of them has control.
func closeQuiet(list []*upstream) (busy []*upstream) {
	var quiet []*upstream
	for _, u := range list {
		switch sess := u.session(); {
		case sess.Err() != nil:
		case sess.NumStreams() > 0 || !u.settled():
			busy = append(busy, u)
		default:
			quiet = append(quiet, u)
		}
	}
	closeAll(quiet)
	return busy
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
