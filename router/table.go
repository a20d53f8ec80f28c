package router

import (
	"hash/maphash"
	"iter"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
)

// shardCount is fixed. Each change of the set of endpoints copies one shard:
// with 1 million endpoints that is 250 entries, where a copy of one whole map
// measured 11.5 ms and 56 MB.
const shardCount = 4096

// Table says for each endpoint where its requests can go. All methods may be
// called by any goroutine at any time. Use NewTable.
type Table struct {
	// Static after construction.
	seed     maphash.Seed
	observer func(endpoint string, weight int) // set before use; nil: nobody
	known    func(endpoint string, known bool) // likewise

	// Read by Lookup without a lock.
	shards [shardCount]shard

	// Local counts; written with the shard's lock held.
	endpoints, upstreams atomic.Int64

	// nodesMu makes changes of nodes wait for each other. It is taken before a
	// shard's lock, never after.
	nodesMu sync.Mutex
	nodes   map[*Node]int // endpoints of each node; guarded by nodesMu
}

// entry is an endpoint that somebody serves. Its identity stays while its
// candidates change, so that a second upstream copies no shard. The pointer is
// written with the shard's lock held, and never to nil: an entry that nobody
// serves any more leaves its shard.
type entry struct{ route atomic.Pointer[Route] }

// shard holds the entries whose endpoint hashes to it.
type shard struct {
	entries atomic.Pointer[map[string]*entry] // immutable map; nil is empty; written with mu held
	mu      sync.Mutex
	peak    int // most entries since the map was built anew; guarded by mu
}

// NewTable returns an empty table.
func NewTable() *Table {
	return &Table{seed: maphash.MakeSeed(), nodes: make(map[*Node]int)}
}

func (t *Table) shardOf(endpoint string) int {
	return int(maphash.String(t.seed, endpoint) % shardCount)
}

// Lookup returns where requests for the endpoint, in canonical form, can go;
// nil if nobody serves it. What it returns never changes; look up again for the
// next request, or after a wait.
func (t *Table) Lookup(endpoint string) *Route {
	m := t.shards[t.shardOf(endpoint)].entries.Load()
	if m == nil {
		return nil
	}
	e := (*m)[endpoint]
	if e == nil {
		return nil
	}
	return e.route.Load()
}

// Add makes l a candidate for the endpoint, which is in canonical form. The
// undo may be called more than once, and at any time.
func (t *Table) Add(endpoint string, l *Local) (remove func()) {
	endpoint = strings.Clone(endpoint) // it may be a small part of a request's buffer
	t.update(endpoint, func(old *Route) *Route { return old.withLocal(l) })
	var done atomic.Bool
	return func() {
		if done.CompareAndSwap(false, true) {
			t.update(endpoint, func(old *Route) *Route { return old.withoutLocal(l) })
		}
	}
}

// Observe has f told of what this node's own tunnels serve: each endpoint with
// the sum of their weights (see Local.SetWeight), 1 while none of them is healthy,
// and 0 when there is none any more. What f is told of one endpoint is in order.
// It is called with a lock of the table held: it must be fast and not call the
// table. Observe is called before the table is used.
func (t *Table) Observe(f func(endpoint string, weight int)) { t.observer = f }

// ObserveKnown has f told of each endpoint that somebody begins to serve, here or
// elsewhere, and of each that nobody serves any more. It is called as Observe's f.
func (t *Table) ObserveKnown(f func(endpoint string, known bool)) { t.known = f }

// Reweigh tells the observer that the weight of a tunnel of the endpoint has
// changed.
func (t *Table) Reweigh(endpoint string) {
	t.update(endpoint, func(old *Route) *Route { return old })
}

// update replaces the route of an endpoint of this node's tunnels.
func (t *Table) update(endpoint string, to func(old *Route) *Route) {
	s := &t.shards[t.shardOf(endpoint)]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := batch{shard: s, known: t.known}
	before, after, route := b.update(endpoint, to)
	b.publish()
	t.upstreams.Add(int64(after - before))
	t.endpoints.Add(int64(min(after, 1) - min(before, 1)))
	if t.observer != nil {
		t.observer(endpoint, route.localWeight())
	}
}

// batch is a number of changes to one shard, whose lock is held until publish.
type batch struct {
	shard *shard
	next  map[string]*entry // nil: the set of endpoints has not changed
	known func(endpoint string, known bool)
}

// tell says that an endpoint is in the table now, or no more.
func (b *batch) tell(endpoint string, known bool) {
	if b.known != nil {
		b.known(endpoint, known)
	}
}

func (b *batch) current() map[string]*entry {
	if b.next != nil {
		return b.next
	}
	if m := b.shard.entries.Load(); m != nil {
		return *m
	}
	return nil
}

// update sets one endpoint's route, where nil means that nobody serves it. It
// returns the number of local upstreams before and after.
func (b *batch) update(endpoint string, to func(old *Route) *Route) (before, after int, route *Route) {
	e := b.current()[endpoint]
	var old *Route
	if e != nil {
		old = e.route.Load()
	}
	route = to(old)
	switch {
	case e == nil && route == nil:
	case e == nil:
		e = new(entry)
		e.route.Store(route)
		b.writable()[endpoint] = e
		b.tell(endpoint, true)
	case route == nil:
		delete(b.writable(), endpoint)
		b.tell(endpoint, false)
	default:
		e.route.Store(route)
	}
	return old.locals(), route.locals(), route
}

func (b *batch) writable() map[string]*entry {
	if b.next == nil {
		if b.next = maps.Clone(b.current()); b.next == nil {
			b.next = make(map[string]*entry, 1)
		}
	}
	return b.next
}

func (b *batch) publish() {
	if b.next == nil {
		return
	}
	s, next := b.shard, b.next
	s.peak = max(s.peak, len(next))
	if len(next) < s.peak/4 {
		// A map never shrinks, and its clone keeps the room.
		small := make(map[string]*entry, len(next))
		maps.Copy(small, next)
		next, s.peak = small, len(small)
	}
	if len(next) == 0 {
		s.entries.Store(nil)
		return
	}
	s.entries.Store(&next)
}

// Endpoints returns the endpoints of this node's own tunnels with their number,
// in no order. Changes meanwhile may or may not be seen.
func (t *Table) Endpoints() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for endpoint, e := range t.entries() {
			if n := e.route.Load().locals(); n > 0 && !yield(endpoint, n) {
				return
			}
		}
	}
}

// Totals returns how many endpoints this node's own tunnels listen on, and how
// many tunnels there are. It costs two loads.
func (t *Table) Totals() (endpoints, upstreams int) {
	return int(t.endpoints.Load()), int(t.upstreams.Load())
}

// Routes returns all endpoints that somebody serves, here or elsewhere, in no
// order. Changes meanwhile may or may not be seen.
func (t *Table) Routes() iter.Seq2[string, *Route] {
	return func(yield func(string, *Route) bool) {
		for endpoint, e := range t.entries() {
			if !yield(endpoint, e.route.Load()) {
				return
			}
		}
	}
}

// Size is the number of endpoints that somebody serves. It takes a load for each
// shard.
func (t *Table) Size() int {
	n := 0
	for i := range t.shards {
		if m := t.shards[i].entries.Load(); m != nil {
			n += len(*m)
		}
	}
	return n
}

func (t *Table) entries() iter.Seq2[string, *entry] {
	return func(yield func(string, *entry) bool) {
		for i := range t.shards {
			m := t.shards[i].entries.Load()
			if m == nil {
				continue
			}
			for endpoint, e := range *m {
				if !yield(endpoint, e) {
					return
				}
			}
		}
	}
}
