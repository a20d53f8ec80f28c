package router

import (
	"fmt"
	"maps"
	"slices"
	"strings"
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
			words = append(words, fmt.Sprintf("%s*%d", r.Node.ID(), r.Weight))
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

func TestConsistencyCheckFinds(t *testing.T) {
	node := newNode("n")
	breaks := map[string]func(*Table){
		"a wrong total":       func(t *Table) { t.endpoints.Add(1) },
		"an entry of nobody":  func(t *Table) { (*t.shards[t.shardOf("a")].entries.Load())["a"].route.Store(&Route{}) },
		"a count out of step": func(t *Table) { t.nodes[node]++ },
		"a forgotten node":    func(t *Table) { delete(t.nodes, node) },
		"a node of no weight": func(t *Table) {
			(*t.shards[t.shardOf("a")].entries.Load())["a"].route.Load().Remotes[0].Weight = 0
		},
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
