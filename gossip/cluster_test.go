package gossip

import (
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

func TestJoinServeLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		a.serve("early")
		b := net.start(t, "b", 2, 1)
		<-b.Ready()
		if err := b.routesTo("early", "a"); err != nil {
			t.Errorf("a node that is ready knows what the others serve: %v", err)
		}
		c := net.start(t, "c", 3, 1, 2)
		<-c.Ready()
		within(t, 5*time.Second, "all are members", func() error {
			return errors.Join(a.sees("a:active", "b:active", "c:active"), c.sees("c:active", "a:active", "b:active"))
		})
		time.Sleep(time.Second)
		c.serve("late")
		took := within(t, time.Second, "an endpoint is known to all", func() error { return equal(a, b, c) })
		if took > 20*time.Millisecond {
			t.Errorf("the first change after a quiet time took %v", took)
		}
		if a.Size() != 3 {
			t.Errorf("size is %d", a.Size())
		}
		c.SetDraining()
		within(t, time.Second, "draining is known", func() error { return a.sees("a:active", "b:active", "c:draining") })
		if a.Size() != 2 {
			t.Errorf("size without the draining node is %d", a.Size())
		}
		c.leave()
		if err := errors.Join(a.routesTo("late"), b.routesTo("late"), a.sees("a:active", "b:active", "c:left")); err != nil {
			t.Errorf("a node that left gets nothing: %v", err)
		}
		time.Sleep(forgetAfter + 2*time.Second)
		if err := errors.Join(a.sees("a:active", "b:active"), equal(a, b)); err != nil {
			t.Errorf("a node that left is forgotten: %v", err)
		}
		stop(a, b)
	})
}

func TestCrash(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		c.serve("x")
		within(t, 5*time.Second, "known", func() error { return equal(a, b, c) })
		c.crash()
		within(t, time.Second, "a node that died is out of routing", func() error { return errors.Join(a.routesTo("x"), b.routesTo("x")) })
		within(t, 10*time.Second, "and not active", func() error {
			return errors.Join(a.sees("a:active", "b:active", "c:unreachable"), b.sees("b:active", "a:active", "c:unreachable"))
		})
		within(t, 10*time.Second, "and no member", func() error {
			if a.Size() != 2 || b.Size() != 2 {
				return fmt.Errorf("sizes are %d, %d", a.Size(), b.Size())
			}
			return nil
		})
		time.Sleep(forgetAfter + 5*time.Second)
		if err := errors.Join(a.sees("a:active", "b:active"), equal(a, b)); err != nil {
			t.Errorf("it is forgotten: %v", err)
		}
		stop(a, b)
	})
}

func TestPartition(t *testing.T) {
	for _, length := range []time.Duration{10 * time.Second, 90 * time.Second, 5 * time.Minute} {
		if raceEnabled && length > time.Minute {
			continue
		}
		t.Run(length.String(), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork()
				a := net.start(t, "a", 1)
				b := net.start(t, "b", 2, 1)
				c := net.start(t, "c", 3, 1, 2)
				a.serve("a1", "both")
				c.serve("c1", "both")
				<-c.Ready()
				within(t, 5*time.Second, "known", func() error { return equal(a, b, c) })
				net.partition(true, []*testNode{a, b}, []*testNode{c})
				within(t, 10*time.Second, "each side routes to itself", func() error {
					return errors.Join(a.routesTo("c1"), b.routesTo("both", "a"), c.routesTo("a1"), equal(a, b))
				})
				c.serve("c2")
				c.unserve("c1")
				a.serve("a2")
				time.Sleep(length)
				net.partition(false, []*testNode{a, b}, []*testNode{c})
				took := within(t, 45*time.Second, "the cluster is whole again", func() error { return equal(a, b, c) })
				t.Logf("whole %v after the partition of %v", took, length)
				if err := b.sees("b:active", "a:active", "c:active"); err != nil {
					t.Error(err)
				}
				stop(a, b, c)
			})
		})
	}
}

// TestPartitionOfNodesThatNobodyIsToldOf: the node that both have joined is gone, so that neither has the other in its
// list; memberlist forgets who was gone for half a minute.
func TestPartitionOfNodesThatNobodyIsToldOf(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		c.serve("c1")
		<-c.Ready()
		within(t, 5*time.Second, "known", func() error { return equal(a, b, c) })
		a.crash()
		net.partition(true, []*testNode{b}, []*testNode{c})
		time.Sleep(90 * time.Second)
		net.partition(false, []*testNode{b}, []*testNode{c})
		within(t, 45*time.Second, "both know each other again", func() error { return b.routesTo("c1", "c") })
		stop(b, c)
	})
}
