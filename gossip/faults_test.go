package gossip

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// TestStuckStream has a stream that brings nothing any more: a head that is ahead
// of the copy finds it out, and where heads are lost too, the silence.
func TestStuckStream(t *testing.T) {
	for _, heads := range []bool{true, false} {
		t.Run(fmt.Sprint("heads-", heads), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				net := newNetwork()
				a := net.start(t, "a", 1)
				b := net.start(t, "b", 2, 1)
				<-b.Ready()
				within(t, time.Second, "known", func() error { return equal(a, b) })
				time.Sleep(time.Second)
				net.stick()
				if !heads {
					// Nothing gets through but TCP, which keeps both alive.
					net.mu.Lock()
					net.loss = 1
					net.mu.Unlock()
				}
				a.serve("x")
				limit, reason := 6*time.Second, "behind"
				if !heads {
					limit, reason = 14*time.Second, "silent"
				}
				within(t, limit, "learnt on another stream", func() error { return b.routesTo("x", "a") })
				if n := testutil.ToFloat64(b.metrics.restarts.WithLabelValues(reason)); n != 1 {
					t.Errorf("%v restarts because of %s", n, reason)
				}
				net.mu.Lock()
				net.loss = 0
				net.mu.Unlock()
				stop(a, b)
			})
		})
	}
}

// TestDeafReader has a reader that takes nothing: it costs the node no memory, and
// an end after a while.
func TestDeafReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newNetwork()
		a := network.start(t, "a", 1)
		synctest.Wait()
		ours, theirs := net.Pipe()
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			serveOn(context.Background(), a.Cluster, theirs, "", 0)
		}()
		for i := range 1000 {
			a.serve(fmt.Sprint("e", i))
		}
		select {
		case <-ended:
		case <-time.After(writeTimeout + heartbeatInterval + time.Second):
			t.Error("it is still written to")
		}
		if n := a.readers.Load(); n != 0 {
			t.Errorf("%d readers", n)
		}
		ours.Close()
		stop(a)
	})
}

// TestSlowReader reads a byte at a time while there are more changes than the log
// holds: it gets snapshots in place of what it missed, and all in the end.
func TestSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newNetwork()
		a := network.start(t, "a", 1)
		b := network.start(t, "b", 2, 1)
		<-b.Ready()
		network.stick()
		for i := range 70_000 {
			a.own.set(fmt.Sprint("gone-", i%10), 100*(i/10%2))
		}
		a.serve("x", "y")
		a.unserve("x")
		for i := range 10 {
			a.own.set(fmt.Sprint("gone-", i), 0)
		}
		within(t, 20*time.Second, "all is known", func() error { return equal(a, b) })
		stop(a, b)
	})
}

// TestOneWayCut has a node that another cannot send to, while third ones can: it
// stays alive, and is not routed to from there.
func TestOneWayCut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		a := net.start(t, "a", 1)
		b := net.start(t, "b", 2, 1)
		c := net.start(t, "c", 3, 1)
		c.serve("x")
		<-c.Ready()
		within(t, time.Second, "known", func() error { return equal(a, b, c) })
		net.oneWay(true, a, c)
		within(t, 4*time.Second, "out of routing", func() error { return a.routesTo("x") })
		for range 600 {
			time.Sleep(100 * time.Millisecond)
			if err := errors.Join(a.routesTo("x"), b.routesTo("x", "c")); err != nil {
				t.Fatalf("it flaps: %v", err)
			}
		}
		net.oneWay(false, a, c)
		within(t, 10*time.Second, "whole again", func() error { return equal(a, b, c) })
		stop(a, b, c)
	})
}

// TestBadNetwork loses 5 % of packets and delays the others: nobody is taken for
// dead.
func TestBadNetwork(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		net := newNetwork()
		net.loss, net.delay = 0.05, 50*time.Millisecond
		nodes := []*testNode{net.start(t, "a", 1)}
		for i := 2; i <= 5; i++ {
			nodes = append(nodes, net.start(t, string(rune('a'+i-1)), i, 1))
		}
		// What all packets about a node have lost, the next exchange of whole states brings, every 30 s.
		within(t, 2*time.Minute, "together", func() error {
			for _, n := range nodes {
				if n.Size() != 5 {
					return n.sees("five")
				}
			}
			return nil
		})
		dead, looks := 0, 6000
		if raceEnabled {
			looks = 100
		}
		for range looks {
			time.Sleep(100 * time.Millisecond)
			for _, n := range nodes {
				if n.Size() != 5 {
					dead++
				}
			}
		}
		if dead > 0 {
			t.Errorf("%d of %d looks found a node missing", dead, 5*looks)
		}
		stop(nodes...)
	})
}

// TestReplay sends again whatever was sent before: nodes that left, were started
// again or died do not come back.
func TestReplay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newNetwork()
		type packet struct {
			to netip.AddrPort
			b  []byte
		}
		var recorded []packet
		network.tap = func(to netip.AddrPort, b []byte) {
			if len(recorded) < 5000 {
				recorded = append(recorded, packet{to, slices.Clone(b)})
			}
		}
		a := network.start(t, "a", 1)
		b := network.start(t, "b", 2, 1)
		left := network.start(t, "left", 3, 1)
		died := network.start(t, "died", 4, 1)
		again := network.start(t, "again", 5, 1)
		for _, n := range []*testNode{left, died, again} {
			n.serve("x")
			<-n.Ready()
		}
		time.Sleep(3 * time.Second)
		left.leave()
		died.crash()
		again.crash()
		again = network.start(t, "again", 5, 1)
		again.serve("x")
		time.Sleep(3 * time.Second)
		within(t, time.Minute, "the restarted one serves", func() error {
			return errors.Join(a.routesTo("x", "again"), b.routesTo("x", "again"))
		})
		network.mu.Lock()
		network.tap = nil
		network.mu.Unlock()
		for _, pause := range []time.Duration{0, 20 * time.Second, 2 * time.Minute} {
			time.Sleep(pause)
			for range 3 {
				network.mu.Lock()
				for _, p := range recorded {
					network.deliver(p.to, &memberlist.Packet{Buf: slices.Clone(p.b), From: &net.UDPAddr{IP: net.IPv4(10, 0, 0, 66), Port: 1}})
				}
				network.mu.Unlock()
				for range 50 {
					time.Sleep(100 * time.Millisecond)
					if err := errors.Join(a.routesTo("x", "again"), b.routesTo("x", "again")); err != nil {
						t.Fatalf("a ghost: %v", err)
					}
				}
			}
		}
		time.Sleep(2 * time.Minute)
		if err := errors.Join(a.sees("a:active", "again:active", "b:active"), equal(a, b, again)); err != nil {
			t.Errorf("afterwards: %v", err)
		}
		stop(a, b, again)
	})
}

