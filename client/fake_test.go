package client

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// fakeCluster is nodes and a load balancer for listeners in virtual time: its
// sessions carry no streams, and record what is said on them.
type fakeCluster struct {
	// Guarded by mu.
	mu       sync.Mutex
	nodes    []*fakeNode
	route    func(url string, attempt int) *fakeNode // nil: nothing answers there
	dials    []time.Time
	dialling int // now
	most     int // that there were of dialling
	states   []State
}

// fakeNode is a node; guarded by the cluster's mu.
type fakeNode struct {
	c        *fakeCluster
	id       string
	size     int // what it says of the cluster
	draining bool
	hangs    bool // takes connections and answers none
	old      bool // does not know that upstreams may name it; v0.9.0, or ours of before
	refused  int  // attempts that named it
	sessions []*fakeSession
}

// newFakeCluster has nodes of these names behind a load balancer that goes by
// turns.
func newFakeCluster(names ...string) *fakeCluster {
	c := &fakeCluster{}
	for _, id := range names {
		c.nodes = append(c.nodes, &fakeNode{c: c, id: id, size: len(names)})
	}
	c.route = func(_ string, attempt int) *fakeNode { return c.nodes[attempt%len(c.nodes)] }
	return c
}

// inBubble runs f in virtual time with a listener that was connected to c, and
// closes the listener.
func (c *fakeCluster) inBubble(t *testing.T, client Client, f func(t *testing.T, l *Listener)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		l := c.listener(t, client)
		if err := l.start(t.Context()); err != nil {
			t.Fatal(err)
		}
		f(t, l)
		l.kill()
		if n := c.open(); len(n) != 0 {
			t.Errorf("tunnels are open after Close: %v", n)
		}
		c.do(func() {
			if c.most > maxDials {
				t.Errorf("%d attempts were under way at once", c.most)
			}
		})
	})
}

// listener returns one that is not connected.
func (c *fakeCluster) listener(t *testing.T, client Client) *Listener {
	client.OnState = c.onState
	l := newListener(t.Context(), &client, "endpoint")
	l.connect = c.connect
	return l
}

func (c *fakeCluster) onState(s State) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.states = append(c.states, s)
}

// rtt is how long a fake dial takes.
const rtt = 10 * time.Millisecond

func (c *fakeCluster) connect(ctx context.Context, d *tunnel.Dialer, _ string) (session, error) {
	c.mu.Lock()
	n := c.route(d.URL, len(c.dials))
	token := d.Token
	c.dials = append(c.dials, time.Now())
	c.dialling++
	c.most = max(c.most, c.dialling)
	hangs := n != nil && n.hangs
	c.mu.Unlock()
	defer c.do(func() { c.dialling-- })
	if token != nil {
		if _, err := token(ctx); err != nil {
			return nil, err
		}
	}
	took := rtt
	if hangs {
		took = 10 * time.Second
	}
	select {
	case <-time.After(took):
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case n == nil || hangs:
		return nil, errors.New("connection refused")
	case n.draining:
		return nil, &fault.Refused{Status: 503, Code: fault.Draining}
	case !n.old && slices.Contains(d.Nodes, n.id):
		n.refused++
		return nil, &fault.Refused{Status: 409, Code: fault.DuplicateTunnel, Header: http.Header{"X-Piko-Node-Id": {n.id}}}
	}
	s := &fakeSession{node: n, events: d.Options.Events, peer: tunnel.Peer{NodeID: n.id, ClusterSize: n.size}, done: make(chan struct{}), noMore: make(chan struct{}), since: time.Now(), ill: d.Unhealthy}
	if n.id != "" {
		s.peer.Features = []string{tunnel.FeatureControl}
		if slices.Contains(d.Features, tunnel.FeatureToken) && !n.old {
			s.peer.Features = append(s.peer.Features, tunnel.FeatureToken)
		}
	}
	n.sessions = append(n.sessions, s)
	return s, nil
}

// do runs f with the lock.
func (c *fakeCluster) do(f func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	f()
}

// resize has every node say that there are so many.
func (c *fakeCluster) resize(size int) {
	var told []*fakeSession
	c.do(func() {
		for _, n := range c.nodes {
			n.size = size
			told = append(told, n.live()...)
		}
	})
	for _, s := range told {
		s.events.Cluster(size)
	}
}

// live needs the lock.
func (n *fakeNode) live() []*fakeSession {
	return slices.DeleteFunc(slices.Clone(n.sessions), func(s *fakeSession) bool { return s.err != nil })
}

// ask has the node ask its tunnels to move; if it stops, it takes no more.
func (n *fakeNode) ask(stops bool, within time.Duration) {
	var asked []*fakeSession
	n.c.do(func() {
		n.draining = stops
		asked = n.live()
	})
	for _, s := range asked {
		s.events.Drain(tunnel.DrainMessage{Reason: "test", ReconnectWithin: within})
	}
}

// kill ends all tunnels of the node at once.
func (n *fakeNode) kill() {
	var dead []*fakeSession
	n.c.do(func() { dead = n.live() })
	for _, s := range dead {
		s.end(tunnel.ErrClosedByPeer)
	}
}

// open is the nodes of the tunnels that are open and that the listener has not
// asked to drain.
func (c *fakeCluster) open() []string {
	var ids []string
	c.do(func() {
		for _, n := range c.nodes {
			for _, s := range n.live() {
				if s.drained.IsZero() {
					ids = append(ids, n.id)
				}
			}
		}
	})
	slices.Sort(ids)
	return ids
}

// ofOld makes all nodes such that know nothing of being named.
func (c *fakeCluster) ofOld(old bool) *fakeCluster {
	for _, n := range c.nodes {
		n.old = old
	}
	return c
}

// session is the i-th tunnel that was opened at the node.
func (n *fakeNode) session(i int) (s *fakeSession) {
	n.c.do(func() { s = n.sessions[i] })
	return s
}

func (c *fakeCluster) attempts() (count int) {
	c.do(func() { count = len(c.dials) })
	return count
}

// wantOpen checks the nodes of the tunnels.
func (c *fakeCluster) wantOpen(t *testing.T, reason string, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := c.open(); !slices.Equal(got, want) {
		t.Errorf("%s: tunnels at %v, want %v", reason, got, want)
	}
}
