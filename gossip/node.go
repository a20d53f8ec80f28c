package gossip

import (
	"context"
	"sync/atomic"
	"time"

	"piko/router"
)

// node is another node, from the first that was heard of it until it has been
// gone for a minute.
type node struct {
	// Static after construction.
	id, epoch string
	seen      time.Time // first

	// Guarded by Cluster.mu.
	member     Member
	gossipAddr string
	alive      bool      // memberlist says so
	leaving    bool      // the node says so; final
	verdict    verdict   // what follows from all that is known
	since      time.Time // of the status
	outAt      time.Time // since when it is no part of the cluster; zero while it is
	status     string
	head       head      // newest that was announced
	round      uint64    // of that
	behindAt   time.Time // since when the copy is behind target; zero: it is not
	target     uint64    // sequence number that the copy is to reach
	link       *link     // nil while it is not followed
	complained time.Time // of a conflict
}

// link is the connection to a node and the copy of its log.
type link struct {
	// Static after construction.
	node   *node
	target *router.Node
	kicked chan struct{}      // the follower looks again; holds one
	cancel context.CancelFunc // ends the follower, which forgets what the node serves

	// Written by one before the follower starts.
	peer Peer

	// Guarded by Cluster.mu.
	reachable  bool
	everWas    bool // reachable
	connected  time.Time
	endSession context.CancelCauseFunc // of the follower's stream; nil between two

	// Written by the follower.
	lastFrame, lastData atomic.Int64 // nanoseconds after Cluster.started
	seq                 atomic.Uint64
	endpoints           atomic.Int64
	synced              atomic.Bool // a first snapshot has been applied
}

// verdict is what is decided about a node.
type verdict struct {
	member   bool // counts as one of the cluster
	follow   bool // connect to it and read its log
	route    bool // may be given requests
	replaced bool // another start of the same node is in its place
	conflict bool // another node has this one's id
}

// Status of a node.
const (
	StatusActive      = "active"
	StatusDraining    = "draining"
	StatusUnreachable = "unreachable"
	StatusLeft        = "left"
)

// view is what is known of a node when it is judged.
type view struct {
	id, epoch, proxyAddr       string
	alive, leaving, reachable  bool
	draining, wasEverReachable bool
}

func (n *node) view() view {
	v := view{id: n.id, epoch: n.epoch, proxyAddr: n.member.ProxyAddr, alive: n.alive, leaving: n.leaving, draining: n.member.Draining}
	if n.link != nil {
		v.reachable, v.wasEverReachable = n.link.reachable, n.link.everWas
	}
	return v
}

// replaces reports whether v is a later start of the node of which old was an
// earlier one: it is at the same address. While both seem alive, the one that can
// be reached is right, as a connection proves the epoch; that is so also when the
// clock was set back before the second start. Else the newer epoch is.
func (v view) replaces(old view) bool {
	if v.id != old.id || v.proxyAddr != old.proxyAddr || v.epoch == old.epoch || !v.alive {
		return false
	}
	if !old.alive || v.reachable != old.reachable {
		return !old.alive || v.reachable
	}
	return v.epoch > old.epoch
}

// conflictGrace is the time within which two starts are as good as at once, and
// the clocks of two machines should agree.
const conflictGrace = time.Minute

// judge decides about the node v, where self is this node and others are all with
// v's id.
func judge(v, self view, others []view) verdict {
	var d verdict
	if v.id == self.id {
		if v.proxyAddr == self.proxyAddr {
			return verdict{replaced: true} // an earlier start of this node
		}
		// That it can be reached proves that an older one is not just a memory of
		// the others; a newer one must have started just now.
		d.conflict = v.alive && !v.leaving && !v.draining && (v.reachable || v.epoch > self.epoch)
	}
	for _, o := range others {
		d.replaced = d.replaced || o.replaces(v)
	}
	// One that seems replaced is connected to as well: that shows which is right.
	d.follow = v.alive && !v.leaving
	d.member = d.follow && !d.replaced
	d.route = d.member && v.reachable
	return d
}

// mustYield reports whether, of two nodes that live with one id, the one that
// starts is to give way: to one that was there before, or, when both start at
// once, to the one with the older epoch.
func mustYield(self, other string) bool {
	_, a, _ := parseEpoch(self)
	_, b, _ := parseEpoch(other)
	if d := a.Sub(b); -conflictGrace < d && d < conflictGrace {
		return self > other
	}
	return true
}

// newNodeGrace is how long a node may take until it is reached first before it
// counts as unreachable.
const newNodeGrace = 3 * time.Second

// statusOf is what people are shown.
func (n *node) statusOf(now time.Time) string {
	v := n.view()
	switch {
	case v.leaving:
		return StatusLeft
	case !v.alive:
		return StatusUnreachable
	case !v.reachable && (v.wasEverReachable || now.Sub(n.seen) > newNodeGrace):
		return StatusUnreachable
	case v.draining:
		return StatusDraining
	}
	return StatusActive
}
