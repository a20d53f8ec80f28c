package events

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"
)

const (
	// settle is how long an endpoint or a node has to be away to be down.
	settle = 2 * time.Second
	// look is how often the Tracker looks.
	look = 500 * time.Millisecond
	// maxAway bounds the endpoints that may be away at a time; of more than
	// that it is not said that they are down.
	maxAway = 1 << 17
)

// State is what a node is.
type State int

// The states, from the best to the worst; what a node does not know is gone.
const (
	Active State = iota
	Draining
	Unreachable
	Gone
)

// Tracker notices which endpoints and nodes go down and come up. Set the fields
// before use; all are needed. Its methods may be called by any goroutine.
type Tracker struct {
	// Publish is called for each event, with locks of the Tracker and of whoever
	// calls it held: it must not block, nor call either.
	Publish func(Event)
	// NodeID is this node's own.
	NodeID string
	// Nodes are the nodes of the cluster, this one included, by id. Two that have
	// one id, such as a node before and after it was started anew, are as good as
	// the better of them.
	Nodes func() map[string]State
	// Known says whether an endpoint is in the routing table, and whether a
	// request to it would be sent somewhere now.
	Known func(name string) (known, served bool)
	// Unserved calls f with the endpoints that are known and not served. It is
	// called only while a node is not there.
	Unserved func(f func(name string))
	// Split is the tenant and the endpoint of a name.
	Split func(name string) (tenant, endpoint string)

	// Guarded by mu.
	mu      sync.Mutex
	started bool
	away    map[string]absence    // endpoints that are not served
	nodes   map[string]*nodeState // that were seen and are not down
}

// absence is that of an endpoint.
type absence struct {
	since time.Time
	told  bool
}

type nodeState struct {
	drains bool      // said so
	since  time.Time // is not there; zero: it is
}

// Endpoint says that an endpoint has got into the routing table, or out of it.
// It may be called with a lock of the table held.
func (t *Tracker) Endpoint(name string, known bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.started {
		return // it is no news to others
	}
	_, isAway := t.away[name]
	switch {
	case isAway: // Run sees to it
	case known:
		t.tell(EndpointUp, name)
	case len(t.away) < maxAway:
		t.away[name] = absence{since: time.Now()}
	}
}

// Run looks after what is away until ctx ends. What is there when it begins is
// no event.
func (t *Tracker) Run(ctx context.Context) {
	t.start()
	tick := time.NewTicker(look)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-ctx.Done():
			return
		case now := <-tick.C:
			if missing := t.lookAtNodes(now); missing && n%2 == 0 {
				t.Unserved(func(name string) { t.missing(name, now) })
			}
			t.lookAtEndpoints(now)
		}
	}
}

func (t *Tracker) start() {
	nodes := t.Nodes()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.started, t.away, t.nodes = true, make(map[string]absence), make(map[string]*nodeState)
	for id, state := range nodes {
		if state <= Draining {
			t.nodes[id] = &nodeState{drains: state == Draining}
		}
	}
}

// missing says that an endpoint is known and not served.
func (t *Tracker) missing(name string, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, isAway := t.away[name]; !isAway && len(t.away) < maxAway {
		t.away[name] = absence{since: now}
	}
}

// lookAtEndpoints settles what has been away long enough, or is back. The table is
// asked without mu, since it calls Endpoint with a lock of its own.
func (t *Tracker) lookAtEndpoints(now time.Time) {
	t.mu.Lock()
	names := slices.Collect(maps.Keys(t.away))
	t.mu.Unlock()
	slices.Sort(names)
	for _, name := range names {
		known, served := t.Known(name)
		t.settle(name, known, served, now)
	}
}

func (t *Tracker) settle(name string, known, served bool, now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	a := t.away[name]
	switch {
	case served && a.told:
		t.tell(EndpointUp, name)
		fallthrough
	case served:
		delete(t.away, name)
		return
	case !a.told && now.Sub(a.since) >= settle:
		t.tell(EndpointDown, name)
		a.told = true
		t.away[name] = a
	}
	if a.told && !known {
		delete(t.away, name) // the table says when it is back
	}
}

// tell needs mu.
func (t *Tracker) tell(what, name string) {
	tenant, endpoint := t.Split(name)
	t.Publish(Event{Type: what, Time: time.Now().UTC(), Node: t.NodeID, Endpoint: endpoint, Tenant: tenant})
}

// lookAtNodes says whether one is missing.
func (t *Tracker) lookAtNodes(now time.Time) (missing bool) {
	states := t.Nodes()
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, id := range slices.Sorted(maps.Keys(states)) {
		missing = missing || states[id] > Draining
		if states[id] <= Draining && t.nodes[id] == nil {
			t.nodes[id] = &nodeState{}
			t.tellNode(NodeUp, id, "")
		}
	}
	for _, id := range slices.Sorted(maps.Keys(t.nodes)) {
		state, ok := states[id]
		if !ok {
			state = Gone
		}
		t.follow(id, state, now)
	}
	return missing || len(states) < len(t.nodes)
}

// follow needs mu.
func (t *Tracker) follow(id string, state State, now time.Time) {
	n := t.nodes[id]
	if state <= Draining {
		n.since = time.Time{}
		if state == Draining && !n.drains {
			t.tellNode(NodeDraining, id, "")
		}
		n.drains = state == Draining
		return
	}
	if n.since.IsZero() {
		n.since = now
	}
	if now.Sub(n.since) < settle {
		return
	}
	why := "it left"
	if state == Unreachable {
		why = "it is unreachable"
	}
	t.tellNode(NodeDown, id, why)
	delete(t.nodes, id)
}

// tellNode needs mu.
func (t *Tracker) tellNode(what, id, detail string) {
	t.Publish(Event{Type: what, Time: time.Now().UTC(), Node: id, Detail: detail})
}
