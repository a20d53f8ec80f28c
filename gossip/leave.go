package gossip

import (
	"context"
	"time"

	"github.com/hashicorp/memberlist"
)

const (
	metaTimeout  = time.Second // for a change of the meta to be sent as often as it is to be
	leaveTimeout = time.Second
	// linger is how long a node that has left still answers: until then the word
	// has gone round.
	linger = 300 * time.Millisecond
)

// SetDraining asks the others to prefer other nodes. It returns at once and cannot
// be taken back.
func (c *Cluster) SetDraining() {
	c.mu.Lock()
	c.draining = true
	c.mu.Unlock()
	kick(c.metaNews)
	kick(c.wake)
}

// tellMeta spreads the meta when it has changed.
func (c *Cluster) tellMeta(ctx context.Context, list *memberlist.Memberlist) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-c.metaNews:
			c.spreadMeta(list)
		}
	}
}

func (c *Cluster) spreadMeta(list *memberlist.Memberlist) {
	c.life <- struct{}{}
	defer func() { <-c.life }()
	if c.over {
		return
	}
	if err := list.UpdateNode(metaTimeout); err != nil {
		c.log.Debug("not all nodes may know yet what this one says of itself", "error", err)
	}
}

// Leave tells the others that this node is about to stop: none gives it a request
// any more. It takes 2 s at most, less when ctx ends. Run goes on until its own
// context ends, and does nothing more that the others would see.
func (c *Cluster) Leave(ctx context.Context) {
	c.mu.Lock()
	c.draining, c.leaving = true, true
	c.mu.Unlock()
	list := c.list.Load()
	if list == nil {
		return
	}
	// memberlist does not say why a node is gone, so the meta says it before.
	c.spreadMeta(list)
	if ctx.Err() == nil && c.sayGoodbye(list) {
		timer := time.NewTimer(linger)
		defer timer.Stop()
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
	}
}

func (c *Cluster) sayGoodbye(list *memberlist.Memberlist) bool {
	c.life <- struct{}{}
	defer func() { <-c.life }()
	if c.over {
		return false
	}
	if err := list.Leave(leaveTimeout); err != nil {
		c.log.Warn("not all nodes may know yet that this one leaves", "error", err)
	}
	return true
}
