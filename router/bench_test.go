package router

import (
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"
)

var benchSizes = []int{1_000, 100_000, 1_000_000}

func fill(n int) (*Table, []string) {
	table, names := NewTable(), make([]string, n)
	for i := range n {
		names[i] = fmt.Sprintf("endpoint-%015d", i)
	}
	level := make(map[string]int, n)
	for _, name := range names {
		level[name] = 1
	}
	table.SetNode(newNode("node"), level)
	return table, names
}

// BenchmarkLookup takes the names in the order in which they lie in memory, as a
// request has its endpoint at hand; their places in the table are all over it.
func BenchmarkLookup(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, names := fill(n)
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				if table.Lookup(names[i%n]) == nil {
					b.Fatal("missing")
				}
				i++
			}
		})
		b.Run(fmt.Sprint(n, "-parallel"), func(b *testing.B) {
			table, names := fill(n)
			b.ReportAllocs()
			b.ResetTimer()
			b.RunParallel(func(pb *testing.PB) {
				for i := rand.IntN(n); pb.Next(); i++ {
					if table.Lookup(names[i%n]) == nil {
						b.Error("missing")
					}
				}
			})
		})
	}
}

// BenchmarkUpdate opens and closes the only tunnel of an endpoint: two updates.
func BenchmarkUpdate(b *testing.B) {
	for _, n := range benchSizes {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			table, _ := fill(n)
			local := NewLocal(nil)
			names := make([]string, 1024)
			for i := range names {
				names[i] = fmt.Sprint("new-", i)
			}
			b.ReportAllocs()
			i := 0
			for b.Loop() {
				table.Add(names[i%len(names)], local)()
				i++
			}
		})
	}
}

// BenchmarkUpdateKnown opens and closes a second tunnel: no shard is copied.
func BenchmarkUpdateKnown(b *testing.B) {
	table, names := fill(100_000)
	local := NewLocal(nil)
	b.ReportAllocs()
	i := 0
	for b.Loop() {
		table.Add(names[i%len(names)], local)()
		i++
	}
}

// BenchmarkSetNode tells the table of a node with 100,000 endpoints: all of them
// new and then gone, all as before, and one of them changed.
func BenchmarkSetNode(b *testing.B) {
	const n = 100_000
	_, names := fill(n)
	level := make(map[string]int, n)
	for _, name := range names {
		level[name] = 1
	}
	b.Run("new", func(b *testing.B) {
		table, node := NewTable(), newNode("new")
		b.ReportAllocs()
		for b.Loop() {
			table.SetNode(node, level)
			table.SetNode(node, nil)
		}
	})
	b.Run("same", func(b *testing.B) {
		table, node := NewTable(), newNode("new")
		table.SetNode(node, level)
		b.ReportAllocs()
		for b.Loop() {
			table.SetNode(node, level)
		}
	})
	b.Run("one", func(b *testing.B) {
		table, node, next := NewTable(), newNode("new"), maps.Clone(level)
		table.SetNode(node, level)
		b.ReportAllocs()
		for b.Loop() {
			next[names[0]]++
			table.SetNode(node, next)
		}
	})
}

func BenchmarkPick(b *testing.B) {
	for _, words := range []string{"a", "a b", "a b node1 node2", many("a%d", 8), many("a%d", 10_000), many("node%d", 50)} {
		route, _ := candidates(words)
		b.Run(fmt.Sprintf("%d-%d", len(route.Locals), len(route.Remotes)), func(b *testing.B) {
			b.ReportAllocs()
			rnd := uint64(0)
			for b.Loop() {
				rnd++
				if !route.Pick(noon, rnd, nil).OK() {
					b.Fatal("nobody")
				}
			}
		})
	}
}

// BenchmarkRequest is all that a request costs here, from many goroutines at
// once on one endpoint of two tunnels.
func BenchmarkRequest(b *testing.B) {
	table := NewTable()
	table.Add("endpoint", NewLocal(nil))
	table.Add("endpoint", NewLocal(nil))
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			target := table.Lookup("endpoint").Pick(noon, rand.Uint64(), nil)
			target.Begin()
			target.Succeeded()
			target.End()
		}
	})
}