// TestStrangers has members that say what no node of ours says.
func TestStrangers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		network := newNetwork()
		a := network.start(t, "a", 1)
		good := meta{proxyAddr: "10.0.0.9:8000"}.encode()
		var strangers []*memberlist.Memberlist
		for i, s := range []struct {
			name string
			meta []byte
		}{
			{"no-epoch", good}, {NewEpoch("evil\"id", time.Now()), good}, {NewEpoch("nometa", time.Now()), nil},
			{NewEpoch("version", time.Now()), append([]byte{9}, good[1:]...)}, {NewEpoch("long", time.Now()), make([]byte, 500)},
			{NewEpoch("addr", time.Now()), meta{proxyAddr: "evil/../:1"}.encode()},
		} {
			conf := memberlist.DefaultLANConfig()
			conf.Name, conf.Transport = s.name, network.listen(netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, 1, byte(i)}), 8003))
			conf.LogOutput = io.Discard
			conf.Delegate = strangeDelegate{s.meta}
			m, err := memberlist.Create(conf)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := m.Join([]string{a.Addr()}); err != nil {
				t.Logf("join of %s: %v", s.name, err)
			}
			m.SendReliable(&memberlist.Node{Name: a.opt.Epoch, Addr: a.ip.AsSlice(), Port: 8003}, make([]byte, 1<<20))
			strangers = append(strangers, m)
		}
		time.Sleep(5 * time.Second)
		if err := a.sees("a:active"); err != nil {
			t.Error(err)
		}
		for _, reason := range []string{"meta", "announcement", "state"} {
			if n := testutil.ToFloat64(a.metrics.drops.WithLabelValues(reason)); n == 0 {
				t.Errorf("no drop because of %s was counted", reason)
			}
		}
		for _, m := range strangers {
			m.Shutdown()
		}
		stop(a)
	})
}

type strangeDelegate struct{ meta []byte }

func (d strangeDelegate) NodeMeta(int) []byte             { return d.meta }
func (d strangeDelegate) NotifyMsg([]byte)                {}
func (d strangeDelegate) GetBroadcasts(int, int) [][]byte { return nil }
func (d strangeDelegate) LocalState(bool) []byte {
	return []byte("\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff")
}
func (d strangeDelegate) MergeRemoteState([]byte, bool) {}

// TestChurn is an hour of five nodes that crash, leave, start again, are cut off,
// and whose endpoints come and go. In the end all tables are equal.
func TestChurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &churn{t: t, net: newNetwork(), rng: rand.New(rand.NewPCG(1, 2))}
		c.net.loss = 0.01
		for i := range 5 {
			c.nodes = append(c.nodes, c.start(i))
		}
		steps := 720
		if raceEnabled {
			steps = 20
		}
		for range steps {
			c.step()
			time.Sleep(time.Duration(c.rng.IntN(10_000)) * time.Millisecond)
		}
		c.net.partition(false, c.nodes, c.nodes)
		within(t, time.Minute, "all tables are equal", func() error { return equal(c.nodes...) })
		time.Sleep(forgetAfter + 10*time.Second)
		for _, n := range c.nodes {
			if all := n.Nodes(); len(all) != 5 || n.Size() != 5 {
				t.Errorf("%s sees %v", n.id, n.statuses())
			}
		}
		if err := equal(c.nodes...); err != nil {
			t.Error(err)
		}
		stop(c.nodes...)
	})
}

type churn struct {
	t     *testing.T
	net   *network
	rng   *rand.Rand
	nodes []*testNode
}

func (c *churn) start(i int) *testNode {
	return c.net.start(c.t, string(rune('a'+i)), i+1, 1, 2, 3, 4, 5)
}

func (c *churn) step() {
	i := c.rng.IntN(len(c.nodes))
	n := c.nodes[i]
	switch c.rng.IntN(12) {
	case 0:
		n.crash()
		time.Sleep(time.Duration(c.rng.IntN(3)) * 2 * time.Second)
		c.nodes[i] = c.start(i)
	case 1:
		n.leave()
		time.Sleep(time.Duration(c.rng.IntN(3)) * time.Minute)
		c.nodes[i] = c.start(i)
	case 2:
		c.net.partition(true, c.nodes[:i], c.nodes[i:])
	case 3, 4:
		c.net.partition(false, c.nodes, c.nodes)
	case 5:
		c.net.oneWay(true, n, c.nodes[c.rng.IntN(len(c.nodes))])
	case 6:
		c.net.stick()
	default:
		for range c.rng.IntN(20) {
			e := fmt.Sprint("e", c.rng.IntN(40))
			if c.rng.IntN(2) == 0 {
				n.serve(e)
			} else {
				n.unserve(e)
			}
		}
	}
}
