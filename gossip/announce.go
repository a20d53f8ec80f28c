package gossip

import (
	"encoding/binary"
	"errors"
	"time"

	"github.com/hashicorp/memberlist"
)

// An announcement is what gossip carries of a node's log:
//
//	1 byte   version, 1
//	uvarint  round, which grows with each announcement of one epoch
//	head     see appendHead
//
// Push/pull carries those of all nodes, each behind its length as a uvarint.
const announcementVersion = 1

const (
	retransmitMult = 4

	// memberRetransmitMult is for who is there. Such news are rare, and what all packets about a node have missed comes
	// 30 s later: with 4, a node was unknown to one of five for that long in 1 of 100 restarts in which two others died.
	memberRetransmitMult = 10
	maxAnnouncement      = 512
	maxState             = maxNodes * maxAnnouncement
)

// announcement is the head of one node's log at one round.
type announcement struct {
	round uint64
	head  head
}

var errAnnouncement = errors.New("is no announcement")

func (a announcement) encode() []byte {
	b := binary.AppendUvarint([]byte{announcementVersion}, a.round)
	return appendHead(b, a.head)
}

func parseAnnouncement(b []byte) (announcement, error) {
	if len(b) < 2 || len(b) > maxAnnouncement || b[0] != announcementVersion {
		return announcement{}, errAnnouncement
	}
	round, n := binary.Uvarint(b[1:])
	if n <= 0 {
		return announcement{}, errAnnouncement
	}
	h, err := parseHead(b[1+n:])
	return announcement{round, h}, err
}

// broadcast is an announcement in the queue of what is to be sent. The newest of
// a node takes the place of the one before.
type broadcast struct {
	epoch string
	msg   []byte
}

func (b *broadcast) Invalidates(memberlist.Broadcast) bool { return false }
func (b *broadcast) Name() string                          { return b.epoch }
func (b *broadcast) Message() []byte                       { return b.msg }
func (b *broadcast) Finished()                             {}

// announce puts the own head into the queue if it has changed, and returns what was
// announced last.
func (c *Cluster) announce() announcement {
	h := c.ownHead()
	c.mu.Lock()
	changed := h != c.sent
	if changed {
		c.sent = h
		c.round++
	}
	a := announcement{c.round, c.sent}
	c.mu.Unlock()
	if changed {
		c.metrics.digests.outbound.Inc()
		c.queue.QueueBroadcast(&broadcast{c.opt.Epoch, a.encode()})
	}
	return a
}

// ownHead is the head of the log with the number of tunnels of now.
func (c *Cluster) ownHead() head {
	h := c.own.head()
	_, upstreams := c.opt.Table.Totals()
	h.upstreams = uint64(upstreams)
	return h
}

// delegate is memberlist's way to this node's meta and announcements. The methods
// must not block.
type delegate struct{ *Cluster }

// NodeMeta is what is told of this node.
func (c delegate) NodeMeta(int) []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.metaLocked().encode()
}

func (c *Cluster) metaLocked() meta {
	return meta{c.opt.ProxyAddr, c.opt.AdminAddr, c.opt.Key, c.draining, c.leaving}
}

// GetBroadcasts gives what fits into a packet.
func (c delegate) GetBroadcasts(overhead, limit int) [][]byte {
	return c.queue.GetBroadcasts(overhead, limit)
}

// NotifyMsg takes an announcement out of gossip.
func (c delegate) NotifyMsg(b []byte) { c.hear(b) }

// hear keeps an announcement that is newer than what is known and passes it on.
func (c *Cluster) hear(b []byte) {
	a, err := parseAnnouncement(b)
	if err != nil {
		c.metrics.dropped("announcement")
		return
	}
	c.metrics.digests.inbound.Inc()
	c.mu.Lock()
	n := c.nodes[a.head.epoch]
	newer := n != nil && a.round > n.round
	if newer {
		n.round, n.head = a.round, a.head
		if n.link != nil {
			n.noteLag(time.Now(), c.metrics)
		}
	}
	c.mu.Unlock()
	if newer {
		c.queue.QueueBroadcast(&broadcast{a.head.epoch, a.encode()})
	}
}

// LocalState is the state that push/pull carries to another node.
func (c delegate) LocalState(bool) []byte {
	b := appendAnnouncement(nil, c.announce())
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, n := range c.nodes {
		if n.round > 0 && n.verdict.member {
			b = appendAnnouncement(b, announcement{n.round, n.head})
		}
	}
	return b
}

func appendAnnouncement(b []byte, a announcement) []byte {
	msg := a.encode()
	return append(binary.AppendUvarint(b, uint64(len(msg))), msg...)
}

// MergeRemoteState takes the announcements out of a push/pull.
func (c delegate) MergeRemoteState(b []byte, _ bool) {
	if len(b) > maxState {
		c.metrics.dropped("state")
		return
	}
	for len(b) > 0 {
		size, n := binary.Uvarint(b)
		if n <= 0 || size > maxAnnouncement || size > uint64(len(b)-n) {
			c.metrics.dropped("state")
			return
		}
		c.hear(b[n : n+int(size)])
		b = b[n+int(size):]
	}
}
