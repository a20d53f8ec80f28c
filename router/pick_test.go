package router

import (
	"context"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
	"unsafe"
)

// named is an upstream that carries nothing.
type named string

func (named) RoundTrip(*http.Request) (*http.Response, error) { panic("not called") }
func (named) Open(context.Context) (net.Conn, error)          { panic("not called") }

func newNode(id string) *Node {
	return NewNode(id, func(endpoint string) Upstream { return named(id + "/" + endpoint) })
}

var noon = time.Date(2026, 2, 3, 12, 0, 0, 0, time.UTC)

// candidates builds a route from words: a word that starts with "node" is a
// remote node, any other a local candidate; behind the name come its states,
// such as "a:draining", "b:weight=50", "node1:x10:dead", "c:busy=3".
func candidates(words string) (route *Route, byName map[string]Target) {
	route, byName = &Route{}, make(map[string]Target)
	for word := range strings.FieldsSeq(words) {
		parts := strings.Split(word, ":")
		name, target := parts[0], Target{}
		if strings.HasPrefix(name, "node") {
			r := Remote{Node: newNode(name), Weight: maxWeight, state: new(remoteState)}
			for _, state := range parts[1:] {
				setNode(&r, state)
			}
			route.Remotes = append(route.Remotes, r)
			target = r.target()
		} else {
			target.Local = NewLocal(named(name))
			for _, state := range parts[1:] {
				setLocal(target.Local, state)
			}
			route.Locals = append(route.Locals, target.Local)
		}
		byName[name] = target
	}
	return route, byName
}

func setLocal(l *Local, state string) {
	var n int
	switch {
	case scan(state, "weight=%d", &n):
		l.SetWeight(n)
	case scan(state, "busy=%d", &n):
		for range n {
			l.Begin()
		}
	case state == "draining":
		l.SetDraining(true)
	case state == "ejected":
		l.Failed(noon)
	default:
		panic(state)
	}
}

func setNode(r *Remote, state string) {
	var n int
	switch {
	case scan(state, "x%d", &n):
		r.Weight = n * maxWeight
	case scan(state, "busy=%d", &n):
		for range n {
			r.target().Begin()
		}
	case state == "draining":
		r.Node.SetDraining(true)
	case state == "dead":
		r.Node.SetAlive(false)
	case state == "ejected":
		r.Node.Failed(noon)
	case state == "failing":
		r.target().Failed(noon)
	case state == "unhealthy":
		r.Weight = unhealthyWeight
	default:
		panic(state)
	}
}

func scan(s, format string, n *int) bool {
	_, err := fmt.Sscanf(s, format, n)
	return err == nil
}

func nameOf(byName map[string]Target, t Target) string {
	for name, other := range byName {
		if other.Local == t.Local && other.Node == t.Node {
			return name
		}
	}
	return "none"
}

