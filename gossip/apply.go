package gossip

import (
	"errors"

	"piko/router"
)

// nodeLevel is the router's table as the level of one node.
type nodeLevel struct {
	table *router.Table
	node  *router.Node
}

func (l nodeLevel) set(endpoints map[string]int)   { l.table.SetNode(l.node, endpoints) }
func (l nodeLevel) patch(endpoints map[string]int) { l.table.PatchNode(l.node, endpoints) }
func (l nodeLevel) weight(endpoint string) int     { return l.table.NodeWeight(l.node, endpoint) }

func (f *follower) newCopy() *remoteCopy {
	return newRemoteCopy(f.node.epoch, nodeLevel{f.opt.Table, f.target})
}

// step reads a frame and applies it.
func (f *follower) step(frames *frameReader) error {
	next, err := frames.next()
	if err != nil {
		return err
	}
	f.lastFrame.Store(f.at())
	if next.kind != frameHeartbeat {
		f.lastData.Store(f.at())
	}
	err = f.copy.apply(next)
	f.count(next, err)
	f.seq.Store(f.copy.seq)
	f.endpoints.Store(int64(f.copy.count))
	if f.copy.synced() && !f.synced.Swap(true) {
		kick(f.wake)
	}
	return err
}

func (f *follower) count(applied frame, err error) {
	switch {
	case errors.Is(err, errResync):
		f.metrics.mismatches.Inc()
	case err != nil:
	case applied.kind == frameEnd:
		f.metrics.resyncs.Inc()
	case applied.kind == frameChanges:
		f.metrics.deltas.inbound.Add(float64(len(applied.entries)))
	}
}
