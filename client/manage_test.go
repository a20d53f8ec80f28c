package client

import (
	"errors"
	"slices"
	"testing"
	"time"

	"piko/tunnel"
)

func TestTunnelsAreAtDistinctNodes(t *testing.T) {
	for _, c := range []struct {
		name   string
		nodes  []string
		client Client
		want   []string
	}{
		{"two of three", []string{"a", "b", "c"}, Client{}, []string{"a", "b"}},
		{"as many as nodes", []string{"a", "b", "c"}, Client{Connections: 5}, []string{"a", "b", "c"}},
		{"one is enough", []string{"a", "b", "c"}, Client{Connections: 1}, []string{"a"}},
		{"one node", []string{"a"}, Client{}, []string{"a"}},
		{"servers that have no name", []string{"", ""}, Client{}, []string{""}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFakeCluster(c.nodes...)
			if c.nodes[0] == "" {
				f.resizeSilently(0)
			}
			f.inBubble(t, c.client, func(t *testing.T, l *Listener) {
				if n := l.Tunnels(); n != 1 {
					t.Errorf("Listen returned with %d tunnels, want the first", n)
				}
				time.Sleep(time.Second)
				f.wantOpen(t, "after a second", c.want...)
				n := f.attempts()
				time.Sleep(time.Hour)
				f.wantOpen(t, "after an hour", c.want...)
				if f.attempts() != n || n > len(c.want) {
					t.Errorf("%d attempts, and then %d", n, f.attempts()-n)
				}
			})
		})
	}
}

// resizeSilently changes what new tunnels are told.
func (c *fakeCluster) resizeSilently(size int) {
	c.do(func() {
		for _, n := range c.nodes {
			n.size = size
		}
	})
}

func TestClusterGrowsAndShrinks(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.resizeSilently(1)
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.wantOpen(t, "one node", "a")
		f.resize(3)
		time.Sleep(growSpread + rtt)
		f.wantOpen(t, "three nodes", "a", "b")
		f.resize(2)
		time.Sleep(time.Minute)
		f.wantOpen(t, "two nodes", "a", "b")
		f.resize(1)
		time.Sleep(surplusTime - time.Millisecond)
		f.wantOpen(t, "one node, but perhaps not for long", "a", "b")
		time.Sleep(settleTime + time.Second)
		f.wantOpen(t, "one node", "a")
		f.do(func() {
			if s := f.nodes[1].sessions[0]; s.drained.IsZero() || !errors.Is(s.err, tunnel.ErrClosedByUs) {
				t.Errorf("the tunnel too many was ended without a drain: %v", s.err)
			}
		})
		if got := l.Tunnels(); got != 1 {
			t.Errorf("%d tunnels", got)
		}
	})
}

// A node dies without a word, and the other one counts one node less before the
// dead tunnel is noticed: it is not the living one that is given up.
func TestNodeThatDiesSilentlyCostsNoOtherTunnel(t *testing.T) {
	for _, dead := range []int{0, 1} {
		f := newFakeCluster("a", "b")
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(time.Minute)
			f.wantOpen(t, "at first", "a", "b")
			f.do(func() { f.nodes[dead].sessions[0].mute = true })
			other := f.nodes[1-dead]
			f.do(func() { other.size = 1 })
			other.session(0).events.Cluster(1)
			for range 60 {
				time.Sleep(time.Second)
				if s := other.session(0); s.Err() != nil {
					t.Fatalf("the living tunnel was left: %v", s.Err())
				}
			}
			f.wantOpen(t, "when it is over", other.id)
		})
	}
}

func TestLoadBalancerThatAlwaysLeadsToOneNode(t *testing.T) {
	t.Run("that refuses", func(t *testing.T) { alwaysToOneNode(t, false) })
	t.Run("of before", func(t *testing.T) { alwaysToOneNode(t, true) })
}

func alwaysToOneNode(t *testing.T, old bool) {
	f := newFakeCluster("a", "b", "c").ofOld(old)
	f.route = func(string, int) *fakeNode { return f.nodes[0] }
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		first := f.nodes[0].session(0)
		time.Sleep(3 * time.Second)
		if n := f.attempts(); n < 4 || n > 20 {
			t.Errorf("%d attempts in the first seconds, want several", n)
		}
		time.Sleep(time.Hour)
		f.wantOpen(t, "after an hour", "a")
		n := f.attempts()
		if n < 500 || n > 1000 { // a pause is 5 s on average
			t.Errorf("%d attempts in an hour", n)
		}
		f.do(func() {
			for i := 1; i < len(f.dials); i++ {
				if gap := f.dials[i].Sub(f.dials[i-1]); gap > longPause+rtt {
					t.Errorf("attempt %d came after %v", i, gap)
				}
			}
			if refused := f.nodes[0].refused; (refused == 0) != old || !old && len(f.nodes[0].sessions) != 1 {
				t.Errorf("%d attempts were refused, %d tunnels opened", refused, len(f.nodes[0].sessions))
			}
			for _, s := range f.nodes[0].sessions[1:] {
				if !s.drained.Equal(s.since) || !s.ended.Equal(s.since) {
					t.Fatalf("a duplicate was kept for %v", s.ended.Sub(s.since))
				}
			}
			if len(first.weights) != 0 {
				t.Errorf("the tunnel was told the weights %v for nothing", first.weights)
			}
		})
		if first.Err() != nil || !l.Connected() {
			t.Errorf("the first tunnel was lost for that: %v", first.Err())
		}
		f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[2] } })
		time.Sleep(longPause + rtt)
		f.wantOpen(t, "once the load balancer leads elsewhere", "a", "c")
	})
}

