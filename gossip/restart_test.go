package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestRestart restarts a node under its name and address again and again: crashed
// and drained, at once and after a while.
func TestRestart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		<-c.Ready()
		times := 50
		if raceEnabled {
			times = 10
		}
		for i := range times {
			old := fmt.Sprint("old-", i)
			c.serve("same", old)
			within(t, 2*time.Second, "known", func() error { return equal(a, b, c) })
			if i%2 == 0 {
				c.crash()
			} else {
				c.leave()
			}
			time.Sleep(time.Duration(i%5) * 400 * time.Millisecond)
			c = net.start(t, "c", 3, 1, 2)
			c.serve("same", fmt.Sprint("new-", i))
			within(t, time.Second, fmt.Sprint("restart ", i, " is known"), func() error {
				return errors.Join(a.routesTo("same", "c"), b.routesTo("same", "c"), a.routesTo(old), b.routesTo(old), c.sees("c:active", "a:active", "b:active"))
			})
			within(t, 3*time.Second, "one node with the id is shown, and active", func() error {
				return errors.Join(equal(a, b, c), a.sees("a:active", "b:active", "c:active"))
			})
			if a.Size() != 3 {
				t.Fatalf("size is %d", a.Size())
			}
		}
		stop(a, b, c)
	})
}

// TestRestartWithOlderClock starts a node again with a clock that was set back: its
// epoch is older than that of the start before.
func TestRestartWithOlderClock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		c.serve("x", "old")
		<-c.Ready()
		within(t, time.Second, "known", func() error { return equal(a, b, c) })
		c.crash()
		c = net.newNode(t, "c", 3, joining(1, 2), func(o *Options) { o.Epoch = NewEpoch("c", time.Now().Add(-time.Hour)) })
		c.serve("x", "new")
		c.run()
		within(t, time.Second, "the start that can be reached counts", func() error {
			return errors.Join(a.routesTo("x", "c"), b.routesTo("new", "c"), a.routesTo("old"))
		})
		within(t, 5*time.Second, "and is all that is seen", func() error {
			return errors.Join(equal(a, b, c), a.sees("a:active", "b:active", "c:active"))
		})
		stop(a, b, c)
	})
}

// TestMovedNode starts a node under the same id at another address right after it
// crashed, as a pod of a StatefulSet: the others still think it alive.
func TestMovedNode(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		c.serve("x")
		<-c.Ready()
		within(t, time.Second, "known", func() error { return equal(a, b, c) })
		c.crash()
		c = net.start(t, "c", 4, 1)
		c.serve("x")
		within(t, time.Second, "its new place is known", func() error { return errors.Join(a.routesTo("x", "c"), b.routesTo("x", "c")) })
		within(t, 10*time.Second, "and the old one no member", func() error {
			if n, _ := a.Node("c"); n.ProxyAddr != c.opt.ProxyAddr || a.Size() != 3 {
				return fmt.Errorf("size %d, %+v", a.Size(), n)
			}
			return nil
		})
		time.Sleep(forgetAfter + 10*time.Second)
		if err := errors.Join(equal(a, b, c), a.sees("a:active", "b:active", "c:active")); err != nil {
			t.Error(err)
		}
		select {
		case <-c.done:
			t.Errorf("it took the memory of itself for another node: %v", c.err)
		default:
		}
		stop(a, b, c)
	})
}

// TestIDConflict starts a node with the id of one that lives: it must not.
func TestIDConflict(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		b.serve("x")
		<-b.Ready()
		time.Sleep(2 * time.Minute)
		twin := net.start(t, "b", 3, 1)
		within(t, 5*time.Second, "the second ends", func() error {
			if !isClosed(twin.done) {
				return errors.New("it runs")
			}
			return nil
		})
		if !errors.Is(twin.err, ErrConflict) {
			t.Errorf("it ended with %v", twin.err)
		}
		if n := testutil.ToFloat64(b.metrics.conflicts); n != 1 {
			t.Errorf("the first counted %v conflicts", n)
		}
		twin.crash()
		time.Sleep(2 * time.Minute)
		if err := errors.Join(a.routesTo("x", "b"), a.sees("a:active", "b:active"), b.sees("b:active", "a:active")); err != nil {
			t.Errorf("the first goes on: %v", err)
		}
		stop(a, b)
	})
}

