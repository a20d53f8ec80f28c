package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

// dump writes a table in words that do not depend on the order of changes.
func dump(t *testing.T, table *Table) string {
	t.Helper()
	if err := table.ConsistencyCheck(); err != nil {
		t.Fatalf("table contradicts itself: %v", err)
	}
	var lines []string
	for endpoint, e := range table.entries() {
		route := e.route.Load()
		var words []string
		for _, l := range route.Locals {
			words = append(words, string(l.Upstream().(named)))
		}
		slices.Sort(words)
		for _, r := range route.Remotes {
			words = append(words, fmt.Sprintf("%s*%d", r.Node.ID(), r.Count))
		}
		lines = append(lines, endpoint+": "+strings.Join(words, " "))
	}
	slices.Sort(lines)
	return strings.Join(lines, "\n")
}

func TestTable(t *testing.T) {
	table := NewTable()
	check := func(reason, want string) {
		t.Helper()
		if got := dump(t, table); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", reason, got, want)
		}
	}
	check("a new table is empty", "")
	a, b, node := NewLocal(named("a")), NewLocal(named("b")), newNode("node1")

	removeA := table.Add("one", a)
	check("a tunnel opened", "one: a")
	removeB := table.Add("one", b)
	check("a second one on its endpoint", "one: a b")
	table.SetNode(node, map[string]int{"one": 2, "two": 1, "none": 0})
	check("another node serves two endpoints", "one: a b node1*2\ntwo: node1*1")
	if endpoints, upstreams := table.Totals(); endpoints != 1 || upstreams != 2 {
		t.Errorf("totals: %d, %d, want this node's own 1, 2", endpoints, upstreams)
	}
	if got := maps.Collect(table.Endpoints()); !maps.Equal(got, map[string]int{"one": 2}) {
		t.Errorf("endpoints: %v", got)
	}

	removeA()
	removeA()
	check("undoing twice is undoing once", "one: b node1*2\ntwo: node1*1")
	again := table.Add("one", a)
	removeA()
	check("an old undo does not touch a new registration", "one: a b node1*2\ntwo: node1*1")
	again()

	table.SetNode(node, map[string]int{"one": 3})
	check("a level replaces what was said before", "one: b node1*3")
	table.SetNode(node, map[string]int{"one": 3})
	check("and may be repeated", "one: b node1*3")
	removeB()
	check("the last tunnel closed", "one: node1*3")
	table.SetNode(node, nil)
	check("the node is gone", "")
	table.SetNode(node, nil)
	check("the node is still gone", "")
	if route := table.Lookup("one"); route != nil {
		t.Errorf("nobody serves it: %v", route)
	}
}

func TestSetNodeKeepsNoReference(t *testing.T) {
	table, node := NewTable(), newNode("node1")
	endpoints := map[string]int{"one": 1}
	table.SetNode(node, endpoints)
	endpoints["one"], endpoints["two"] = 5, 5
	table.SetNode(node, map[string]int{"one": 1, "three": 1})
	if got := dump(t, table); got != "one: node1*1\nthree: node1*1" {
		t.Errorf("got %s", got)
	}
}

// TestRouteIsImmutable: who looked up keeps what he saw.
func TestRouteIsImmutable(t *testing.T) {
	table := NewTable()
	var undos []func()
	var seen []*Route
	for i := range 20 {
		undos = append(undos, table.Add("one", NewLocal(named(fmt.Sprint(i)))))
		seen = append(seen, table.Lookup("one"))
	}
	for _, i := range []int{3, 0, 19, 7} {
		undos[i]()
		table.Add("one", NewLocal(named("new")))
		table.SetNode(newNode(fmt.Sprint("node", i)), map[string]int{"one": 1})
	}
	for n, route := range seen {
		for i, l := range route.Locals {
			if len(route.Locals) != n+1 || l.Upstream() != named(fmt.Sprint(i)) {
				t.Fatalf("route %d changed: %d locals, the %dth is %v", n, len(route.Locals), i, l.Upstream())
			}
		}
		if len(route.Remotes) > 0 {
			t.Errorf("route %d got remotes", n)
		}
	}
}

func TestShardsShrink(t *testing.T) {
	table := NewTable()
	s := &table.shards[0]
	var names []string
	for i := 0; len(names) < 100; i++ {
		if name := fmt.Sprint("endpoint-", i); table.shardOf(name) == 0 {
			names = append(names, name)
		}
	}
	var undos []func()
	for _, name := range names {
		undos = append(undos, table.Add(name, NewLocal(nil)))
	}
	if s.peak != 100 {
		t.Errorf("peak is %d", s.peak)
	}
	for _, undo := range undos[1:] {
		undo()
	}
	if s.peak > 8 {
		t.Errorf("the shard still has room for %d, and one entry", s.peak)
	}
	undos[0]()
	if s.entries.Load() != nil {
		t.Error("an empty shard holds a map")
	}
}

// history makes random changes to a table in the alphabet of a few endpoints
// and nodes, then leads it to the final state, whose parts come in random order.
type history struct {
	table *Table
	rng   *rand.Rand
	undos []func()
}

var endpointNames = []string{"a", "b", "c", "d", "e", "f"}

