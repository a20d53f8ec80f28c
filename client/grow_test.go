package client

import (
	"slices"
	"testing"
	"testing/synctest"
	"time"
)

// When nodes tell all listeners at once that there is one more, they do not all
// dial at once.
func TestListenersSpreadWhenTheClusterGrows(t *testing.T) {
	const listeners = 200
	f := newFakeCluster("a", "b")
	f.resizeSilently(1)
	f.route = func(string, int) *fakeNode { return f.nodes[0] }
	synctest.Test(t, func(t *testing.T) {
		for range listeners {
			l := f.listener(t, Client{})
			defer l.Close()
			if err := l.start(t.Context()); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(time.Minute)
		f.do(func() { f.route = func(string, int) *fakeNode { return f.nodes[1] } })
		n, told := f.attempts(), time.Now()
		f.resize(2)
		time.Sleep(growSpread + rtt)
		synctest.Wait()
		f.do(func() {
			tenths := make([]int, 10)
			for _, at := range f.dials[n:] {
				tenths[min(int(at.Sub(told)*10/growSpread), 9)]++
			}
			if most := slices.Max(tenths); len(f.dials)-n != listeners || most > listeners/4 || slices.Min(tenths) == 0 {
				t.Errorf("%d listeners dialled, in each tenth of the time: %v", listeners, tenths)
			}
		})
	})
}

// wantQuickSearch checks that listeners search as at first: several attempts in
// the first seconds after prepare, which is called for each of them. Pauses of a
// long search are 5 s on average.
func wantQuickSearch(t *testing.T, prepare func(t *testing.T, f *fakeCluster)) {
	t.Helper()
	const runs = 20
	total := 0
	for range runs {
		f := newFakeCluster("a", "b", "c")
		f.route = func(string, int) *fakeNode { return f.nodes[0] }
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			time.Sleep(10 * time.Minute)
			synctest.Wait()
			f.wantOpen(t, "after a long search", "a")
			prepare(t, f)
			n := f.attempts()
			time.Sleep(4 * time.Second)
			total += f.attempts() - n
		})
	}
	if total < 4*runs || total > 12*runs {
		t.Errorf("%v attempts in 4 s, want some 6", float64(total)/runs)
	}
}

// leadTo changes where the load balancer leads.
func (c *fakeCluster) leadTo(n *fakeNode) {
	c.do(func() { c.route = func(string, int) *fakeNode { return n } })
}

func TestSearchBeginsAnew(t *testing.T) {
	t.Run("when the cluster grows after a while", func(t *testing.T) {
		wantQuickSearch(t, func(t *testing.T, f *fakeCluster) {
			f.resize(1)
			time.Sleep(time.Minute)
			f.resize(3)
		})
	})
	t.Run("when it was successful", func(t *testing.T) {
		wantQuickSearch(t, func(t *testing.T, f *fakeCluster) {
			f.leadTo(f.nodes[1])
			time.Sleep(longPause + rtt)
			f.wantOpen(t, "at last", "a", "b")
			f.leadTo(f.nodes[0])
			time.Sleep(calmAfter)
			f.nodes[1].kill() // which was here for too short a time to begin anew for that
		})
	})
	t.Run("when a tunnel that was good for long has to be replaced", func(t *testing.T) {
		wantQuickSearch(t, func(t *testing.T, f *fakeCluster) {
			f.resize(1) // ends the search, but does not forget it
			time.Sleep(time.Minute)
			f.nodes[0].ask(false, 0)
		})
	})
}

// A cluster whose size goes up and down does not make the search quick.
func TestSearchDoesNotBeginAnewAllTheTime(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.route = func(string, int) *fakeNode { return f.nodes[0] }
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		time.Sleep(10 * time.Minute)
		n := f.attempts()
		for range 120 {
			f.resize(2)
			time.Sleep(time.Second)
			f.resize(3)
			time.Sleep(4 * time.Second)
		}
		if n = f.attempts() - n; n > 400 {
			t.Errorf("%d attempts in ten minutes", n)
		}
	})
}

// What a new tunnel weighs is said before it is known whether it will stay: its
// node would send it as much as if it were the only one, and an unhealthy
// listener requests that it cannot serve.
func TestWeightIsToldBeforeATunnelCounts(t *testing.T) {
	for _, c := range []struct {
		weight int
		want   [][]int // what each node was told, in order
	}{
		{100, [][]int{{50, 33}, {50, 33}, {50, 33}}},
		{40, [][]int{{40, 20, 13}, {40, 20, 13}, {20, 13}}},
		{0, [][]int{{0}, {0}, {0}}},
	} {
		f := newFakeCluster("a", "b", "c")
		f.resizeSilently(1)
		f.inBubble(t, Client{Connections: 3}, func(t *testing.T, l *Listener) {
			l.SetWeight(c.weight)
			for size := 2; size <= 3; size++ {
				f.resize(size)
				time.Sleep(time.Minute)
			}
			f.wantOpen(t, "at last", "a", "b", "c")
			f.do(func() {
				for i, n := range f.nodes {
					if got := n.sessions[0].weights; !slices.Equal(got, c.want[i]) {
						t.Errorf("of %d, node %s was told %v, want %v", c.weight, n.id, got, c.want[i])
					}
				}
			})
		})
	}
	t.Run("nor is one that does not stay", func(t *testing.T) {
		f := newFakeCluster("a", "b").ofOld(true)
		f.route = func(string, int) *fakeNode { return f.nodes[0] }
		f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
			l.SetWeight(0)
			time.Sleep(time.Minute)
			f.do(func() {
				for _, s := range f.nodes[0].sessions[2:] {
					if !slices.Equal(s.weights, []int{0}) {
						t.Fatalf("a duplicate was told %v", s.weights)
					}
				}
			})
		})
	})
}

// A server that asks us to move again and again, from tunnels whose streams do
// not end, does not make us pile them up.
func TestTunnelsThatAreBeingLeftAreBounded(t *testing.T) {
	f := newFakeCluster("a", "b", "c")
	f.inBubble(t, Client{}, func(t *testing.T, l *Listener) {
		most := 0
		for i := range 60 {
			time.Sleep(30 * time.Second)
			synctest.Wait()
			var left []*fakeSession
			open := 0
			f.do(func() {
				for _, n := range f.nodes {
					for _, s := range n.live() {
						open++
						s.busy = true
						if !s.drained.IsZero() {
							left = append(left, s)
						}
					}
				}
			})
			if most = max(most, len(left)); len(left) > maxRetiring || open > maxRetiring+2 || !l.Connected() {
				t.Fatalf("%d tunnels are being left, of %d", len(left), open)
			}
			f.nodes[i%3].ask(false, 0)
		}
		if most != maxRetiring {
			t.Errorf("no more than %d tunnels were left at once", most)
		}
	})
}