func TestNodeThatDrainsIsReplacedFirst(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.wantOpen(t, "at first", "a", "b")
		// The load balancer tries those that do not help before the one that does.
		f.do(func() {
			order := []int{0, 1, 0, 1, 2}
			begin := len(f.dials)
			f.route = func(_ string, attempt int) *fakeNode { return f.nodes[order[min(attempt-begin, 4)]] }
		})
		f.nodes[0].ask(true, 0)
		f.resize(2)
		time.Sleep(5 * time.Second)
		f.wantOpen(t, "after the move", "b", "c")
		f.do(func() {
			left, came := f.nodes[0].sessions[0], f.nodes[2].sessions[0]
			if after := left.drained.Sub(came.since); after < settleTime || after > settleTime+100*time.Millisecond {
				t.Errorf("left %v after its replacement was open", after)
			}
			if n := len(f.nodes[2].sessions); n != 1 {
				t.Errorf("%d tunnels were opened for one", n)
			}
		})
	})
}

// Of two nodes one drains: there is nowhere else to go, and the other one is
// enough.
func TestNodeThatDrainsInAClusterOfTwo(t *testing.T) {
	f := newFakeCluster("a", "b")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.nodes[1].ask(true, 0)
		time.Sleep(3 * time.Second)
		f.wantOpen(t, "while the cluster is said to have two nodes", "a", "b")
		f.resize(1)
		time.Sleep(2 * time.Second)
		f.wantOpen(t, "when it is known to have one", "a")
		time.Sleep(time.Minute)
		f.do(func() { f.nodes[1].draining = false })
		f.resize(2)
		time.Sleep(5 * time.Second)
		f.wantOpen(t, "when it is back", "a", "b")
	})
}

// A node that is asked to shed its share has no other node to send us to: the
// tunnel is renewed, once, and nobody dials for ever.
func TestNodeThatShedsInAClusterOfTwo(t *testing.T) {
	f := newFakeCluster("a", "b")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		f.nodes[1].ask(false, time.Second)
		time.Sleep(time.Minute)
		n := f.attempts()
		f.wantOpen(t, "after a minute", "a", "b")
		time.Sleep(time.Hour)
		f.wantOpen(t, "after an hour", "a", "b")
		if f.attempts() != n {
			t.Errorf("%d attempts for nothing", f.attempts()-n)
		}
	})
}

func TestOnlyNodeDrains(t *testing.T) {
	t.Run("and another one comes", func(t *testing.T) {
		f := newFakeCluster("a", "b")
		f.resizeSilently(1)
		f.route = func(string, int) *fakeNode { return f.nodes[0] }
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			f.nodes[0].ask(true, 0)
			time.Sleep(2 * time.Minute)
			f.wantOpen(t, "while there is no other", "a")
			if n := f.attempts(); n < 30 || n > 200 {
				t.Errorf("%d attempts in two minutes", n)
			}
			f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[1] } })
			time.Sleep(longPause + 2*time.Second)
			f.wantOpen(t, "when there is one", "b")
		})
	})
	t.Run("and dies meanwhile", func(t *testing.T) {
		f := newFakeCluster("a", "b")
		f.resizeSilently(1)
		f.route = func(string, int) *fakeNode { return f.nodes[0] }
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(time.Minute)
			f.nodes[0].ask(true, time.Minute)
			f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[1] } })
			f.nodes[0].kill()
			time.Sleep(2*firstPause + 2*rtt)
			f.wantOpen(t, "at once", "b")
		})
	})
}

// Every node asks, none takes anybody, all die, and are there again.
func TestAllNodesRestartAtOnce(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		for _, n := range f.nodes {
			n.ask(true, 0)
		}
		f.resize(0)
		time.Sleep(20 * time.Second)
		f.wantOpen(t, "while they drain", "a", "b")
		for _, n := range f.nodes {
			n.kill()
		}
		time.Sleep(3 * time.Second)
		if l.Connected() {
			t.Error("connected to nothing")
		}
		f.do(func() {
			for _, n := range f.nodes {
				n.draining, n.size = false, 3
			}
		})
		time.Sleep(shortPause + rtt)
		if !l.Connected() {
			t.Error("not back after 2 s")
		}
		time.Sleep(shortPause)
		if n := len(f.open()); n != 2 || l.Tunnels() != 2 {
			t.Errorf("%d tunnels: %v", l.Tunnels(), f.open())
		}
	})
}

// One node after another, as a rolling restart does.
func TestRollingRestart(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(time.Minute)
		for range 3 {
			for _, n := range f.nodes {
				n.ask(true, time.Second)
				f.resize(2)
				for range 10 {
					time.Sleep(time.Second)
					if !l.Connected() {
						t.Fatal("no tunnel")
					}
				}
				if open := f.open(); slices.Contains(open, n.id) || len(open) != 2 {
					t.Errorf("tunnels at %v when %s stops", open, n.id)
				}
				n.kill()
				f.do(func() { n.draining = false })
				f.resize(3)
				time.Sleep(5 * time.Second)
			}
		}
		f.do(func() {
			if slices.ContainsFunc(f.states, func(s State) bool { return !s.Connected }) {
				t.Error("OnState was told that the endpoint is not served")
			}
		})
	})
}
