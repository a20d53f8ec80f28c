package upstreamconn

import (
	"context"
	"sync/atomic"
)

// clusterSize is the number of nodes that upstreams are to know.
type clusterSize struct {
	newest  atomic.Int64  // 0: never told
	changed chan struct{} // holds one token
}

func (c *clusterSize) init() { c.changed = make(chan struct{}, 1) }

// TellClusterSize says how many nodes are not draining now, this one included;
// upstreams that can be told are, by Run. The newest number wins. It does not
// block.
func (s *Server) TellClusterSize(n int) {
	s.init()
	s.size.newest.Store(int64(max(n, 1)))
	select {
	case s.size.changed <- struct{}{}:
	default:
	}
}

// tellSizes tells the tunnels each change of the cluster's size, in waves. One
// that comes meanwhile is told from then on; those that know the older one by
// then are told again.
func (s *Server) tellSizes(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-s.size.changed:
		}
		sent := 0
		for _, u := range s.registry.all() {
			if !u.tellSize() {
				continue
			}
			if sent++; sent%drainWave == 0 && !sleep(ctx, drainPause) {
				return
			}
		}
	}
}

// tellSize tells the peer the size of the cluster, if it does not know it, and
// says whether it did. One that is not in the table yet is told when it is.
func (u *upstream) tellSize() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	n := int(u.server.size.newest.Load())
	if n == 0 || u.sess == nil || !u.sess.HasControl() || u.told == n {
		return false
	}
	u.told = n
	_ = u.sess.Cluster(n) // it only queues; an error says that the session has ended
	return true
}
