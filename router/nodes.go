package router

import (
	"iter"
	"math"
	"slices"
	"strings"
)

// SetNode says which endpoints the node serves, with the sum of the weights of
// its upstreams for each (100 for one of full weight), and replaces what was said
// of that node before: empty means none. A weight of 0 or less is none too. It
// keeps no reference to the map. It may be repeated, and does only what has
// changed; comparing takes time in proportion to the whole.
func (t *Table) SetNode(n *Node, endpoints map[string]int) {
	t.nodesMu.Lock()
	defer t.nodesMu.Unlock()
	var changes []change
	if t.nodes[n] > 0 {
		for endpoint, e := range t.entries() {
			if e.route.Load().remote(n).Weight > 0 && endpoints[endpoint] <= 0 {
				changes = append(changes, change{t.shardOf(endpoint), endpoint, 0})
			}
		}
	}
	for endpoint, weight := range endpoints {
		before := t.Lookup(endpoint).remote(n)
		if weight = clampWeight(weight); weight != before.Weight {
			changes = append(changes, change{t.shardOf(endpoint), endpoint, weight})
		} else if weight > 0 {
			before.state.missed.clear()
		}
	}
	t.apply(n, changes)
}

// PatchNode is SetNode for some endpoints only: the others stay as they are. It
// takes time in proportion to the changes. What is said again counts as news for
// Target.Missed.
func (t *Table) PatchNode(n *Node, endpoints map[string]int) {
	t.nodesMu.Lock()
	defer t.nodesMu.Unlock()
	changes := make([]change, 0, len(endpoints))
	for endpoint, weight := range endpoints {
		changes = append(changes, change{t.shardOf(endpoint), endpoint, clampWeight(weight)})
	}
	t.apply(n, changes)
}

// ForgetNode is SetNode with nothing.
func (t *Table) ForgetNode(n *Node) { t.SetNode(n, nil) }

// NodeEndpoints returns the endpoints that the node serves with their weights,
// in no order. Changes meanwhile may or may not be seen. It takes time in
// proportion to the whole table, which alone knows what a node serves: a set for
// each node took a sixth of the memory.
func (t *Table) NodeEndpoints(n *Node) iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for endpoint, e := range t.entries() {
			if w := e.route.Load().remote(n).Weight; w > 0 && !yield(endpoint, w) {
				return
			}
		}
	}
}

// NodeWeight returns the weight that the node has for the endpoint; 0 is none.
func (t *Table) NodeWeight(n *Node, endpoint string) int {
	return t.Lookup(endpoint).remote(n).Weight
}

func clampWeight(w int) int { return min(max(w, 0), math.MaxInt32) }

// change says that an endpoint has that weight on a node now.
type change struct {
	shard    int
	endpoint string
	weight   int
}

// apply makes the changes, each shard copied once. The caller holds nodesMu.
func (t *Table) apply(n *Node, changes []change) {
	slices.SortFunc(changes, func(a, b change) int { return a.shard - b.shard })
	for i := 0; i < len(changes); {
		end := i + 1
		for end < len(changes) && changes[end].shard == changes[i].shard {
			end++
		}
		t.applyShard(n, changes[i:end])
		i = end
	}
	if t.nodes[n] == 0 {
		delete(t.nodes, n)
	}
}

// applyShard makes changes that are all in one shard. The caller holds nodesMu.
func (t *Table) applyShard(n *Node, changes []change) {
	s := &t.shards[changes[0].shard]
	s.mu.Lock()
	defer s.mu.Unlock()
	b := batch{shard: s, known: t.known}
	for _, c := range changes {
		if c.weight > 0 && b.current()[c.endpoint] == nil {
			c.endpoint = strings.Clone(c.endpoint) // a small part of a larger buffer, most likely
		}
		b.update(c.endpoint, func(old *Route) *Route {
			before := old.remote(n).Weight
			if before == 0 && c.weight == 0 {
				return old
			}
			t.nodes[n] += min(c.weight, 1) - min(before, 1)
			return old.withRemote(n, c.weight)
		})
	}
	b.publish()
}
