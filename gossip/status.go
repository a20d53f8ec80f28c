package gossip

import (
	"cmp"
	"iter"
	"slices"
	"time"
)

// NodeStatus is what is known of a node.
type NodeStatus struct {
	ID, Epoch  string
	Status     string // active, draining, unreachable or left
	ProxyAddr  string
	AdminAddr  string
	GossipAddr string
	Endpoints  int       // that it serves, as far as is known here
	Upstreams  int       // connected to it, as it announced last
	Seq        uint64    // of its log, up to which it is known here
	Synced     bool      // its log is known up to what it announced last
	Since      time.Time // of the status
	Expiry     time.Time // when a node that is gone will be forgotten; zero while it is not
}

// Nodes returns what is known of all nodes, this one first and the others by id.
func (c *Cluster) Nodes() []NodeStatus {
	self := c.selfStatus()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	nodes := []NodeStatus{self}
	for _, n := range c.nodes {
		if !n.verdict.replaced {
			nodes = append(nodes, n.describe(now))
		}
	}
	slices.SortFunc(nodes[1:], func(a, b NodeStatus) int {
		return cmp.Or(cmp.Compare(a.ID, b.ID), a.Expiry.Compare(b.Expiry), -cmp.Compare(a.Epoch, b.Epoch))
	})
	return nodes
}

// Node returns what is known of the node with the id: of its newest start, if
// there are several.
func (c *Cluster) Node(id string) (NodeStatus, bool) {
	for _, n := range c.Nodes() {
		if n.ID == id {
			return n, true
		}
	}
	return NodeStatus{}, false
}

// NodeEndpoints returns the endpoints of the node with the id, with the number of
// upstreams that each is known to have at least.
func (c *Cluster) NodeEndpoints(id string) iter.Seq2[string, int] {
	if id == c.opt.NodeID {
		return c.opt.Table.Endpoints()
	}
	return func(yield func(string, int) bool) {
		n, _ := c.Node(id)
		c.mu.Lock()
		var l *link
		if known := c.nodes[n.Epoch]; known != nil {
			l = known.link
		}
		c.mu.Unlock()
		if l == nil {
			return
		}
		for endpoint, weight := range c.opt.Table.NodeEndpoints(l.target) {
			if !yield(endpoint, (weight+99)/100) {
				return
			}
		}
	}
}

func (c *Cluster) selfStatus() NodeStatus {
	h := c.ownHead()
	c.mu.Lock()
	defer c.mu.Unlock()
	s := NodeStatus{
		ID: c.opt.NodeID, Epoch: c.opt.Epoch, Status: StatusActive,
		ProxyAddr: c.opt.ProxyAddr, AdminAddr: c.opt.AdminAddr, GossipAddr: c.Addr(),
		Endpoints: int(h.count), Upstreams: int(h.upstreams), Seq: h.seq, Synced: true, Since: c.started,
	}
	if c.leaving {
		s.Status = StatusLeft
	} else if c.draining {
		s.Status = StatusDraining
	}
	return s
}

// describe is called with Cluster.mu held.
func (n *node) describe(now time.Time) NodeStatus {
	s := NodeStatus{
		ID: n.id, Epoch: n.epoch, Status: n.statusOf(now),
		ProxyAddr: n.member.ProxyAddr, AdminAddr: n.member.AdminAddr, GossipAddr: n.gossipAddr,
		Upstreams: int(n.head.upstreams), Since: n.since,
	}
	if !n.outAt.IsZero() {
		s.Expiry = n.outAt.Add(forgetAfter)
	}
	if l := n.link; l != nil {
		s.Endpoints, s.Seq = int(l.endpoints.Load()), l.seq.Load()
		s.Synced = l.synced.Load() && s.Seq >= n.head.seq
	}
	return s
}

// SelfAdminAddr is host:port of this node's admin port, as others reach it.
func (c *Cluster) SelfAdminAddr() string { return c.opt.AdminAddr }

// Size is the number of nodes that live and do not drain, with this one.
func (c *Cluster) Size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.sizeLocked()
}

func (c *Cluster) sizeLocked() int {
	size := 0
	if !c.draining {
		size++
	}
	for _, n := range c.nodes {
		if n.verdict.member && !n.member.Draining {
			size++
		}
	}
	return size
}

// AverageUpstreams is the mean number of upstreams that are connected to a node,
// over those that Size counts. It is 0 if there are none.
func (c *Cluster) AverageUpstreams() float64 {
	_, own := c.opt.Table.Totals()
	c.mu.Lock()
	defer c.mu.Unlock()
	nodes, upstreams := 0, 0
	if !c.draining {
		nodes, upstreams = 1, own
	}
	for _, n := range c.nodes {
		if n.verdict.member && !n.member.Draining {
			nodes++
			upstreams += int(n.head.upstreams)
		}
	}
	if nodes == 0 {
		return 0
	}
	return float64(upstreams) / float64(nodes)
}
