package client

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

var planStart = time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)

// at describes a holding: at a node of a cluster of so many nodes. Later ones
// in a list are newer, and so is their word.
func at(node string, nodes int, urls ...int) holding {
	if len(urls) == 0 {
		urls = []int{0}
	}
	return holding{place: placeOf(node, urls[0]), urls: urls, nodes: nodes}
}

func (h holding) askedAfter(d time.Duration) holding {
	h.asked = planStart.Add(time.Hour + d)
	return h
}

// isLate describes one that was asked long ago.
func (h holding) isLate() holding {
	h = h.askedAfter(0)
	h.late = true
	return h
}

// list dates the holdings.
func list(held ...holding) []holding {
	for i := range held {
		held[i].since = planStart.Add(time.Duration(i) * time.Second)
		held[i].said = uint64(i + 1)
	}
	return held
}

func TestDecide(t *testing.T) {
	for _, c := range []struct {
		name              string
		connections, urls int
		held              []holding
		want              plan
	}{
		{"nothing yet", 2, 1, nil, plan{want: 1, short: 1, bare: []int{0}}},
		{"nothing yet, three URLs", 2, 3, nil, plan{want: 2, short: 2}},
		{"one of three nodes", 2, 1, list(at("a", 3)), plan{want: 2, short: 1}},
		{"enough", 2, 1, list(at("a", 3), at("b", 3)), plan{want: 2}},
		{"one node is all there is", 2, 1, list(at("a", 1)), plan{want: 1}},
		{"three wanted, two nodes", 3, 1, list(at("a", 2), at("b", 2)), plan{want: 2}},
		{"one wanted", 1, 1, list(at("a", 3)), plan{want: 1}},
		{"the newest word counts: grown", 2, 1, list(at("a", 1), at("b", 2)), plan{want: 2}},
		{"the newest word counts: shrunk, and the one that knows nothing of it goes", 2, 1, list(at("a", 2), at("b", 1)), plan{want: 1, surplus: []int{0}}},
		{"shrunk: all know it, the newer one goes", 2, 1, list(at("a", 1), at("b", 1)), plan{want: 1, surplus: []int{1}}},

		{"asked: replaced first", 2, 1, list(at("a", 3).askedAfter(0), at("b", 3)), plan{want: 2, short: 1}},
		{"asked, and replaced", 2, 1, list(at("a", 3).askedAfter(0), at("b", 3), at("c", 3)), plan{want: 2, leave: []int{0}}},
		{"asked, and the other one is all there can be", 2, 1, list(at("a", 1).askedAfter(0), at("b", 1)), plan{want: 1, leave: []int{0}}},
		{"asked, the only one", 2, 1, list(at("a", 1).askedAfter(0)), plan{want: 1, short: 1}},
		{"both asked", 2, 1, list(at("a", 1).askedAfter(0), at("b", 1).askedAfter(1)), plan{want: 1, short: 1}},
		{"both asked, one replaced: the first goes", 2, 1, list(at("a", 3).askedAfter(1), at("b", 3).askedAfter(0), at("c", 3)), plan{want: 2, short: 1, leave: []int{1}}},
		{"both asked, both replaced", 2, 1, list(at("a", 4).askedAfter(1), at("b", 4).askedAfter(0), at("c", 4), at("d", 4)), plan{want: 2, leave: []int{1, 0}}},

		{"asked, not replaced in time", 2, 1, list(at("a", 3).isLate(), at("b", 3)), plan{want: 2, short: 1, leave: []int{0}}},
		{"asked, not replaced in time, the only one", 2, 1, list(at("a", 3).isLate()), plan{want: 2, short: 2}},
		{"both asked, none replaced in time", 2, 1, list(at("a", 3).isLate(), at("b", 3).isLate()), plan{want: 2, short: 2}},
		{"asked, and the other one just now", 2, 1, list(at("a", 3).isLate(), at("b", 3).askedAfter(1)), plan{want: 2, short: 2}},
		{"both asked, one is late and one is there", 3, 1, list(at("a", 4).isLate(), at("b", 4).askedAfter(1), at("c", 4)), plan{want: 3, short: 2, leave: []int{0}}},

		{"two old servers", 2, 2, list(at("", 1, 0), at("", 1, 1)), plan{want: 2}},
		{"one old server of two", 2, 2, list(at("", 1, 1)), plan{want: 2, short: 1, bare: []int{0}}},
		{"from an old server to a cluster: one tunnel each", 2, 2, list(at("", 1, 0), at("a", 3, 1)), plan{want: 2}},
		{"two URLs to one cluster, two tunnels by the one", 2, 2, list(at("a", 3, 0), at("b", 3, 0)), plan{want: 2, bare: []int{1}}},
		{"two URLs are known to lead to one node", 2, 2, list(at("a", 1, 0, 1)), plan{want: 1}},
		{"two URLs are known to lead to one cluster", 3, 2, list(at("a", 2, 0, 1), at("b", 2, 1)), plan{want: 2}},
		{"two URLs to clusters that nothing connects", 3, 2, list(at("a", 2, 0), at("b", 2, 1)), plan{want: 3, short: 1}},
		{"too many, and one is the only one of its URL", 2, 2, list(at("a", 3, 0), at("b", 3, 0), at("c", 3, 1)), plan{want: 2, surplus: []int{1}}},
		{"too many, and one of the clusters has shrunk", 4, 2, list(at("a", 1, 0), at("b", 1, 0), at("c", 1, 1)), plan{want: 2, surplus: []int{1}}},
		{"more URLs than connections", 2, 3, list(at("a", 3, 0), at("b", 3, 1)), plan{want: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			got := decide(c.connections, c.urls, c.held)
			if fmt.Sprint(got) != fmt.Sprint(c.want) {
				t.Errorf("plan %+v, want %+v", got, c.want)
			}
		})
	}
}

