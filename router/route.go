package router

import (
	"cmp"
	"slices"
)

// The methods here return what a route becomes. They leave the old one as it
// is, accept a nil one, and return nil for one without candidates.

func (r *Route) locals() int {
	if r == nil {
		return 0
	}
	return len(r.Locals)
}

func (r *Route) orEmpty() Route {
	if r == nil {
		return Route{}
	}
	return *r
}

func (r Route) orNil() *Route {
	if len(r.Locals) == 0 && len(r.Remotes) == 0 {
		return nil
	}
	return &r
}

// withLocal appends in place where there is room: a reader of the old route
// sees no further than its own length, and as routes follow one another under
// the shard's lock, and whatever else than this makes a new array, no place is
// written twice. It keeps ten thousand tunnels on one endpoint from costing the
// square of that.
func (r *Route) withLocal(l *Local) *Route {
	next := r.orEmpty()
	if len(next.Locals) == 0 {
		next.Locals = []*Local{l}
	} else {
		next.Locals = append(next.Locals, l)
	}
	return next.orNil()
}

// withoutLocal takes l out once.
func (r *Route) withoutLocal(l *Local) *Route {
	next := r.orEmpty()
	i := slices.Index(next.Locals, l)
	if i < 0 {
		return next.orNil()
	}
	rest := make([]*Local, 0, len(next.Locals)-1)
	next.Locals = append(append(rest, next.Locals[:i]...), next.Locals[i+1:]...)
	return next.orNil()
}

// remote is the node in the route; the zero Remote if it is not in it.
func (r *Route) remote(n *Node) Remote {
	if r != nil {
		for i := range r.Remotes {
			if r.Remotes[i].Node == n {
				return r.Remotes[i]
			}
		}
	}
	return Remote{}
}

// withRemote sets the weight of the upstreams on the node; 0 takes the node out.
// Remotes are in the order of their ids, whatever the order of the changes.
func (r *Route) withRemote(n *Node, weight int) *Route {
	next := r.orEmpty()
	remote := Remote{Node: n, Weight: weight}
	remotes := make([]Remote, 0, len(next.Remotes)+min(weight, 1)) // of the very size: there may be a million
	for _, other := range next.Remotes {
		if other.Node == n {
			remote.state = other.state // requests are in flight on it
			remote.state.missed.clear()
			continue
		}
		remotes = append(remotes, other)
	}
	if weight > 0 {
		if remote.state == nil {
			remote.state = new(remoteState)
		}
		i, _ := slices.BinarySearchFunc(remotes, n.id, func(r Remote, id string) int { return cmp.Compare(r.Node.id, id) })
		remotes = slices.Insert(remotes, i, remote)
	}
	next.Remotes = remotes
	return next.orNil()
}

// What a node says of an endpoint none of whose upstreams there is healthy, and
// the least that it says of any other: weights travel in classes, so that there
// has to be some distance.
const (
	unhealthyWeight = 1
	leastHealthy    = 5
)

// localWeight is the sum of the weights of the local upstreams; unhealthyWeight
// if there are some and none of them is healthy.
func (r *Route) localWeight() int {
	if r.locals() == 0 {
		return 0
	}
	sum := 0
	for _, l := range r.Locals {
		sum += int(l.weight.Load())
	}
	if sum == 0 {
		return unhealthyWeight
	}
	return max(sum, leastHealthy)
}
