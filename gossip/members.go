package gossip

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/hashicorp/memberlist"
)

// membership is what memberlist calls. The methods run with memberlist's lock
// held, so they must not block nor call it.
type membership struct{ *Cluster }

var (
	errGone    = errors.New("has left")
	errTooMany = errors.New("is one too many")
)

// NotifyAlive refuses nodes that cannot be understood. It is called for each
// message about a living node.
func (c membership) NotifyAlive(n *memberlist.Node) error {
	if n.Name == c.opt.Epoch {
		return nil
	}
	if _, _, err := c.understand(n); err != nil {
		c.metrics.dropped("meta")
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch _, known := c.nodes[n.Name]; {
	case known:
		return nil
	case !c.gone[n.Name].IsZero():
		c.metrics.dropped("gone")
		return fmt.Errorf("node %s %w", n.Name, errGone)
	case len(c.nodes) >= maxNodes:
		c.metrics.dropped("nodes")
		return fmt.Errorf("node %s %w", n.Name, errTooMany)
	}
	return nil
}

func (c membership) understand(n *memberlist.Node) (id string, m meta, err error) {
	if id, _, err = parseEpoch(n.Name); err != nil {
		return "", meta{}, err
	}
	if _, ok := netip.AddrFromSlice(n.Addr); !ok || n.Port == 0 {
		return "", meta{}, fmt.Errorf("node %s has no address", n.Name)
	}
	m, err = parseMeta(n.Meta)
	return id, m, err
}

// NotifyJoin is called for a node that is new, or was dead.
func (c membership) NotifyJoin(n *memberlist.Node) { c.note(n, true) }

// NotifyUpdate is called for a node whose meta has changed.
func (c membership) NotifyUpdate(n *memberlist.Node) { c.note(n, true) }

// NotifyLeave is called for a node that is dead or has left.
func (c membership) NotifyLeave(n *memberlist.Node) { c.note(n, false) }

// NotifyConflict is called when one epoch is heard of at two addresses.
func (c membership) NotifyConflict(existing, other *memberlist.Node) {
	c.metrics.dropped("address")
	c.log.Warn("node announced at two addresses", "epoch", existing.Name, "addr", existing.Address(), "other_addr", other.Address())
}

// note records a level; what follows from it is decided by refresh.
func (c membership) note(mn *memberlist.Node, alive bool) {
	if mn.Name == c.opt.Epoch {
		return
	}
	id, m, err := c.understand(mn)
	if err != nil {
		return
	}
	now := time.Now()
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[mn.Name]
	if n == nil {
		if !alive {
			return
		}
		n = &node{id: id, epoch: mn.Name, seen: now, since: now}
		c.nodes[mn.Name] = n
	}
	n.alive = alive
	n.leaving = n.leaving || m.leaving
	n.gossipAddr = mn.Address()
	n.member = Member{ID: id, Epoch: mn.Name, ProxyAddr: m.proxyAddr, AdminAddr: m.adminAddr, Key: m.key, Draining: m.draining || m.leaving}
	if n.leaving {
		c.gone[n.epoch] = now.Add(goneFor)
	}
	c.refresh(now)
}

// goneFor is how long it is remembered that a node has left: a message from
// before that is still under way, or was recorded, does not bring it back.
const goneFor = 10 * time.Minute

// refresh draws the conclusions from what is known, where the router needs them
// at once, and leaves the rest to loop. The caller holds mu.
func (c *Cluster) refresh(now time.Time) {
	byID := make(map[string][]view, len(c.nodes))
	alive := int32(1)
	for _, n := range c.nodes {
		byID[n.id] = append(byID[n.id], n.view())
		if n.alive {
			alive++
		}
	}
	c.members.Store(alive)
	self := view{id: c.opt.NodeID, epoch: c.opt.Epoch, proxyAddr: c.opt.ProxyAddr, alive: true}
	for _, n := range c.nodes {
		n.verdict = judge(n.view(), self, byID[n.id])
		switch {
		case n.verdict.member:
			n.outAt = time.Time{}
		case n.outAt.IsZero():
			n.outAt = now
		}
		if l := n.link; l != nil {
			l.target.SetDraining(n.member.Draining)
			l.target.SetAlive(n.verdict.route)
			if !n.verdict.follow && l.endSession != nil {
				l.endSession(errUnwanted)
			}
			kick(l.kicked)
		}
	}
	kick(c.wake)
}

// reachable is told by the connections to a node.
func (c *Cluster) reachable(l *link, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if l.reachable == ok {
		return
	}
	l.reachable, l.everWas = ok, l.everWas || ok
	c.refresh(time.Now())
}

// Lookup finds a node by its epoch: one that may call this one.
func (c *Cluster) Lookup(epoch string) (Member, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.nodes[epoch]
	if n == nil {
		return Member{}, false
	}
	return n.member, true
}