func TestJudge(t *testing.T) {
	for _, c := range []struct {
		name              string
		connections, urls int
		all               []holding // the last is the one to judge
		want              verdict
		at                int
	}{
		{"the first", 2, 1, list(at("a", 3)), keep, -1},
		{"another node", 2, 1, list(at("a", 3), at("b", 3)), keep, -1},
		{"the same node", 2, 1, list(at("b", 3), at("a", 3), at("a", 3)), duplicate, 1},
		{"of no use any more", 2, 1, list(at("a", 2), at("b", 2), at("c", 2)), needless, -1},
		{"an old server is the same by its URL", 2, 1, list(at("", 1), at("", 1)), duplicate, 0},
		{"an old server by another URL", 2, 2, list(at("", 1, 0), at("", 1, 1)), keep, -1},
		{"the node that is to be left", 2, 1, list(at("a", 1).askedAfter(0), at("a", 1)), duplicate, 0},
		{"the node that is to be left, and there is another", 2, 1, list(at("a", 3).askedAfter(0), at("b", 3), at("a", 3)), duplicate, 0},
		{"the node that is to be left, and there is no other", 2, 1, list(at("a", 2).askedAfter(0), at("b", 2), at("a", 2)), keep, -1},
		{"the same, taken back already", 2, 1, list(at("a", 2).askedAfter(0), at("b", 2), at("a", 2), at("a", 2)), duplicate, 2},
		{"the node that is to be left, and the other one too", 2, 1, list(at("a", 1).askedAfter(0), at("b", 1).askedAfter(0), at("a", 1)), duplicate, 0},
		{"a replacement", 2, 1, list(at("a", 2).askedAfter(0), at("b", 2), at("c", 2)), keep, -1},
		{"the first by its URL", 2, 2, list(at("a", 3, 0), at("b", 3, 0), at("c", 3, 1)), keep, -1},
		{"the first by its URL of too many", 2, 3, list(at("a", 3, 0), at("b", 3, 1), at("c", 3, 2)), needless, -1},
	} {
		t.Run(c.name, func(t *testing.T) {
			last := len(c.all) - 1
			v, i := judge(c.connections, c.urls, c.all[:last], c.all[last])
			if v != c.want || i != c.at {
				t.Errorf("verdict %v at %d, want %v at %d", v, i, c.want, c.at)
			}
		})
	}
}

func TestExcluded(t *testing.T) {
	for _, c := range []struct {
		name string
		urls int
		held []holding
		url  int
		want []string
	}{
		{"nothing yet", 1, nil, 0, nil},
		{"where it is", 1, list(at("a", 3), at("b", 3)), 0, []string{"a", "b"}},
		{"the node that is to be left", 1, list(at("a", 3).askedAfter(0), at("b", 3)), 0, []string{"a", "b"}},
		{"the only node, that is to be left", 1, list(at("a", 1).askedAfter(0)), 0, []string{"a"}},
		{"not the node that is to be left if there is no other", 1, list(at("a", 2).askedAfter(0), at("b", 2)), 0, []string{"b"}},
		{"unless it has taken us back", 1, list(at("a", 2).askedAfter(0), at("b", 2), at("a", 2)), 0, []string{"a", "b"}},
		{"by a URL of which it is not known that there is no other", 2, list(at("a", 2, 0).askedAfter(0), at("b", 2, 0)), 1, []string{"a", "b"}},
		{"by a URL of which it is", 2, list(at("a", 2, 0).askedAfter(0), at("b", 2, 0, 1)), 1, []string{"b"}},
		{"no server that has no name", 2, list(at("", 1, 0), at("a", 3, 1)), 0, []string{"a"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := excluded(2, c.urls, c.held, c.url); !slices.Equal(got, c.want) {
				t.Errorf("%q, want %q", got, c.want)
			}
		})
	}
}

