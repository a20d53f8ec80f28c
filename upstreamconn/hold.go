package upstreamconn

import (
	"sync"
	"time"

	"piko/tunnel"
)

// A v0.9.0 upstream cannot be asked to move: it leaves when its tunnel ends,
// and only then connects again. So that no request is lost with the tunnel, it
// is held first: Opens wait while what is under way ends. If that ends in time
// the tunnel is closed, and the requests that waited, of which the upstream has
// seen nothing, are sent elsewhere; if not, they go on here.

// hold makes Opens wait until unhold or leave, and says whether it did: not if
// the upstream is held by somebody else or leaves anyway. Whoever holds an
// upstream ends that within a second.
func (u *upstream) hold() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	if u.sess == nil || u.held != nil || u.leaving {
		return false
	}
	u.held = make(chan struct{})
	return true
}

// unhold needs mu.
func (u *upstream) unhold() {
	if u.held != nil {
		close(u.held)
		u.held = nil
	}
}

// release ends what hold began.
func (u *upstream) release() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.unhold()
}

// depart makes an upstream that is held leave if nothing is under way, and says
// whether it has left. It stays in the table as long as the lingering lets it.
// The caller closes its session.
func (u *upstream) depart() bool {
	u.closePools(false)
	if !u.quiet() {
		return false
	}
	u.mu.Lock()
	u.lingers = u.remove != nil
	u.mu.Unlock()
	u.local.SetDraining(true)
	u.leave()
	return true
}

// quiet says that no stream is open or about to be. It means something only
// while the upstream is held: then no Open begins after the last has been
// counted.
func (u *upstream) quiet() bool {
	u.mu.Lock()
	opening := u.opening
	u.mu.Unlock()
	return opening == 0 && u.sess.NumStreams() == 0
}

// goes says that the upstream leaves.
func (u *upstream) goes() bool {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.leaving
}

// lingerTime is how long an upstream that was sent back stays in the table.
// That is longer than it takes to connect to another node, and that node to
// make it known.
const lingerTime = time.Second

// lingering are upstreams in the table that have left. They take no request,
// but say with errLeaving that it would be worth while to wait: they are about
// to come back elsewhere, whereas an endpoint that is not in the table is one
// that nobody serves.
type lingering struct {
	// Guarded by mu.
	mu   sync.Mutex
	over bool       // endAll was called
	list []lingerer // in the order of their ends
}

type lingerer struct {
	u   *upstream
	end time.Time
}

func (l *lingering) add(u *upstream, now time.Time) {
	l.mu.Lock()
	over := l.over
	if !over {
		l.list = append(l.list, lingerer{u, now.Add(lingerTime)})
	}
	l.mu.Unlock()
	if over {
		u.unlist()
	}
}

// end takes those out of the table whose time is up.
func (l *lingering) end(now time.Time) {
	l.mu.Lock()
	n := 0
	for n < len(l.list) && !l.list[n].end.After(now) {
		n++
	}
	over := l.list[:n:n]
	if l.list = l.list[n:]; len(l.list) == 0 {
		l.list = nil
	}
	l.mu.Unlock()
	for _, o := range over {
		o.u.unlist()
	}
}

// endAll is end for all there are, and for those that will be added.
func (l *lingering) endAll() {
	l.mu.Lock()
	list := l.list
	l.list, l.over = nil, true
	l.mu.Unlock()
	for _, o := range list {
		o.u.unlist()
	}
}

// unlist takes a lingering upstream out of the table.
func (u *upstream) unlist() {
	u.mu.Lock()
	u.lingers = false
	u.mu.Unlock()
	u.leave()
}

// sentBack closes tunnels of v0.9.0 upstreams that have departed, such that
// they connect again.
func sentBack(list []*upstream) {
	for _, u := range list {
		_ = u.sess.CloseWithGoAway(tunnel.CodeReconnect) // an error says that it has ended
	}
}
