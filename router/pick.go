package router

import (
	"math/bits"
	"time"
)

// Route is where requests for one endpoint can go. It is immutable: what
// changes is inside the candidates.
type Route struct {
	Locals  []*Local
	Remotes []Remote // at most one for each node
}

// Remote is a node that serves the endpoint.
type Remote struct {
	Node *Node
	// Weight is the sum of the weights of the upstreams there: 100 for one, and 1
	// if none of them is healthy.
	Weight int

	state *remoteState // of this endpoint there
}

// Tunnels is how many upstreams there are there at least.
func (r Remote) Tunnels() int { return (r.Weight + maxWeight - 1) / maxWeight }

func (r Remote) target() Target { return Target{Node: r.Node, remote: r.state} }

// hopCost is what a hop counts for beside the requests in flight: a local
// upstream is chosen until it has that many more in flight than a remote one.
const hopCost = 1

// rank orders candidates before load does: the lower are taken first. Those
// above healthy are the last resort: a draining tunnel most likely still works,
// an unhealthy one most likely does not, and one that just failed less so.
type rank int

const (
	healthy rank = iota
	draining
	unhealthy
	ejected
	full // it would refuse, unless a request ends in this very moment
	out  // not to be chosen at all
)

// Pick chooses the target of a request: of the candidates with the best rank,
// the less loaded of two random local ones against the less loaded of two
// random nodes. Chance is weighted by upstream count and health weight, and a
// hop counts as extra load, so that a local upstream wins until it is clearly
// busier. It never returns what was tried; the zero Target means that nothing
// is left. rnd is any random number; the same arguments in the same state give
// the same answer. A nil Route has nothing to pick; a nil tried is empty.
func (r *Route) Pick(now time.Time, rnd uint64, tried *Tried) Target {
	if r == nil || tried.full() {
		return Target{}
	}
	p := picker{route: r, now: now, rnd: rnd, tried: tried}
	for want := range out {
		local, remote := p.local(want), p.remote(want)
		switch {
		case local == nil && remote < 0:
			continue
		case remote < 0:
			return Target{Local: local}
		case local == nil || r.Remotes[remote].score().less(local.score()):
			return r.Remotes[remote].target()
		}
		return Target{Local: local}
	}
	return Target{}
}

// score is a load for each unit of weight, as a fraction.
type score struct{ load, weight uint64 }

func (s score) less(other score) bool { return s.load*other.weight < other.load*s.weight }

func (l *Local) score() score {
	return score{load: uint64(l.load.inFlight()) * maxWeight, weight: uint64(l.share())}
}

func (r Remote) score() score {
	weight := uint64(r.share())
	return score{load: uint64(r.target().counter().inFlight())*maxWeight + hopCost*weight, weight: weight}
}

// share is the weight, of which an unhealthy candidate has a little too: among
// its like it may be chosen.
func (l *Local) share() int { return max(int(l.weight.Load()), 1) }

func (r Remote) share() int { return max(r.Weight, 1) }

// picker is one call of Pick.
type picker struct {
	route *Route
	now   time.Time
	rnd   uint64
	tried *Tried
}

// below returns a random number in [0, n), from the splitmix64 generator: one
// random number of the caller is enough for all that are needed.
func (p *picker) below(n int) int {
	p.rnd += 0x9e3779b97f4a7c15
	z := p.rnd
	z = (z ^ z>>30) * 0xbf58476d1ce4e5b9
	z = (z ^ z>>27) * 0x94d049bb133111eb
	hi, _ := bits.Mul64(z^z>>31, uint64(n))
	return int(hi)
}

func (p *picker) localRank(l *Local) rank {
	switch {
	case p.tried.hasLocal(l):
		return out
	case l.full():
		return full
	case l.ejected.at(p.now):
		return ejected
	case l.weight.Load() == 0:
		return unhealthy
	case l.draining.Load():
		return draining
	}
	return healthy
}

func (p *picker) remoteRank(r Remote) rank {
	n := r.Node
	switch {
	case n.dead.Load() || p.tried.hasNode(n) || r.state.missed.at(p.now):
		return out
	case n.ejected.at(p.now) || r.state.ejected.at(p.now):
		return ejected
	case r.Weight <= unhealthyWeight:
		return unhealthy
	case n.draining.Load():
		return draining
	}
	return healthy
}

// local is the less loaded of two random local candidates of the rank, or nil.
func (p *picker) local(want rank) *Local {
	first := p.randomLocal(want, nil)
	if first == nil {
		return nil
	}
	second := p.randomLocal(want, first)
	if second != nil && second.score().less(first.score()) {
		return second
	}
	return first
}

// Sets of up to smallSet candidates are looked through; in larger ones a
// random place is tried a few times first, so that an endpoint with thousands
// of tunnels costs no more than one with ten.
const (
	smallSet = 8
	draws    = 8
)

func (p *picker) randomLocal(want rank, except *Local) *Local {
	locals := p.route.Locals
	if len(locals) > smallSet && want == healthy {
		for range draws {
			l := locals[p.below(len(locals))]
			if l != except && p.localRank(l) == want && p.below(maxWeight) < l.share() {
				return l
			}
		}
	}
	return p.scanLocals(want, except)
}

// scanLocals looks through all: it is what finds the last ones.
func (p *picker) scanLocals(want rank, except *Local) *Local {
	var chosen *Local
	total := 0
	for _, l := range p.route.Locals {
		if l == except || p.localRank(l) != want {
			continue
		}
		total += l.share()
		if p.below(total) < l.share() {
			chosen = l
		}
	}
	return chosen
}

// remote is the index of the less loaded of two random nodes of the rank, or -1.
func (p *picker) remote(want rank) int {
	first := p.scanRemotes(want, -1)
	if first < 0 {
		return first
	}
	second := p.scanRemotes(want, first)
	if second >= 0 && p.route.Remotes[second].score().less(p.route.Remotes[first].score()) {
		return second
	}
	return first
}

func (p *picker) scanRemotes(want rank, except int) int {
	chosen, total := -1, 0
	for i, r := range p.route.Remotes {
		if i == except || p.remoteRank(r) != want {
			continue
		}
		total += r.share()
		if p.below(total) < r.share() {
			chosen = i
		}
	}
	return chosen
}