func (h *history) noise(nodes []*Node, steps int) {
	for range steps {
		switch h.rng.IntN(3) {
		case 0:
			h.undos = append(h.undos, h.table.Add(h.endpoint(), NewLocal(named("noise"))))
		case 1:
			if len(h.undos) > 0 {
				h.undos[h.rng.IntN(len(h.undos))]()
			}
		case 2:
			level := make(map[string]int)
			for range h.rng.IntN(5) {
				level[h.endpoint()] = h.rng.IntN(3)
			}
			h.table.SetNode(nodes[h.rng.IntN(len(nodes))], level)
		}
	}
}

func (h *history) endpoint() string { return endpointNames[h.rng.IntN(len(endpointNames))] }

func (h *history) lead(finals []func(*Table)) {
	steps := slices.Clone(finals)
	for _, undo := range h.undos {
		steps = append(steps, func(*Table) { undo(); undo() })
	}
	h.rng.Shuffle(len(steps), func(i, j int) { steps[i], steps[j] = steps[j], steps[i] })
	for _, step := range steps {
		step(h.table)
	}
}

func finalState(rng *rand.Rand, nodes []*Node) (finals []func(*Table)) {
	for i := range rng.IntN(20) {
		endpoint, l := endpointNames[rng.IntN(len(endpointNames))], NewLocal(named(fmt.Sprint("local", i)))
		finals = append(finals, func(t *Table) { t.Add(endpoint, l) })
	}
	for _, n := range nodes {
		level := make(map[string]int)
		for range rng.IntN(6) {
			level[endpointNames[rng.IntN(len(endpointNames))]] = 1 + rng.IntN(3)
		}
		finals = append(finals, func(t *Table) { t.SetNode(n, level) })
	}
	return finals
}

// TestAnyOrderEndsEqual: tables that were led to the same state, over whatever
// came before and in whatever order, are equal.
func TestAnyOrderEndsEqual(t *testing.T) {
	nodes := []*Node{newNode("node1"), newNode("node2"), newNode("node3")}
	for seed := range uint64(300) {
		rng := rand.New(rand.NewPCG(seed, 1))
		finals := finalState(rng, nodes)
		var want string
		for i := range 3 {
			h := history{table: NewTable(), rng: rng}
			h.noise(nodes, rng.IntN(60))
			h.lead(finals)
			got := dump(t, h.table)
			if i > 0 && got != want {
				t.Fatalf("seed %d: one history ends in\n%s\nanother in\n%s", seed, want, got)
			}
			want = got
		}
	}
}

// TestConcurrentChanges: writers and readers at once, on the same endpoints.
func TestConcurrentChanges(t *testing.T) {
	table := NewTable()
	var writers, readers sync.WaitGroup
	stop := make(chan struct{})
	for range 2 {
		readers.Go(func() {
			for i := uint64(0); ; i++ {
				select {
				case <-stop:
					return
				default:
				}
				if target := table.Lookup(endpointNames[i%6]).Pick(noon, i, nil); target.OK() {
					target.Begin()
					target.End()
				}
				for range table.Endpoints() {
				}
			}
		})
	}
	for w := range uint64(4) {
		writers.Go(func() {
			h := history{table: table, rng: rand.New(rand.NewPCG(w, 9))}
			nodes := []*Node{newNode(fmt.Sprint("node", w)), newNode(fmt.Sprint("node-too", w))}
			h.noise(nodes, 2000)
			for _, undo := range h.undos {
				undo()
			}
			for _, n := range nodes {
				table.SetNode(n, nil)
			}
		})
	}
	writers.Wait()
	close(stop)
	readers.Wait()
	if got := dump(t, table); got != "" {
		t.Errorf("everything was taken back, and there is\n%s", got)
	}
}

// TestConcurrentLevels: two levels of one node at once end in one of them.
func TestConcurrentLevels(t *testing.T) {
	for range 50 {
		table, node := NewTable(), newNode("n")
		var wg sync.WaitGroup
		for i := range 4 {
			wg.Go(func() { table.SetNode(node, map[string]int{fmt.Sprint(i): 1}) })
			wg.Go(func() { table.SetNode(node, nil) })
		}
		wg.Wait()
		if got := dump(t, table); strings.Contains(got, "\n") {
			t.Fatalf("a mixture: %s", got)
		}
	}
}

func TestConsistencyCheckFinds(t *testing.T) {
	node := newNode("n")
	breaks := map[string]func(*Table){
		"a wrong total":        func(t *Table) { t.endpoints.Add(1) },
		"an entry of nobody":   func(t *Table) { (*t.shards[t.shardOf("a")].entries.Load())["a"].route.Store(&Route{}) },
		"a level out of step":  func(t *Table) { t.nodes[node]["a"] = 7 },
		"a forgotten node":     func(t *Table) { delete(t.nodes, node) },
		"an endpoint too many": func(t *Table) { t.nodes[node]["zzz"] = 1 },
		"an entry out of place": func(t *Table) {
			t.shards[(t.shardOf("a")+1)%shardCount].entries.Store(t.shards[t.shardOf("a")].entries.Load())
		},
	}
	for name, damage := range breaks {
		table := NewTable()
		table.Add("a", NewLocal(nil))
		table.SetNode(node, map[string]int{"a": 1})
		if err := table.ConsistencyCheck(); err != nil {
			t.Fatalf("before the damage: %v", err)
		}
		if damage(table); table.ConsistencyCheck() == nil {
			t.Errorf("%s was not found", name)
		}
	}
}