func TestJudge(t *testing.T) {
	addr := func(n byte) string { return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 0, n}), 8000).String() }
	self := view{id: "s", epoch: "s-000000000005", proxyAddr: addr(1), alive: true}
	live := view{id: "n", epoch: "n-000000000001", proxyAddr: addr(2), alive: true, reachable: true}
	with := func(v view, f func(*view)) view { f(&v); return v }
	tests := []struct {
		name   string
		v      view
		others []view
		want   verdict
	}{
		{"a node that lives and can be reached", live, nil, verdict{member: true, follow: true, route: true}},
		{"one that cannot be reached yet", with(live, func(v *view) { v.reachable = false }), nil, verdict{member: true, follow: true}},
		{"one that is dead", with(live, func(v *view) { v.alive = false }), nil, verdict{}},
		{"one that leaves", with(live, func(v *view) { v.leaving = true }), nil, verdict{}},
		{"one with a newer start at its address", with(live, func(v *view) { v.reachable = false }),
			[]view{with(live, func(v *view) { v.epoch = "n-000000000002" })}, verdict{follow: true, replaced: true}},
		{"one with a newer start that cannot be reached while it can", live,
			[]view{with(live, func(v *view) { v.epoch, v.reachable = "n-000000000002", false })}, verdict{member: true, follow: true, route: true}},
		{"one with a newer start at its address that nobody has reached either", with(live, func(v *view) { v.reachable = false }),
			[]view{with(live, func(v *view) { v.epoch, v.reachable = "n-000000000002", false })}, verdict{follow: true, replaced: true}},
		{"one with an older start at its address that nobody has reached either", with(live, func(v *view) { v.epoch, v.reachable = "n-000000000002", false }),
			[]view{with(live, func(v *view) { v.reachable = false })}, verdict{member: true, follow: true}},
		{"one with a newer start that is dead", live,
			[]view{with(live, func(v *view) { v.epoch, v.alive = "n-000000000002", false })}, verdict{member: true, follow: true, route: true}},
		{"one with a newer start elsewhere", live,
			[]view{with(live, func(v *view) { v.epoch, v.proxyAddr = "n-000000000002", addr(3) })}, verdict{member: true, follow: true, route: true}},
		{"an earlier start of this node", with(self, func(v *view) { v.epoch = "s-000000000001" }), nil, verdict{replaced: true}},
		{"this node's id elsewhere, older and reached", with(live, func(v *view) { v.id, v.epoch = "s", "s-000000000001" }), nil,
			verdict{member: true, follow: true, route: true, conflict: true}},
		{"this node's id elsewhere, older and perhaps dead", with(live, func(v *view) { v.id, v.epoch, v.reachable = "s", "s-000000000001", false }), nil,
			verdict{member: true, follow: true}},
		{"this node's id elsewhere, newer", with(live, func(v *view) { v.id, v.epoch, v.reachable = "s", "s-000000000009", false }), nil,
			verdict{member: true, follow: true, conflict: true}},
		{"this node's id elsewhere, draining", with(live, func(v *view) { v.id, v.epoch, v.draining = "s", "s-000000000001", true }), nil,
			verdict{member: true, follow: true, route: true}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			if got := judge(tt.v, self, append(tt.others, tt.v)); got != tt.want {
				t.Errorf("got %+v, want %+v", got, tt.want)
			}
		})
	}
}

func TestMustYield(t *testing.T) {
	now := time.Now()
	at := func(d time.Duration) string { return NewEpoch("n", now.Add(d)) }
	tests := []struct {
		name        string
		self, other string
		want        bool
	}{
		{"the other was there before", at(0), at(-time.Hour), true},
		{"both start, this one later", at(time.Second), at(0), true},
		{"both start, this one earlier", at(0), at(time.Second), false},
		{"the other was there before, by a clock that is ahead", at(0), at(time.Hour), true},
	}
	for _, tt := range tests {
		if got := mustYield(tt.self, tt.other); got != tt.want {
			t.Errorf("%s: got %v", tt.name, got)
		}
	}
}
