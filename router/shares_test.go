package router

import (
	"math/rand/v2"
	"slices"
	"testing"
)

// simulate keeps a number of requests in flight that end in random order, and
// returns each candidate's share of all.
func simulate(route *Route, byName map[string]Target, inFlight int) map[string]float64 {
	const requests = 40_000
	rng := rand.New(rand.NewPCG(uint64(inFlight), 3))
	share := make(map[string]float64)
	flying := make([]Target, 0, inFlight)
	for range requests {
		if len(flying) == inFlight {
			i := rng.IntN(len(flying))
			flying[i].End()
			flying = slices.Delete(flying, i, i+1)
		}
		target := route.Pick(noon, rng.Uint64(), nil)
		target.Begin()
		flying = append(flying, target)
		share[nameOf(byName, target)] += 1.0 / requests
	}
	return share
}

func TestPickShares(t *testing.T) {
	tests := []struct {
		name       string
		candidates string
		inFlight   int
		who        string
		min, max   float64
	}{
		{"equal locals, idle", "a b", 1, "a", 0.45, 0.55},
		{"equal locals, loaded", "a b c d", 64, "a", 0.22, 0.28},
		{"one local against ten remotes on one node, loaded", "a node1:x10", 200, "a", 0.08, 0.13},
		{"one local against ten nodes, loaded", "a " + many("node%d", 10), 200, "a", 0.08, 0.13},
		{"one local against ten remotes, one request at a time", "a node1:x10", 1, "a", 1, 1.01},
		{"half the weight, idle", "a b:weight=50", 1, "b", 0.30, 0.37},
		{"half the weight, loaded", "a b:weight=50", 60, "b", 0.30, 0.37},
		{"one tunnel of 100 or two of 50, idle", "a b:weight=50 c:weight=50", 1, "a", 0.45, 0.55},
		{"one tunnel of 100 or two of 50, loaded", "a b:weight=50 c:weight=50", 60, "a", 0.45, 0.55},
		{"nodes by their upstreams, idle", "node1:x3 node2", 1, "node1", 0.70, 0.80},
		{"nodes by their upstreams, loaded", "node1:x3 node2", 100, "node1", 0.70, 0.80},
		{"a light one among many, loaded", many("a%d", 20) + " b:weight=10", 300, "b", 0.002, 0.012},
		{"a light one among many, idle", many("a%d", 20) + " b:weight=10", 1, "b", 0.002, 0.012},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			route, byName := candidates(tt.candidates)
			got := simulate(route, byName, tt.inFlight)
			if share := got[tt.who]; share < tt.min || share > tt.max {
				t.Errorf("%s got %.3f, want %.3f to %.3f; all: %v", tt.who, share, tt.min, tt.max, got)
			}
		})
	}
}

// TestPickSpreadsLoad: two random choices keep the fullest of many close to the
// mean, where one random choice leaves some at three times that.
func TestPickSpreadsLoad(t *testing.T) {
	route, _ := candidates(many("a%d", 1000))
	rng := rand.New(rand.NewPCG(5, 6))
	for range 10_000 {
		route.Pick(noon, rng.Uint64(), nil).Begin()
	}
	for i, l := range route.Locals {
		if n := l.InFlight(); n < 5 || n > 14 {
			t.Errorf("candidate %d has %d in flight, the mean is 10", i, n)
		}
	}
}
