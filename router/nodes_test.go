package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestPatchNode(t *testing.T) {
	table, node, other := NewTable(), newNode("node1"), newNode("node2")
	check := func(reason, want string) {
		t.Helper()
		if got := dump(t, table); got != want {
			t.Errorf("%s: got\n%s\nwant\n%s", reason, got, want)
		}
	}
	table.PatchNode(node, map[string]int{"one": 100, "two": 50, "none": 0, "less": -1})
	check("the first word of a node", "one: node1*100\ntwo: node1*50")
	table.SetNode(other, map[string]int{"two": 100})
	table.PatchNode(node, map[string]int{"one": 200, "three": 1})
	check("others stay as they are", "one: node1*200\nthree: node1*1\ntwo: node1*50 node2*100")
	table.PatchNode(node, map[string]int{"two": 0, "never": 0})
	check("0 takes an endpoint out, one that was not there too", "one: node1*200\nthree: node1*1\ntwo: node2*100")
	if got, want := maps.Collect(table.NodeEndpoints(node)), map[string]int{"one": 200, "three": 1}; !maps.Equal(got, want) {
		t.Errorf("the node serves %v, want %v", got, want)
	}
	if got := table.NodeWeight(node, "one"); got != 200 {
		t.Errorf("weight %d, want 200", got)
	}
	table.PatchNode(node, map[string]int{"one": 0, "three": 0})
	check("the last ones", "two: node2*100")
	table.PatchNode(node, map[string]int{"one": 100})
	table.ForgetNode(node)
	check("a node that is forgotten", "two: node2*100")
}

// TestPatchesAndLevelsAgree: whatever the order of patches, a node's level is
// what it would be if it were set at once.
func TestPatchesAndLevelsAgree(t *testing.T) {
	rng := rand.New(rand.NewPCG(1, 2))
	patched, set := NewTable(), NewTable()
	node, level := newNode("node1"), map[string]int{}
	for range 300 {
		changes := map[string]int{}
		for range rng.IntN(20) {
			endpoint, weight := fmt.Sprint("endpoint-", rng.IntN(100)), rng.IntN(3)*50
			changes[endpoint], level[endpoint] = weight, weight
		}
		patched.PatchNode(node, changes)
		set.SetNode(node, level)
		if a, b := dump(t, patched), dump(t, set); a != b {
			t.Fatalf("patched\n%s\nset\n%s", a, b)
		}
	}
}

func TestObserve(t *testing.T) {
	table, a, b := NewTable(), NewLocal(named("a")), NewLocal(named("b"))
	var got []string
	table.Observe(func(endpoint string, weight int) { got = append(got, fmt.Sprint(endpoint, " ", weight)) })
	removeA := table.Add("one", a)
	removeB := table.Add("one", b)
	b.SetWeight(50)
	table.Reweigh("one")
	removeA()
	b.SetWeight(2) // a little is more than nothing, also where it travels in classes
	table.Reweigh("one")
	b.SetWeight(0)
	table.Reweigh("one")
	table.SetNode(newNode("node"), map[string]int{"one": 100}) // which is not ours
	removeB()
	removeB()
	table.Reweigh("nothing")
	want := []string{"one 100", "one 200", "one 150", "one 50", "one 5", "one 1", "one 0", "nothing 0"}
	if !slices.Equal(got, want) {
		t.Errorf("observed %q, want %q", got, want)
	}
}

func TestMissedIsUntilTheNextWordOrTwoSeconds(t *testing.T) {
	table, node := NewTable(), newNode("node")
	table.SetNode(node, map[string]int{"e": 100, "other": 100})
	pick := func(endpoint string, at time.Time) bool { return table.Lookup(endpoint).Pick(at, 1, nil).OK() }
	miss := func() { table.Lookup("e").Pick(noon, 1, nil).Missed(noon) }

	miss()
	if pick("e", noon) || pick("e", noon.Add(1999*time.Millisecond)) {
		t.Error("a node that missed is picked")
	}
	if !pick("other", noon) {
		t.Error("a miss of one endpoint takes the node out for another")
	}
	if !pick("e", noon.Add(2*time.Second)) {
		t.Error("a miss lasts longer than two seconds")
	}
	if !pick("e", noon.Add(-time.Hour)) {
		t.Error("a miss outlasts a clock that is set back")
	}
	miss()
	table.PatchNode(node, map[string]int{"other": 50})
	if pick("e", noon) {
		t.Error("news of another endpoint end a miss")
	}
	table.PatchNode(node, map[string]int{"e": 100})
	if !pick("e", noon) {
		t.Error("the node's next word does not end a miss")
	}
	miss()
	table.SetNode(node, map[string]int{"e": 100})
	if !pick("e", noon) {
		t.Error("the same level again does not end a miss")
	}
	local := NewLocal(named("a"))
	table.Add("e", local)
	Target{Local: local}.Missed(noon) // says nothing
}
