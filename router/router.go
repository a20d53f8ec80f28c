// Package router answers one question: where does a request for this endpoint
// go? It holds the table of local tunnels and remote nodes by endpoint, and the
// choice among them.
//
// It is pure: no I/O, no goroutine, no clock, no log. Time and randomness are
// arguments. It knows tunnels and nodes only as an Upstream, which the packages
// that own the connections implement.
//
// Who calls whom: upstreamconn adds a Local when a tunnel opens and removes it
// when the tunnel ends; whoever learns what other nodes serve calls SetNode
// and PatchNode;
// proxy looks up and picks, once or more for each request:
//
//	route := table.Lookup(endpoint)
//	target := route.Pick(now, rand.Uint64(), &tried)
//	target.Begin()
//	defer target.End()
//
// Lookup and Pick take no lock and allocate nothing.
package router

import (
	"context"
	"net"
	"net/http"
	"sync/atomic"
	"time"
)

// Upstream carries requests to one upstream, or to a node that has one.
type Upstream interface {
	http.RoundTripper
	// Open opens a raw byte stream, for upgrades and TCP. The caller closes it.
	Open(ctx context.Context) (net.Conn, error)
}

// maxWeight is the weight of a healthy upstream.
const maxWeight = 100

// Local is a candidate: one tunnel that is open to this node, listening on one
// endpoint. All methods may be called by any goroutine at any time.
//
// It fills one cache line, so that requests contend on no counter but that of
// the candidate they were given.
type Local struct {
	// Static after construction.
	upstream Upstream

	// Written by every request that is given to this candidate.
	load load

	// Written when something changes.
	limit    atomic.Int64
	ejected  ejection
	weight   atomic.Int32
	draining atomic.Bool

	_ [64 - 16 - 8 - 8 - 8 - 8]byte
}

// NewLocal returns a healthy candidate of weight 100.
func NewLocal(u Upstream) *Local {
	l := &Local{upstream: u}
	l.weight.Store(maxWeight)
	return l
}

// Upstream is what carries the requests.
func (l *Local) Upstream() Upstream { return l.upstream }

// SetWeight sets the upstream's share, 0 to 100: the weight that it gave
// itself. With 0 it is unhealthy and the last resort. Other values are clamped.
func (l *Local) SetWeight(w int) { l.weight.Store(int32(min(max(w, 0), maxWeight))) }

// Weight is what SetWeight said last, 100 for a new candidate.
func (l *Local) Weight() int { return int(l.weight.Load()) }

// Ejected reports whether the candidate is avoided at present because it failed.
func (l *Local) Ejected(now time.Time) bool { return l.ejected.at(now) }

// SetDraining makes the candidate a last resort, or takes that back.
func (l *Local) SetDraining(draining bool) { l.draining.Store(draining) }

// Draining reports whether the candidate asked to be spared.
func (l *Local) Draining() bool { return l.draining.Load() }

// SetLimit bounds the requests that the candidate is given at once; 0, as at
// first, is no limit. One that is full is picked only if no other is left.
func (l *Local) SetLimit(requests int) { l.limit.Store(int64(requests)) }

func (l *Local) full() bool {
	limit := l.limit.Load()
	return limit > 0 && int64(l.load.inFlight()) >= limit
}

// Begin counts a request in flight; each Begin needs its End. It returns false,
// and has counted nothing, if the candidate has as many as it may.
func (l *Local) Begin() (ok bool) { return l.load.beginUpTo(l.limit.Load()) }

// End undoes one Begin.
func (l *Local) End() { l.load.end() }

// InFlight is the number of requests that have begun and not ended.
func (l *Local) InFlight() int { return l.load.inFlight() }

// Failed says that the candidate itself failed, not the request: it is avoided
// for 100 ms, and each further failure after that doubles the time, up to 10 s.
// It reports whether the candidate was not avoided until now, and how often it
// has failed in a row, as far as that is counted. As long as there is no better
// candidate it is picked nevertheless.
func (l *Local) Failed(now time.Time) (ejected bool, failures int) { return l.ejected.failed(now) }

// Succeeded ends the effect of earlier failures, and returns how many there were
// in a row.
func (l *Local) Succeeded() (failures int) { return l.ejected.succeeded() }

// Node is another node of the cluster as a candidate for all endpoints that it
// serves. All methods may be called by any goroutine at any time.
type Node struct {
	// Static after construction.
	id       string
	upstream func(endpoint string) Upstream

	// Written when something changes.
	ejected  ejection
	dead     atomic.Bool
	draining atomic.Bool

	_ [64 - 16 - 8 - 8 - 8]byte
}

// NewNode returns a node that is alive. upstream gives what carries requests
// for one endpoint to that node; it is called for each request and must be fast.
func NewNode(id string, upstream func(endpoint string) Upstream) *Node {
	return &Node{id: id, upstream: upstream}
}

