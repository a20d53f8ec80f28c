package router

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
)

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
