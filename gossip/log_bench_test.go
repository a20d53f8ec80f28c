package gossip

import (
	"bytes"
	"fmt"
	"runtime"
	"testing"

	"piko/router"
)

func fullLog(node, n int) *ownLog {
	l := newOwnLog(fmt.Sprintf("node%d-1", node))
	for i := range n {
		l.set(fmt.Sprintf("n%d-endpoint-%012d", node, i), 100) // 24 bytes
	}
	return l
}

// written is all that a reader at cur is given.
func written(l *ownLog, cur cursor) (all []byte, end cursor) {
	for b, next := l.next(nil, cur); len(b) > 0; b, next = l.next(nil, cur) {
		all, cur = append(all, b...), next
	}
	return all, cur
}

func follow(t testing.TB, table *router.Table, l *ownLog) *remoteCopy {
	c := newRemoteCopy(l.epoch, nodeLevel{table, router.NewNode(l.epoch, nil)})
	b, _ := written(l, cursor{})
	if err := feed(c, b); err != nil {
		t.Fatal(err)
	}
	return c
}

// BenchmarkSnapshot reads a snapshot of 100,000 endpoints into a new table.
func BenchmarkSnapshot(b *testing.B) {
	l := fullLog(0, 100_000)
	all, _ := written(l, cursor{})
	b.SetBytes(int64(len(all)))
	b.ReportAllocs()
	for b.Loop() {
		c := newRemoteCopy(l.epoch, nodeLevel{router.NewTable(), router.NewNode("n", nil)})
		if err := feed(c, all); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(all))/100_000, "B/entry-on-the-wire")
}

// BenchmarkChanges writes, reads and applies 1,000 changes in one batch, to a
// table of 100,000 endpoints.
func BenchmarkChanges(b *testing.B) {
	l, table := fullLog(0, 100_000), router.NewTable()
	c := follow(b, table, l)
	cur := l.cursorAt(c.position())
	names := make([]string, 1000)
	for i := range names {
		names[i] = fmt.Sprintf("flap-endpoint-%010d", i)
	}
	b.ReportAllocs()
	var all []byte
	for round := 1; b.Loop(); round++ {
		for _, name := range names {
			l.set(name, round%2*100)
		}
		all, cur = written(l, cur)
		if err := feed(c, all); err != nil {
			b.Fatal(err)
		}
	}
	b.ReportMetric(float64(len(all))/1000, "B/change-on-the-wire")
}

// BenchmarkRemoteMemory is what it costs to know a million endpoints of 10 nodes,
// in the table and the copies: 200 bytes for each at most, of names of 24.
func BenchmarkRemoteMemory(b *testing.B) {
	const nodes, each = 10, 100_000
	snapshots := make([][]byte, nodes)
	logs := make([]string, nodes)
	for i := range nodes {
		l := fullLog(i, each)
		logs[i] = l.epoch
		snapshots[i], _ = written(l, cursor{})
	}
	var per float64
	for b.Loop() {
		before := heap()
		table := router.NewTable()
		var copies []*remoteCopy
		for i, all := range snapshots {
			c := newRemoteCopy(logs[i], nodeLevel{table, router.NewNode(logs[i], nil)})
			if err := feed(c, all); err != nil {
				b.Fatal(err)
			}
			copies = append(copies, c)
		}
		per = float64(heap()-before) / nodes / each
		runtime.KeepAlive(copies)
		runtime.KeepAlive(table)
	}
	b.ReportMetric(per, "B/endpoint")
	if per > 200 {
		b.Errorf("an endpoint takes %.0f bytes, want at most 200", per)
	}
}

func heap() uint64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return m.HeapAlloc
}

// TestLookupAllocatesNothing: what a request does costs nothing more when a node
// has just told of changes.
func TestLookupAllocatesNothing(t *testing.T) {
	l, table := fullLog(0, 1000), router.NewTable()
	follow(t, table, l)
	name := fmt.Sprintf("n0-endpoint-%012d", 7)
	if n := testing.AllocsPerRun(100, func() {
		if table.Lookup(name) == nil {
			t.Error("missing")
		}
	}); n != 0 {
		t.Errorf("a lookup allocates %v times", n)
	}
}

// TestTellingAgainCostsLittle: a frame that came before is dropped whole.
func TestTellingAgainCostsLittle(t *testing.T) {
	l, level := newOwnLog("n-1"), memory{}
	c := newRemoteCopy("n-1", level)
	catchUp(t, l, c)
	cur := l.cursorAt(c.position())
	l.set("e", 100)
	b, _ := l.next(nil, cur)
	if err := feed(c, b); err != nil {
		t.Fatal(err)
	}
	level["e"] = 200 // as if newer
	if err := feed(c, bytes.Clone(b)); err != nil || level["e"] != 200 {
		t.Errorf("an old frame was applied: %v, %v", level, err)
	}
}