// ID is the node's id in the cluster.
func (n *Node) ID() string { return n.id }

// Upstream is what carries requests for the endpoint to the node.
func (n *Node) Upstream(endpoint string) Upstream { return n.upstream(endpoint) }

// SetAlive takes the node out while it is false: dead, leaving or unreachable.
func (n *Node) SetAlive(alive bool) { n.dead.Store(!alive) }

// Alive reports what SetAlive said last; a new node is alive.
func (n *Node) Alive() bool { return !n.dead.Load() }

// SetDraining makes the node a last resort, or takes that back.
func (n *Node) SetDraining(draining bool) { n.draining.Store(draining) }

// Draining reports what SetDraining said last.
func (n *Node) Draining() bool { return n.draining.Load() }

// Failed is Local.Failed for a node.
func (n *Node) Failed(now time.Time) (ejected bool, failures int) { return n.ejected.failed(now) }

// Succeeded is Local.Succeeded for a node.
func (n *Node) Succeeded() { n.ejected.succeeded() }

// Target is what Pick chose: a local candidate, a node, or none (the zero
// Target). It is a value; the methods need one that is not zero.
type Target struct {
	Local *Local
	Node  *Node

	remote *remoteState // of the endpoint at the node
}

// OK reports whether there is a target.
func (t Target) OK() bool { return t.Local != nil || t.Node != nil }

// Upstream is what carries a request for the endpoint to the target.
func (t Target) Upstream(endpoint string) Upstream {
	if t.Local != nil {
		return t.Local.Upstream()
	}
	return t.Node.Upstream(endpoint)
}

// Begin counts a request in flight; each Begin needs its End on the same Target.
// It returns false, and has counted nothing, if the target is a local candidate
// that has as many as it may: no failure of the candidate's.
func (t Target) Begin() (ok bool) {
	if t.Local != nil {
		return t.Local.Begin()
	}
	t.remote.begin()
	return true
}

// End undoes one Begin.
func (t Target) End() { t.counter().end() }

// Failed says that an exchange failed for a reason that lies with the target or
// behind it, and not with the request. Of a node that is about the one endpoint:
// a service that is down is no reason to avoid all others there, see Node.Failed.
// What it returns is that of Local.Failed.
func (t Target) Failed(now time.Time) (ejected bool, failures int) {
	if t.Local != nil {
		return t.Local.Failed(now)
	}
	return t.remote.ejected.failed(now)
}

// Succeeded ends the effect of earlier failures, of a node's for all endpoints. It
// returns how many there were in a row, without those of the node itself.
func (t Target) Succeeded() (failures int) {
	if t.Local != nil {
		return t.Local.Succeeded()
	}
	t.Node.Succeeded()
	return t.remote.ejected.succeeded()
}

func (t Target) counter() *load {
	if t.Local != nil {
		return &t.Local.load
	}
	return &t.remote.load
}

// Missed says that the target, a node, cannot serve the endpoint at present:
// it is out for this endpoint until the node says something new about it, or for
// 2 s. Of a local target it says nothing.
func (t Target) Missed(now time.Time) {
	if t.remote != nil {
		t.remote.missed.set(now)
	}
}

// maxTried bounds how many candidates one request may be given.
const maxTried = 8

// Tried is the set of candidates that one request was given already. The zero
// value is empty. It belongs to one request and is not safe for concurrent use.
// It holds 8; for a full set Pick finds no further target.
type Tried struct {
	targets [maxTried]Target
	n       int
}

// Add puts a target into the set; the zero Target is ignored.
func (t *Tried) Add(target Target) {
	if target.OK() && t.n < maxTried && !t.Has(target) {
		t.targets[t.n] = target
		t.n++
	}
}

// Remove takes a target out of the set, for one that nothing was tried with after
// all.
func (t *Tried) Remove(target Target) {
	for i := range t.n {
		if t.targets[i].Local == target.Local && t.targets[i].Node == target.Node {
			t.n--
			t.targets[i], t.targets[t.n] = t.targets[t.n], Target{}
			return
		}
	}
}

// Has reports whether the same candidate was added.
func (t *Tried) Has(target Target) bool {
	return t.hasLocal(target.Local) || t.hasNode(target.Node)
}

// Len is the number of candidates in the set.
func (t *Tried) Len() int { return t.n }

func (t *Tried) hasLocal(l *Local) bool {
	if t == nil || l == nil {
		return false
	}
	for i := range t.n {
		if t.targets[i].Local == l {
			return true
		}
	}
	return false
}

func (t *Tried) hasNode(n *Node) bool {
	if t == nil || n == nil {
		return false
	}
	for i := range t.n {
		if t.targets[i].Node == n {
			return true
		}
	}
	return false
}

func (t *Tried) full() bool { return t != nil && t.n == maxTried }
