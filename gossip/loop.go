package gossip

import (
	"context"
	"errors"
	"fmt"
	"time"

	"piko/router"
)

// ErrConflict is why Run ends when another node has this one's id.
var ErrConflict = errors.New("another node has this id")

// startPhase is for how long after the join a node still gives way to another
// with its id. Later, when a partition heals, both go on and complain.
const startPhase = 30 * time.Second

// complaintInterval is the time between two complaints about a conflict.
const complaintInterval = time.Minute

// loop does, when something has changed and once a second, what follows from it.
func (c *Cluster) loop(ctx context.Context) {
	tick := time.NewTicker(announceInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
		case now := <-tick.C:
			c.announce()
			c.watch(now)
		}
		c.reconcile(ctx)
	}
}

// reconcile connects, lets go and forgets.
func (c *Cluster) reconcile(ctx context.Context) {
	now := time.Now()
	c.mu.Lock()
	var connect []*link
	for epoch, n := range c.nodes {
		c.report(n, now)
		switch {
		case n.link == nil && n.verdict.follow:
			n.link = c.newLink(n, now)
			connect = append(connect, n.link)
		case n.link != nil && n.over(now):
			n.link.cancel()
			n.link = nil
		}
		if n.link == nil && !n.outAt.IsZero() && now.Sub(n.outAt) >= forgetAfter {
			delete(c.nodes, epoch)
		}
	}
	for epoch, until := range c.gone {
		if now.After(until) && c.nodes[epoch] == nil {
			delete(c.gone, epoch)
		}
	}
	size := c.sizeLocked()
	changed := size != c.size
	c.size = size
	c.becomeReady(now)
	c.mu.Unlock()

	for _, l := range connect {
		c.connect(ctx, l)
	}
	if changed && c.opt.OnSize != nil {
		c.opt.OnSize(size)
	}
}

// over reports whether what is known of the node can be forgotten. One that left
// or was started again does not come back; its connections may still carry the
// last requests. A dead one may come back and is kept for a while.
func (n *node) over(now time.Time) bool {
	if n.outAt.IsZero() {
		return false
	}
	return (n.leaving || n.verdict.replaced && !n.alive) && !n.link.reachable || now.Sub(n.outAt) >= forgetAfter
}

// newLink prepares what connect completes. The caller holds mu.
func (c *Cluster) newLink(n *node, now time.Time) *link {
	l := &link{node: n, kicked: make(chan struct{}, 1), connected: now}
	l.target = router.NewNode(n.id, func(endpoint string) router.Upstream { return l.peer.Upstream(endpoint) })
	l.target.SetAlive(false)
	l.target.SetDraining(n.member.Draining)
	l.cancel = func() {}
	return l
}

// connect starts the follower. Only loop connects and lets go, so the link is
// still the node's.
func (c *Cluster) connect(ctx context.Context, l *link) {
	c.mu.Lock()
	m := l.node.member
	ctx, l.cancel = context.WithCancel(ctx)
	c.mu.Unlock()
	l.peer = c.opt.Connect(m, func(ok bool) { c.reachable(l, ok) })
	c.followers.Go(func() { c.follow(ctx, l) })
}

// report logs what has changed about a node. The caller holds mu.
func (c *Cluster) report(n *node, now time.Time) {
	if n.verdict.conflict {
		c.complain(n, now)
	}
	status := n.statusOf(now)
	if status == n.status {
		return
	}
	was := n.status
	n.status, n.since = status, now
	if !n.verdict.replaced {
		c.log.Info("node is "+status, "node", n.id, "epoch", n.epoch, "was", was, "proxy", n.member.ProxyAddr, "gossip", n.gossipAddr)
	}
}

// complain says that another node has this one's id, and gives way to it if this
// one has just started. The caller holds mu.
func (c *Cluster) complain(n *node, now time.Time) {
	if now.Sub(n.complained) >= complaintInterval {
		n.complained = now
		c.metrics.conflicts.Inc()
		c.log.Error("another node has the id of this one: give each its own --cluster.node-id", "node", n.id,
			"epoch", c.opt.Epoch, "proxy", c.opt.ProxyAddr, "other_epoch", n.epoch, "other_proxy", n.member.ProxyAddr, "other_gossip", n.gossipAddr)
	}
	starting := c.joined.IsZero() || now.Sub(c.joined) < startPhase
	proven := n.link != nil && n.link.reachable
	if !starting || !proven || c.yielding || !mustYield(c.opt.Epoch, n.epoch) {
		return
	}
	c.yielding = true
	fail, err := c.fail, fmt.Errorf("join cluster: node %s at %s: %w", n.id, n.member.ProxyAddr, ErrConflict)
	// The other one is to see it too before this one is gone.
	time.AfterFunc(time.Second, func() { fail(err) })
}

// watch restarts streams that are silent or do not bring what heads promise.
func (c *Cluster) watch(now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	at := now.Sub(c.started)
	for _, n := range c.nodes {
		l := n.link
		if l == nil || l.endSession == nil {
			n.behindAt = time.Time{}
			continue
		}
		n.noteLag(now, c.metrics)
		switch {
		case at-time.Duration(l.lastFrame.Load()) >= silenceTimeout:
			l.endSession(errSilent)
		case !n.behindAt.IsZero() && now.Sub(n.behindAt) >= behindTimeout && at-time.Duration(l.lastData.Load()) >= behindTimeout:
			l.endSession(errBehind)
		}
	}
}

// noteLag compares the copy with the head that was announced.
func (n *node) noteLag(now time.Time, m *metrics) {
	if !n.behindAt.IsZero() && n.link.seq.Load() >= n.target {
		m.lag.Observe(now.Sub(n.behindAt).Seconds())
		n.behindAt = time.Time{}
	}
	if n.behindAt.IsZero() && n.head.seq > n.link.seq.Load() {
		n.behindAt, n.target = now, n.head.seq
	}
}

// becomeReady closes ready once all that the join showed have been learnt. The
// caller holds mu.
func (c *Cluster) becomeReady(now time.Time) {
	if c.joined.IsZero() || isClosed(c.ready) {
		return
	}
	if c.awaited == nil {
		c.awaited = make(map[string]bool)
		for epoch, n := range c.nodes {
			if n.verdict.member {
				c.awaited[epoch] = true
			}
		}
	}
	missing := ""
	for epoch := range c.awaited {
		if n := c.nodes[epoch]; n != nil && n.verdict.member && (!n.verdict.route || !n.link.synced.Load()) {
			missing = n.id
		}
	}
	if missing != "" && now.Sub(c.joined) < readyTimeout {
		return
	}
	if missing != "" {
		c.log.Warn("ready without knowing what every node serves", "node", missing, "waited", readyTimeout)
	}
	close(c.ready)
}

func isClosed(ch <-chan struct{}) bool {
	select {
	case <-ch:
		return true
	default:
		return false
	}
}
