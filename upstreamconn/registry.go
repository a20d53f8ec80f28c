package upstreamconn

import (
	"maps"
	"slices"
	"sync"

	"piko/tunnel"
)

// instance is one upstream's listener: an endpoint, and the random id that the
// upstream gave itself ("" in v0.9.0).
type instance struct{ endpoint, id string }

// registry knows all tunnels until their goroutines have ended, and which of
// them are of one instance.
//
// An instance that is here twice has most likely lost the older tunnel, which
// we notice only seconds later: until then the newer one is preferred, and the
// older asked for a sign of life.
type registry struct {
	// Guarded by mu. No other lock is taken while it is held.
	mu       sync.Mutex
	draining bool
	message  *tunnel.DrainMessage // what drain was called with; nil before
	closed   bool
	requests int // that each tunnel may have at once; 0 is no limit
	tunnels  map[*upstream]struct{}
	newest   map[instance]*upstream // head of a list linked by older and newer
	gone     chan struct{}          // closed when closed is set and tunnels is empty
}

func (r *registry) init() {
	r.tunnels = make(map[*upstream]struct{})
	r.newest = make(map[instance]*upstream)
	r.gone = make(chan struct{})
}

// add takes u in; not after close.
func (r *registry) add(u *upstream) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return false
	}
	r.tunnels[u] = struct{}{}
	u.local.SetDraining(r.draining)
	u.local.SetLimit(r.requests)
	if u.instance.id != "" {
		older := r.newest[u.instance]
		if older != nil {
			u.older, older.newer = older, u
		}
		r.newest[u.instance] = u
	}
	return true
}

// supersede makes the tunnel of u's instance before u a last resort and returns
// it; nil if there is none. Those before that one are a last resort already.
func (r *registry) supersede(u *upstream) *upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	if u.older != nil {
		u.older.local.SetDraining(true)
	}
	return u.older
}

// leave says that u is no tunnel of its instance any more; if it was the
// newest, the one before takes its place. It does no harm to say it again.
func (r *registry) leave(u *upstream) {
	if u.instance.id == "" {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	switch {
	case u.newer != nil:
		u.newer.older = u.older
	case r.newest[u.instance] != u: // left before
		return
	case u.older != nil:
		u.older.local.SetDraining(r.draining)
		r.newest[u.instance] = u.older
	default:
		delete(r.newest, u.instance)
	}
	if u.older != nil {
		u.older.newer = u.newer
	}
	u.older, u.newer = nil, nil
}

// forget lets go of u, whose goroutines have ended.
func (r *registry) forget(u *upstream) {
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.tunnels, u)
	r.checkGone()
}

// checkGone needs mu.
func (r *registry) checkGone() {
	if !r.closed || len(r.tunnels) > 0 {
		return
	}
	select {
	case <-r.gone:
	default:
		close(r.gone)
	}
}

func (r *registry) len() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.tunnels)
}

// stage says how far the end of the node has come.
func (r *registry) stage() (draining, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.draining, r.closed
}

// end says what has been done to the tunnels: msg is nil if drain was not called.
func (r *registry) end() (msg *tunnel.DrainMessage, closed bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.message, r.closed
}

// drain makes the tunnels, which it returns, and those that will come a last
// resort.
func (r *registry) drain(msg tunnel.DrainMessage) []*upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining, r.message = true, &msg
	return r.lastResorts()
}

// limit says how many requests each tunnel may have at once.
func (r *registry) limit(requests int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.requests = requests
	for u := range r.tunnels {
		u.local.SetLimit(requests)
	}
}

// all returns the tunnels.
func (r *registry) all() []*upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Collect(maps.Keys(r.tunnels))
}

// close is drain without a message, and add fails from now on.
func (r *registry) close() []*upstream {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.draining, r.closed = true, true
	r.checkGone()
	return r.lastResorts()
}

// lastResorts makes the tunnels last resorts, and returns them. It needs mu.
func (r *registry) lastResorts() []*upstream {
	list := slices.Collect(maps.Keys(r.tunnels))
	for _, u := range list {
		u.local.SetDraining(true)
	}
	return list
}