// Whatever a listener holds, a plan leaves nothing that nobody replaces.
func TestPlansOfAnything(t *testing.T) {
	for seed := range uint64(20000) {
		r := rand.New(rand.NewPCG(seed, 0))
		connections, urls := 1+r.IntN(4), 1+r.IntN(3)
		var held []holding
		for range r.IntN(7) {
			h := at([]string{"", "a", "b", "c"}[r.IntN(4)], r.IntN(5), r.Perm(urls)[:1+r.IntN(urls)]...)
			if r.IntN(2) == 0 {
				h = h.askedAfter(time.Duration(r.IntN(3)))
				h.late = r.IntN(4) == 0
			}
			held = append(held, h)
		}
		list(held...)
		p := decide(connections, urls, held)
		good := 0
		for _, h := range held {
			if !h.isAsked() {
				good++
			}
		}
		gone, late := map[int]bool{}, 0
		for _, i := range append(slices.Clone(p.leave), p.surplus...) {
			if gone[i] {
				t.Fatalf("seed %d: %d is left twice: %+v", seed, i, p)
			}
			gone[i] = true
			if held[i].late {
				late++
			}
		}
		switch rest := len(held) - len(gone); {
		case p.want < 1 || p.want > connections:
			t.Fatalf("seed %d: %d wanted of %d", seed, p.want, connections)
		case len(held) > 0 && rest < 1, len(gone) > 0 && rest < p.want && len(p.leave) > good+late, late > 0 && good == 0:
			t.Fatalf("seed %d: %d stay of %d, %d good: %+v", seed, rest, len(held), good, p)
		case p.short != max(p.want-good, 0):
			t.Fatalf("seed %d: %d good: %+v", seed, good, p)
		}
		if len(held) > 0 {
			judge(connections, urls, held[1:], held[0])
		}
	}
}

func TestPickURL(t *testing.T) {
	now := planStart
	ago := func(d time.Duration) time.Time { return now.Add(-d * time.Second) }
	for _, c := range []struct {
		name    string
		urls    []urlState
		allowed []int
		want    int
	}{
		{"one", []urlState{{}}, []int{0}, 0},
		{"the first of those that were not tried", []urlState{{}, {}}, []int{0, 1}, 0},
		{"one without a tunnel", []urlState{{tunnels: 1}, {tried: ago(1)}}, []int{0, 1}, 1},
		{"in turn", []urlState{{tried: ago(1), failed: true}, {tried: ago(2), failed: true}}, []int{0, 1}, 1},
		{"one that failed is as good as one with a tunnel", []urlState{{tunnels: 1, tried: ago(5)}, {failed: true, tried: ago(1)}}, []int{0, 1}, 0},
		{"and it has its turn", []urlState{{tunnels: 1, tried: ago(1)}, {failed: true, tried: ago(5)}}, []int{0, 1}, 1},
		{"and has no more than that", []urlState{{tunnels: 3, failed: true, tried: ago(5)}, {failed: true, tried: ago(1)}}, []int{0, 1}, 0},
		{"one that is to wait does", []urlState{{notBefore: now.Add(1)}, {tunnels: 3}}, []int{0, 1}, 1},
		{"all are to wait", []urlState{{notBefore: now.Add(1)}}, []int{0}, -1},
		{"only what is allowed", []urlState{{}, {tunnels: 1}}, []int{1}, 1},
	} {
		if got := pickURL(c.urls, c.allowed, now); got != c.want {
			t.Errorf("%s: URL %d, want %d", c.name, got, c.want)
		}
	}
}

func TestShare(t *testing.T) {
	for _, c := range []struct{ weight, n, want int }{
		{100, 0, 100}, {100, 1, 100}, {100, 2, 50}, {100, 3, 33}, {50, 2, 25}, {0, 1, 0}, {0, 3, 0}, {1, 2, 1},
	} {
		if got := share(c.weight, c.n); got != c.want {
			t.Errorf("%d among %d: %d, want %d", c.weight, c.n, got, c.want)
		}
	}
}

func TestSearchPauses(t *testing.T) {
	const most = 0.999999
	for i, want := range []time.Duration{
		100 * time.Millisecond, 200 * time.Millisecond, 400 * time.Millisecond, 800 * time.Millisecond,
		1600 * time.Millisecond, 3200 * time.Millisecond, 6400 * time.Millisecond, longPause, longPause,
	} {
		if got := searchPause(i, most); (got - want).Abs() > 20*time.Microsecond {
			t.Errorf("pause %d is %v, want %v", i, got, want)
		}
	}
	if got := searchPause(1<<40, most); got > longPause {
		t.Errorf("at last it is %v", got)
	}
}