// TestPick is the decision table: which candidates can be chosen at all.
func TestPick(t *testing.T) {
	tests := []struct {
		name       string
		candidates string
		tried      string
		want       string // all that are ever chosen
	}{
		{"nobody", "", "", "none"},
		{"the only local", "a", "", "a"},
		{"the only remote", "node1", "", "node1"},
		{"idle locals share", "a b c", "", "a b c"},
		{"the less loaded of two", "a:busy=1 b", "", "b"},
		{"an idle local wins", "a node1 node2:x10", "", "a"},
		{"a local with one request more still wins", "a:busy=1 node1:x10", "", "a"},
		{"a clearly busier local does not", "a:busy=2 node1", "", "node1"},
		{"a remote's load counts by its upstreams", "a:busy=3 node1:x10:busy=19", "", "node1"},
		{"... and may be higher than the local's", "a:busy=3 node1:x10:busy=20", "", "a"},
		{"a light local has less room", "a:weight=50:busy=1 node1", "", "node1"},
		{"draining last", "a:draining b:busy=9", "", "b"},
		{"ejected last", "a:ejected b:busy=9", "", "b"},
		{"weight 0 last", "a:weight=0 b:busy=9", "", "b"},
		{"a healthy remote before a draining local", "a:draining node1:busy=9", "", "node1"},
		{"draining before unhealthy", "a:draining b:weight=0", "", "a"},
		{"unhealthy before ejected", "a:weight=0 b:ejected", "", "a"},
		{"a draining node before an ejected local", "a:ejected node1:draining", "", "node1"},
		{"an ejected node last", "node1:ejected node2:busy=9", "", "node2"},
		{"a node with a failing service last", "node1:failing node2:busy=9", "", "node2"},
		{"a node without a healthy upstream last", "node1:unhealthy node2:busy=9", "", "node2"},
		{"a healthy local before such a node", "a:busy=9 node1:unhealthy", "", "a"},
		{"a healthy node before an unhealthy local", "a:weight=0 node1:busy=9", "", "node1"},
		{"all unhealthy anywhere still has one", "a:weight=0 node1:unhealthy", "", "a"},
		{"all ejected still has one", "a:ejected b:ejected node1:ejected", "", "a b"},
		{"all draining still has one", "a:draining node1:draining", "", "a"},
		{"all unhealthy still has one", "a:weight=0 b:weight=0", "", "a b"},
		{"draining and ejected is ejected", "a:draining:ejected b:weight=0", "", "b"},
		{"dead nodes are out", "node1:dead node2:draining", "", "node2"},
		{"dead nodes are out even if nothing else is left", "node1:dead", "", "none"},
		{"tried ones are out", "a b node1", "a node1", "b"},
		{"tried ones are out even if nothing else is left", "a node1", "a node1", "none"},
		{"all healthy ones tried", "a b:ejected", "a", "b"},
		{"weights near nothing are found", "a:weight=1 b:weight=1", "", "a b"},
		{"the last healthy one of many", many("a%d:ejected", 50) + " b", "", "b"},
		{"the last light one of many", many("a%d:draining", 50) + " b:weight=1", "", "b"},
		{"the last untried one of few", many("a%d", 4) + " b", "a0 a1 a2 a3", "b"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			route, byName := candidates(tt.candidates)
			var tried Tried
			for name := range strings.FieldsSeq(tt.tried) {
				tried.Add(byName[name])
			}
			rng := rand.New(rand.NewPCG(1, 2))
			seen := make(map[string]bool)
			for range 500 {
				seen[nameOf(byName, route.Pick(noon, rng.Uint64(), &tried))] = true
			}
			for name := range strings.FieldsSeq(tt.want) {
				if !seen[name] {
					t.Errorf("%s was never chosen", name)
				}
				delete(seen, name)
			}
			for name := range seen {
				t.Errorf("%s was chosen", name)
			}
		})
	}
}

func many(format string, n int) string {
	var words []string
	for i := range n {
		words = append(words, fmt.Sprintf(format, i))
	}
	return strings.Join(words, " ")
}

func TestPickNeverTwice(t *testing.T) {
	for seed := range uint64(200) {
		route, byName := candidates("a b:ejected c:draining node1 node2:ejected node3:dead")
		rng := rand.New(rand.NewPCG(seed, 7))
		var tried Tried
		for target := route.Pick(noon, rng.Uint64(), &tried); target.OK(); target = route.Pick(noon, rng.Uint64(), &tried) {
			if tried.Has(target) {
				t.Fatalf("seed %d: %s twice", seed, nameOf(byName, target))
			}
			tried.Add(target)
		}
		if tried.Len() != 5 {
			t.Errorf("seed %d: %d candidates were tried, want all 5", seed, tried.Len())
		}
	}
}

