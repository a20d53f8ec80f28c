package client

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// A refusal that arrives when the tunnel is gone that was the reason for it
// belongs to no outage: the attempts are those that the loss calls for.
func TestRefusalThatOutlivesItsReason(t *testing.T) {
	for range 20 {
		f := newFakeCluster("a", "b", "c")
		f.route = func(string, int) *fakeNode { return f.nodes[0] }
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(10 * time.Minute) // the pauses are long by now
			f.untilDialling(t)
			f.nodes[0].kill()
			time.Sleep(2*firstPause + 3*rtt)
			synctest.Wait()
			if !l.Connected() {
				t.Error("not connected")
			}
			f.do(func() {
				if slices.ContainsFunc(f.states, func(s State) bool { return errors.Is(s.Err, fault.DuplicateTunnel) }) {
					t.Error("the refusal counts as a failure")
				}
			})
		})
	}
}

// untilDialling waits for the next attempt.
func (c *fakeCluster) untilDialling(t *testing.T) {
	t.Helper()
	for range 2 * longPause / time.Millisecond {
		time.Sleep(time.Millisecond)
		synctest.Wait()
		dialling := false
		if c.do(func() { dialling = c.dialling > 0 }); dialling {
			return
		}
	}
	t.Fatal("no attempt within 20 s")
}

// lastWeight is what the node of the session goes by.
func (s *fakeSession) lastWeight() int {
	w := defaultWeight
	s.node.c.do(func() {
		if len(s.weights) > 0 {
			w = s.weights[len(s.weights)-1]
		}
	})
	return w
}

// The load balancer leads to the other tunnel's node only. The node that stops
// is not to wait for that.
func TestNodeThatDrainsIsLeftThoughNothingReplacesIt(t *testing.T) {
	for _, old := range []bool{false, true} {
		f := newFakeCluster("a", "b", "c").ofOld(old)
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(time.Minute)
			f.wantOpen(t, "at first", "a", "b")
			left, other := f.nodes[0].session(0), f.nodes[1].session(0)
			f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[1] } })
			f.nodes[0].ask(true, 0)
			time.Sleep(moveTime - time.Millisecond)
			if w := other.lastWeight(); w != 50 || l.Tunnels() != 2 {
				t.Errorf("while there is hope the other tunnel weighs %d, of %d", w, l.Tunnels())
			}
			time.Sleep(2 * time.Millisecond)
			synctest.Wait()
			if w := other.lastWeight(); w != 100 || l.Tunnels() != 1 {
				t.Errorf("then it weighs %d, of %d", w, l.Tunnels())
			}
			time.Sleep(settleTime)
			f.wantOpen(t, "after that", "b")
			if err := left.Err(); err != tunnel.ErrClosedByUs {
				t.Errorf("the tunnel that was left: %v", err)
			}
			n := f.attempts()
			time.Sleep(time.Minute)
			if n = f.attempts() - n; n < 4 || n > 40 {
				t.Errorf("%d attempts in the minute after", n)
			}
			f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[2] } })
			time.Sleep(longPause + rtt)
			f.wantOpen(t, "once the load balancer leads elsewhere", "b", "c")
			if w := other.lastWeight(); w != 50 {
				t.Errorf("at last it weighs %d", w)
			}
			f.do(func() {
				if slices.ContainsFunc(f.states, func(s State) bool { return !s.Connected }) {
					t.Error("OnState was told that the endpoint is not served")
				}
			})
		})
	}
}

// A node may give us more time than that.
func TestNodeThatDrainsIsNotLeftBeforeAReplacementIsDue(t *testing.T) {
	for range 20 {
		f := newFakeCluster("a", "b", "c")
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(time.Minute)
			left := f.nodes[0].session(0)
			f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[1] } })
			n := f.attempts()
			f.nodes[0].ask(true, time.Minute)
			time.Sleep(2 * time.Minute)
			f.do(func() {
				first := f.dials[n]
				if after := left.drained.Sub(first); after < moveTime+settleTime-firstPause || after > moveTime+settleTime {
					t.Errorf("left %v after the first attempt", after)
				}
			})
		})
	}
}

// Two nodes ask, and a third tunnel is there: both are left.
func TestTwoOfThreeNodesDrain(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{Connections: 3}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.wantOpen(t, "at first", "a", "b", "c")
		f.nodes[0].ask(true, 0)
		f.nodes[1].ask(true, 0)
		time.Sleep(moveTime + settleTime + rtt)
		f.wantOpen(t, "when time is up", "c")
		if w := f.nodes[2].session(0).lastWeight(); w != 100 {
			t.Errorf("the one that is left weighs %d", w)
		}
	})
}

// A tunnel that is made anew while the service is ill says so in its handshake, which old nodes do not read, and in its first
// message; and that the service is well, if that comes about meanwhile.
func TestIllServiceIsToldInTheHandshake(t *testing.T) {
	f := newFakeCluster("a")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		last := func() *fakeSession {
			f.nodes[0].kill()
			time.Sleep(time.Minute)
			var s *fakeSession
			f.do(func() { s = f.nodes[0].live()[0] })
			return s
		}
		if s := last(); s.ill || len(s.weights) > 0 {
			t.Errorf("healthy: ill %v, then %v", s.ill, s.weights)
		}
		l.SetWeight(0)
		if s := last(); !s.ill || !slices.Equal(s.weights, []int{0}) {
			t.Errorf("ill: ill %v, then %v", s.ill, s.weights)
		}
		f.nodes[0].kill()
		f.untilDialling(t)
		l.SetWeight(100)
		time.Sleep(2 * rtt)
		var s *fakeSession
		f.do(func() { s = f.nodes[0].live()[0] })
		if w := s.lastWeight(); !s.ill || w != 100 || len(s.weights) == 0 {
			t.Errorf("healthy while it dialled: ill %v, then %v", s.ill, s.weights)
		}
	})
}
