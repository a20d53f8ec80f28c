package gossip

import (
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/netip"
	"runtime"
	"slices"
	"strconv"
	"testing"
	"time"

	"piko/router"
)

// loadedCluster is nodes on real ports with so many endpoints each.
func loadedCluster(b *testing.B, nodes, endpoints int) (*network, []*testNode) {
	b.Helper()
	n := newNetwork()
	var all []*testNode
	for i := range nodes {
		node := n.startBench(b, i, all)
		for e := range endpoints {
			node.own.set(fmt.Sprintf("endpoint-%d-%09d", i, e), 100)
		}
		all = append(all, node)
	}
	for _, node := range all {
		awaitFull(b, node, nodes-1, endpoints)
	}
	return n, all
}

func awaitFull(b *testing.B, node *testNode, others, endpoints int) {
	b.Helper()
	within(b, 5*time.Minute, "complete", func() error {
		known := 0
		for _, s := range node.Nodes()[1:] {
			if s.Endpoints >= endpoints && s.Synced {
				known++
			}
		}
		if known < others {
			return fmt.Errorf("%s knows %d of %d nodes", node.id, known, others)
		}
		return nil
	})
}

func (n *network) startBench(b *testing.B, i int, join []*testNode) *testNode {
	b.Helper()
	proxy := "10.0.0." + strconv.Itoa(i+1) + ":8000"
	id := fmt.Sprint("n", i)
	ip := netip.MustParseAddr("10.0.0." + strconv.Itoa(i+1))
	opt := Options{NodeID: id, Epoch: NewEpoch(id, time.Now()), BindAddr: "127.0.0.1:0", ProxyAddr: proxy, Table: router.NewTable(), Connect: n.connect(ip)}
	joinAddr(join...)(&opt)
	c, err := New(opt)
	if err != nil {
		b.Fatal(err)
	}
	node := &testNode{Cluster: c, t: b, net: n, id: id, ip: ip, table: opt.Table, done: make(chan struct{}), undo: make(map[string]func()), port: &memTransport{net: n, done: make(chan struct{})}}
	node.run()
	return node
}

func stopAll(nodes []*testNode) {
	for _, n := range nodes {
		n.crash()
	}
}

// BenchmarkJoinMillion has a node join ten with 100,000 endpoints each: until it
// knows all, and what an endpoint costs it in memory.
func BenchmarkJoinMillion(b *testing.B) {
	const others, each = 10, 100_000
	n, all := benchOwners(b, others, each)
	defer func() { stopAll(all) }()
	for b.Loop() {
		before := liveHeap()
		start := time.Now()
		node := n.startBench(b, others, all)
		awaitFull(b, node, others, each)
		b.ReportMetric(time.Since(start).Seconds(), "s/join")
		b.ReportMetric(float64(liveHeap()-before)/(others*each), "B/endpoint")
		node.crash()
	}
}

// benchOwners are nodes with logs that follow nobody: a machine that ran ten whole
// ones would measure those.
func benchOwners(b *testing.B, nodes, endpoints int) (*network, []*testNode) {
	n := newNetwork()
	var all []*testNode
	connect := func(m Member, _ func(bool)) Peer { return nobody{} }
	for i := range nodes {
		id, proxy := fmt.Sprint("n", i), "10.0.0."+strconv.Itoa(i+1)+":8000"
		opt := Options{NodeID: id, Epoch: NewEpoch(id, time.Now()), BindAddr: "127.0.0.1:0", ProxyAddr: proxy, Table: router.NewTable(), Connect: connect}
		joinAddr(all...)(&opt)
		c, err := New(opt)
		if err != nil {
			b.Fatal(err)
		}
		for e := range endpoints {
			c.own.set(fmt.Sprintf("endpoint-%d-%09d", i, e), 100)
		}
		node := &testNode{Cluster: c, t: b, net: n, id: id, ip: netip.MustParseAddr("10.0.0.1"), table: opt.Table, done: make(chan struct{}), undo: make(map[string]func()), port: &memTransport{net: n, done: make(chan struct{})}}
		node.run()
		all = append(all, node)
	}
	return n, all
}

// nobody is a peer that cannot be reached.
type nobody struct{}

func (nobody) Upstream(string) router.Upstream { return nil }
func (nobody) Close()                          {}
func (nobody) Subscribe(ctx context.Context, _ string, _ uint64) (io.ReadCloser, error) {
	return nil, net.ErrClosed
}

func liveHeap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// BenchmarkClusterChanges has 1,000 changes a second in a cluster of ten, and says what
// that costs each node.
func BenchmarkClusterChanges(b *testing.B) {
	const nodes, perSecond = 10, 1000
	_, all := loadedCluster(b, nodes, 1000)
	defer func() { stopAll(all) }()
	for b.Loop() {
		const seconds = 10
		cpu, start := cpuTime(), time.Now()
		bytes := benchBytes.Load()
		tick := time.NewTicker(10 * time.Millisecond)
		i := 0
		for range tick.C {
			for ; i < int(time.Since(start).Seconds()*perSecond); i++ {
				all[i%nodes].own.set(fmt.Sprintf("endpoint-%d-%09d", i%nodes, i/nodes%500), 100*(i/nodes/500%2))
			}
			if time.Since(start) > seconds*time.Second {
				break
			}
		}
		tick.Stop()
		took := time.Since(start).Seconds()
		b.ReportMetric(float64(benchBytes.Load()-bytes)/took/nodes/1000, "KB/s/node")
		b.ReportMetric(100*(cpuTime()-cpu).Seconds()/took/nodes, "%core/node")
	}
}

// BenchmarkReachable measures from the registration of an endpoint until all of
// three nodes route to it.
func BenchmarkReachable(b *testing.B) {
	for _, each := range []int{0, 100_000} {
		b.Run(strconv.Itoa(each), func(b *testing.B) {
			_, all := loadedCluster(b, 3, each)
			defer func() { stopAll(all) }()
			var took []time.Duration
			i := 0
			for b.Loop() {
				<-time.After(time.Duration(rand.IntN(40)) * time.Millisecond) // on any place of the beat of batches
				name := fmt.Sprint("new-", i)
				start := time.Now()
				all[i%3].serve(name)
				for len(all[(i+1)%3].routes(name)) == 0 || len(all[(i+2)%3].routes(name)) == 0 {
					<-time.After(200 * time.Microsecond)
				}
				took = append(took, time.Since(start))
				i++
			}
			slices.Sort(took)
			b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
		})
	}
}
