package client

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"testing"

	"piko/upstreamconn"
)

// testCluster is nodes behind a load balancer that goes by turns.
type testCluster struct {
	t     *testing.T
	lb    *balancer
	size  atomic.Int64
	turns atomic.Int64

	// Guarded by mu.
	mu    sync.Mutex
	nodes []*node // all that run
	ready []*node // those that do not drain
}

func startCluster(t *testing.T, ids ...string) *testCluster {
	c := &testCluster{t: t}
	for _, id := range ids {
		c.start(id)
	}
	c.lb = startBalancer(t, func() string {
		ready := c.list(&c.ready)
		return ready[int(c.turns.Add(1))%len(ready)].addr
	})
	return c
}

func (c *testCluster) start(id string) {
	n := startNode(c.t, id, "", func(s *upstreamconn.Server) {
		s.ClusterSize = func() int { return int(c.size.Load()) }
		s.Others = func() bool { return c.size.Load() > 0 }
	})
	c.mu.Lock()
	c.nodes, c.ready = append(c.nodes, n), append(c.ready, n)
	c.mu.Unlock()
	c.resized()
}

// resized has all nodes tell how many are ready.
func (c *testCluster) resized() {
	c.size.Store(int64(len(c.list(&c.ready))))
	for _, n := range c.list(&c.nodes) {
		n.TellClusterSize(int(c.size.Load()))
	}
}

func (c *testCluster) list(of *[]*node) []*node {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(*of)
}

// remove takes n out of a list.
func (c *testCluster) remove(of *[]*node, n *node) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*of = slices.DeleteFunc(slices.Clone(*of), func(o *node) bool { return o == n })
}

// waitFor waits until the endpoint has one upstream at each of want nodes.
func (c *testCluster) waitFor(want int) {
	c.t.Helper()
	eventually(c.t, func() error {
		at := map[string]int{}
		for _, n := range c.list(&c.nodes) {
			if got := n.upstreams("endpoint"); got > 0 {
				at[n.NodeID] = got
			}
		}
		for _, got := range at {
			if got > 1 || len(at) != want {
				return fmt.Errorf("upstreams are at %v", at)
			}
		}
		if len(at) != want {
			return fmt.Errorf("upstreams are at %v, want %d", at, want)
		}
		return nil
	})
}

// load sends requests to the cluster until the returned func is called, which
// says how many there were. None may fail.
func (c *testCluster) load() (stop func() int64) {
	ctx, cancel := context.WithCancel(c.t.Context())
	var sent atomic.Int64
	var clients sync.WaitGroup
	for range 4 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if got, err := post("endpoint", "hello", c.list(&c.nodes)...); err != nil || got != "hello" {
					c.t.Errorf("request %d: %q, %v", sent.Load(), got, err)
					return
				}
				sent.Add(1)
			}
		})
	}
	return func() int64 {
		cancel()
		clients.Wait()
		return sent.Load()
	}
}

func TestNodesRestartInTurnAndNothingIsLost(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "a", "b", "c")
	var st states
	serve(t, &Client{URL: c.lb.url, OnState: st.add}, "endpoint", echo)
	c.waitFor(2)
	stop := c.load()
	for _, n := range c.list(&c.nodes) {
		c.remove(&c.ready, n)
		c.resized()
		n.Drain(t.Context(), toMove)
		n.waitFor(t, "endpoint", 0)
		eventually(t, func() error {
			if left := n.Tunnels(); left != 0 {
				return fmt.Errorf("%d tunnels are left at %s", left, n.NodeID)
			}
			return nil
		})
		c.remove(&c.nodes, n)
		n.stop()
		c.start(n.NodeID)
		c.waitFor(2)
	}
	if sent := stop(); sent < 100 {
		t.Errorf("only %d requests", sent)
	}
	if st.has(func(s State) bool { return !s.Connected }) {
		t.Error("the listener was not connected at some time")
	}
}

func TestListenersThatStopInTurnLoseNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "a", "b", "c")
	serve(t, &Client{URL: c.lb.url}, "endpoint", echo)
	c.waitFor(2)
	stop := c.load()
	for range 3 {
		ln := serve(t, &Client{URL: c.lb.url}, "endpoint", echo)
		eventually(t, func() error {
			if n := ln.Tunnels(); n != 2 {
				return fmt.Errorf("%d tunnels", n)
			}
			return nil
		})
		if err := ln.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
	}
	c.waitFor(2)
	if sent := stop(); sent < 100 {
		t.Errorf("only %d requests", sent)
	}
}

func TestNodeThatIsKilledLeavesTheListenerConnected(t *testing.T) {
	t.Parallel()
	c := startCluster(t, "a", "b", "c")
	var st states
	ln := serve(t, &Client{URL: c.lb.url, OnState: st.add}, "endpoint", echo)
	c.waitFor(2)
	for _, n := range c.list(&c.nodes) {
		if n.upstreams("endpoint") == 0 {
			continue
		}
		c.remove(&c.nodes, n)
		c.remove(&c.ready, n)
		n.stop()
		if got, err := post("endpoint", "hello", c.list(&c.nodes)...); got != "hello" || err != nil || !ln.Connected() {
			t.Errorf("after %s was killed: %q, %v", n.NodeID, got, err)
		}
		c.resized()
		break
	}
	c.waitFor(2)
	if st.has(func(s State) bool { return !s.Connected }) {
		t.Error("OnState was told that the endpoint is not served")
	}
	if !st.has(func(s State) bool { return s.Connected && s.Tunnels == 1 && s.Err != nil }) {
		t.Error("OnState was not told that a tunnel was lost")
	}
}
