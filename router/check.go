package router

import (
	"errors"
	"fmt"
)

// ConsistencyCheck walks the whole table and returns what contradicts itself.
// It is for tests, and only means something while nobody changes the table.
func (t *Table) ConsistencyCheck() error {
	t.nodesMu.Lock()
	defer t.nodesMu.Unlock()
	var errs []error
	endpoints, upstreams := 0, 0
	remotes := make(map[*Node]int)
	for i := range t.shards {
		m := t.shards[i].entries.Load()
		if m == nil {
			continue
		}
		for endpoint, e := range *m {
			if t.shardOf(endpoint) != i {
				errs = append(errs, fmt.Errorf("%q is in shard %d, not %d", endpoint, i, t.shardOf(endpoint)))
			}
			route := e.route.Load()
			errs = append(errs, t.checkRoute(endpoint, route))
			upstreams += route.locals()
			endpoints += min(route.locals(), 1)
			for _, r := range route.orEmpty().Remotes {
				remotes[r.Node]++
			}
		}
	}
	if e, u := t.Totals(); e != endpoints || u != upstreams {
		errs = append(errs, fmt.Errorf("totals say %d endpoints, %d upstreams; there are %d, %d", e, u, endpoints, upstreams))
	}
	for n, count := range t.nodes {
		if count != remotes[n] || count == 0 {
			errs = append(errs, fmt.Errorf("node %s has %d endpoints in the table and counts %d", n.id, remotes[n], count))
		}
	}
	if len(remotes) != len(t.nodes) {
		errs = append(errs, fmt.Errorf("%d nodes in routes, %d known", len(remotes), len(t.nodes)))
	}
	return errors.Join(errs...)
}

// checkRoute needs nodesMu.
func (t *Table) checkRoute(endpoint string, route *Route) error {
	if route == nil || len(route.Locals)+len(route.Remotes) == 0 {
		return fmt.Errorf("%q has an entry and nobody serves it", endpoint)
	}
	for i, r := range route.Remotes {
		if i > 0 && route.Remotes[i-1].Node.id > r.Node.id {
			return fmt.Errorf("%q has its nodes out of order", endpoint)
		}
		if r.Weight <= 0 || r.state == nil {
			return fmt.Errorf("%q has the weight %d on node %s, state %v", endpoint, r.Weight, r.Node.id, r.state)
		}
	}
	return nil
}
