package client

import (
	"context"
	"errors"
	"net"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"piko/tunnel"
)

func TestWeightsAddUp(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		wantWeights := func(reason string, want ...int) {
			t.Helper()
			synctest.Wait()
			var got []int
			f.do(func() {
				for _, n := range f.nodes {
					for _, s := range n.live() {
						got = append(got, 100)
						if len(s.weights) > 0 {
							got[len(got)-1] = s.weights[len(s.weights)-1]
						}
					}
				}
			})
			if !slices.Equal(got, want) {
				t.Errorf("%s: weights %v, want %v", reason, got, want)
			}
		}
		wantWeights("one tunnel", 100)
		time.Sleep(time.Minute)
		wantWeights("two", 50, 50)
		l.SetWeight(40)
		wantWeights("two that want less", 20, 20)
		f.do(func() { f.route = func(string, int) *fakeNode { return nil } })
		f.nodes[0].kill()
		wantWeights("one is left", 40)
		f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[2] } })
		time.Sleep(longPause)
		wantWeights("there is another", 20, 20)
		l.SetWeight(0)
		wantWeights("unhealthy", 0, 0)
		l.SetWeight(1000)
		wantWeights("well again", 50, 50)
		f.do(func() {
			if n := len(f.nodes[1].sessions[0].weights); n != 6 {
				t.Errorf("the node was told %d weights: %v", n, f.nodes[1].sessions[0].weights)
			}
		})
	})
}

func TestOneTunnelIsLost(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.do(func() { f.route = func(string, int) *fakeNode { return nil } })
		f.nodes[0].kill()
		time.Sleep(time.Minute)
		if !l.Connected() || l.Tunnels() != 1 {
			t.Errorf("connected %v, %d tunnels", l.Connected(), l.Tunnels())
		}
		f.do(func() {
			lost := func(s State) bool {
				return s.Connected && s.Tunnels == 1 && s.NodeID == "a" && errors.Is(s.Err, tunnel.ErrClosedByPeer)
			}
			if !slices.ContainsFunc(f.states, lost) {
				t.Errorf("OnState was told %+v", f.states)
			}
			f.route = func(string, int) *fakeNode { return f.nodes[2] }
		})
		time.Sleep(longPause + rtt)
		f.wantOpen(t, "when there is a node again", "b", "c")
	})
}

// The pauses are those of one tunnel, however many are missing.
func TestBothTunnelsAreLost(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.do(func() { f.route = func(string, int) *fakeNode { return nil } })
		f.nodes[0].kill()
		f.nodes[1].kill()
		n := f.attempts()
		time.Sleep(time.Minute)
		if n = f.attempts() - n; n < 35 || n > 130 {
			t.Errorf("%d attempts in the first minute", n)
		}
		time.Sleep(time.Hour)
		f.do(func() {
			for i := 1; i < len(f.dials); i++ {
				if gap := f.dials[i].Sub(f.dials[i-1]); i > 2 && gap > longPause+rtt {
					t.Errorf("attempt %d came after %v", i, gap)
				}
			}
			f.route = func(_ string, attempt int) *fakeNode { return f.nodes[attempt%3] }
		})
		time.Sleep(longPause + time.Second)
		if n := len(f.open()); n != 2 {
			t.Errorf("tunnels at %v", f.open())
		}
	})
}

// The load balancer leads the second tunnel's search to a node that hangs. When
// the first one is lost then, nobody waits for that.
func TestAttemptThatHangsHoldsNothingUp(t *testing.T) {
	f := newFakeCluster("a", "b")
	f.route = func(_ string, attempt int) *fakeNode { return f.nodes[min(attempt, 1)] }
	f.nodes[1].hangs = true
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Second)
		f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[0] } })
		f.nodes[0].kill()
		time.Sleep(2*firstPause + 2*rtt)
		if !l.Connected() {
			t.Error("not connected")
		}
	})
}

// A node whose machine was reset is there again under its name, before its old
// self is known to be dead.
func TestNodeThatComesBackUnnoticed(t *testing.T) {
	f := newFakeCluster("a", "b")
	f.route = func(string, int) *fakeNode { return f.nodes[0] }
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		f.do(func() { f.nodes[0].sessions[0].mute = true })
		time.Sleep(20 * time.Second)
		synctest.Wait()
		f.do(func() {
			if err := f.nodes[0].sessions[0].err; !errors.Is(err, tunnel.ErrDead) {
				t.Errorf("the old tunnel: %v", err)
			}
		})
		f.wantOpen(t, "after some time", "a")
	})
}

func TestShutdownLeavesAllTunnels(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{Connections: 3}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		begin := time.Now()
		if err := l.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if took := time.Since(begin); took > time.Second {
			t.Errorf("took %v", took)
		}
		f.do(func() {
			for _, n := range f.nodes {
				if s := n.sessions[0]; s.drained.IsZero() || s.err == nil {
					t.Errorf("the tunnel to %s: drain at %v, ended with %v", n.id, s.drained, s.err)
				}
			}
		})
		if _, err := l.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
	})
}

// Shutdown and Close at any moment leave nothing behind; the bubble would say
// so.
func TestEndsAtAnyMoment(t *testing.T) {
	for i := range 60 {
		f := newFakeCluster("a", "b", "c")
		synctest.Test(t, func(t *testing.T) {
			l := f.listener(t, Client{})
			ctx, cancel := context.WithTimeout(t.Context(), time.Duration(i)*rtt/4)
			defer cancel()
			if err := l.start(ctx); err == nil {
				<-ctx.Done()
				f.nodes[0].ask(true, 0)
				time.Sleep(time.Duration(i) * 40 * time.Millisecond)
			}
			if i%2 == 0 {
				if err := l.Shutdown(t.Context()); err != nil {
					t.Error(err)
				}
			}
			l.Close()
			if open := f.open(); len(open) != 0 {
				t.Errorf("%d: tunnels at %v", i, open)
			}
		})
	}
}

// A server that closes every tunnel, or asks for each to be moved, is met with
// growing pauses.
func TestRestlessServers(t *testing.T) {
	for name, disturb := range map[string]func(n *fakeNode){
		"closes":               func(n *fakeNode) { n.kill() },
		"asks to move":         func(n *fakeNode) { n.ask(false, 0) },
		"changes the size":     func(n *fakeNode) { n.c.resize(1); n.c.resize(3) },
		"changes it and hangs": func(n *fakeNode) { n.c.do(func() { n.hangs = true }); n.c.resize(1); n.c.resize(3) },
	} {
		t.Run(name, func(t *testing.T) {
			f := newFakeCluster("a", "b", "c")
			f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
				for range 600 {
					time.Sleep(100 * time.Millisecond)
					synctest.Wait()
					for _, n := range f.nodes {
						disturb(n)
					}
				}
				if n := f.attempts(); n > 250 {
					t.Errorf("%d attempts in a minute", n)
				}
			})
		})
	}
}