func TestTried(t *testing.T) {
	route, byName := candidates(many("a%d", maxTried+1))
	var tried Tried
	if tried.Has(Target{}) || tried.Has(byName["a0"]) {
		t.Error("the empty set has something")
	}
	tried.Add(Target{})
	tried.Add(byName["a0"])
	tried.Add(byName["a0"])
	if tried.Len() != 1 || !tried.Has(byName["a0"]) {
		t.Errorf("after adding one twice: %d", tried.Len())
	}
	node := Target{Node: newNode("node1")}
	tried.Add(node)
	tried.Remove(byName["a0"])
	tried.Remove(byName["a1"]) // which is not in it
	if tried.Len() != 1 || tried.Has(byName["a0"]) || !tried.Has(node) {
		t.Errorf("after removing one of two: %d", tried.Len())
	}
	tried.Remove(node)
	for _, l := range route.Locals {
		tried.Add(Target{Local: l})
	}
	if tried.Len() != maxTried {
		t.Errorf("got %d, the bound is %d", tried.Len(), maxTried)
	}
	if target := route.Pick(noon, 1, &tried); target.OK() {
		t.Error("a full set could not remember another target, and one was picked")
	}
}

func TestPickIsDeterministic(t *testing.T) {
	route, byName := candidates("a b c d node1 node2")
	for rnd := range uint64(50) {
		first := route.Pick(noon, rnd, nil)
		if again := route.Pick(noon, rnd, nil); again != first {
			t.Errorf("%d: %s, then %s", rnd, nameOf(byName, first), nameOf(byName, again))
		}
	}
}

func TestTarget(t *testing.T) {
	table := NewTable()
	local, node := NewLocal(named("here")), newNode("there")
	table.Add("e", local)
	table.SetNode(node, map[string]int{"e": 2, "other": 1})
	route := table.Lookup("e")
	for _, target := range []Target{{Local: local}, route.Remotes[0].target()} {
		target.Begin()
		if target.counter().inFlight() != 1 {
			t.Error("Begin counted nothing")
		}
		target.Failed(noon)
		p := picker{now: noon}
		if target.Local != nil && p.localRank(local) != ejected || target.Node != nil && p.remoteRank(route.Remotes[0]) != ejected {
			t.Error("Failed ejected nobody")
		}
		target.Succeeded()
		if target.Local != nil && p.localRank(local) != healthy || target.Node != nil && p.remoteRank(route.Remotes[0]) != healthy {
			t.Error("Succeeded healed nobody")
		}
		if u, want := target.Upstream("e"), map[bool]named{true: "here", false: "there/e"}[target.Local != nil]; u != want {
			t.Errorf("upstream: got %v, want %v", u, want)
		}
	}
	if n := table.Lookup("other").Remotes[0].target().counter().inFlight(); n != 0 {
		t.Error("a request to one endpoint counts as load of another one on that node")
	}
	table.SetNode(node, map[string]int{"e": 5})
	if n := table.Lookup("e").Remotes[0].target().counter().inFlight(); n != 1 {
		t.Error("a new count forgot the requests in flight")
	}
}

// TestCacheLines: requests on two candidates must not share a line.
func TestCacheLines(t *testing.T) {
	for name, size := range map[string]uintptr{
		"Local": unsafe.Sizeof(Local{}), "Node": unsafe.Sizeof(Node{}),
	} {
		if size != 64 {
			t.Errorf("%s has %d bytes, want 64", name, size)
		}
	}
}

func TestNoAllocations(t *testing.T) {
	table := NewTable()
	for i := range 20 {
		table.Add("endpoint", NewLocal(named(fmt.Sprint(i))))
	}
	table.SetNode(newNode("node"), map[string]int{"endpoint": 3})
	var rnd uint64
	got := testing.AllocsPerRun(1000, func() {
		rnd++
		var tried Tried
		route := table.Lookup("endpoint")
		for range 3 {
			target := route.Pick(noon, rnd, &tried)
			target.Begin()
			target.Failed(noon)
			target.Succeeded()
			target.End()
			tried.Add(target)
		}
		table.Lookup("nobody").Pick(noon, rnd, &tried)
	})
	if got != 0 {
		t.Errorf("%v allocations", got)
	}
}
