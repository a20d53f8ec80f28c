package gossip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/router"
)

// startReal starts a node with a real gossip port on a loopback address.
func (n *network) startReal(t *testing.T, id, bind string, change ...func(*Options)) *testNode {
	t.Helper()
	n.mu.Lock()
	number := len(n.nodes) + 1
	n.mu.Unlock()
	ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(number)})
	opt := Options{
		NodeID: id, Epoch: NewEpoch(id, time.Now()), BindAddr: bind, ProxyAddr: netip.AddrPortFrom(ip, 8000).String(),
		Table: router.NewTable(), Connect: n.connect(ip), AbortIfJoinFails: true, JoinTimeout: 2 * time.Second,
	}
	for _, f := range change {
		f(&opt)
	}
	c, err := New(opt)
	if err != nil {
		t.Fatalf("new node: %v", err)
	}
	node := &testNode{Cluster: c, t: t, net: n, id: id, ip: ip, table: opt.Table, done: make(chan struct{}), undo: make(map[string]func()), port: &memTransport{net: n, done: make(chan struct{})}}
	node.run()
	t.Cleanup(node.crash)
	return node
}

func secrets(s ...string) func(*Options) { return func(o *Options) { o.Secrets = s } }

func joinAddr(nodes ...*testNode) func(*Options) {
	return func(o *Options) {
		for _, n := range nodes {
			o.Join = append(o.Join, n.Addr())
		}
	}
}

// TestRealPort is a small cluster over UDP and TCP.
func TestRealPort(t *testing.T) {
	for _, bind := range []string{"127.0.0.1:0", "[::1]:0"} {
		for _, keys := range [][]string{nil, {"a secret that is long enough"}} {
			t.Run(fmt.Sprint(bind, "-", len(keys)), func(t *testing.T) {
				if strings.HasPrefix(bind, "[") && !hasIPv6() {
					t.Skip("no IPv6 here")
				}
				net := newNetwork()
				a := net.startReal(t, "a", bind, secrets(keys...))
				b := net.startReal(t, "b", bind, secrets(keys...), joinAddr(a))
				c := net.startReal(t, "c", bind, secrets(keys...), joinAddr(a, b))
				a.serve("x")
				within(t, 10*time.Second, "together", func() error {
					return errors.Join(equal(a, b, c), b.sees("b:active", "a:active", "c:active"))
				})
				c.Leave(t.Context())
				within(t, 5*time.Second, "it has left", func() error { return a.sees("a:active", "b:active", "c:left") })
				if n := testutil.ToFloat64(a.metrics.packetBytes.inbound); n == 0 {
					t.Error("no bytes are counted")
				}
			})
		}
	}
}

func hasIPv6() bool {
	ln, err := net.Listen("tcp", "[::1]:0")
	if err != nil {
		return false
	}
	ln.Close()
	return true
}

// TestSecrets has nodes with other secrets, without one, and with two.
func TestSecrets(t *testing.T) {
	const old, next = "the old secret of the cluster", "the next secret of the cluster"
	tests := []struct {
		name   string
		theirs []string
		label  string
		joins  bool
	}{
		{"the same", []string{old}, "prod", true},
		{"another", []string{next}, "prod", false},
		{"none", nil, "prod", false},
		{"the same in a cluster of another name", []string{old}, "test", false},
		{"both, the old one first", []string{old, next}, "prod", true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			net := newNetwork()
			var log lockedBuffer
			named := func(name string) func(*Options) { return func(o *Options) { o.Name = name } }
			a := net.startReal(t, "a", "127.0.0.1:0", secrets(old), named("prod"), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
			b := net.startReal(t, "b", "127.0.0.1:0", secrets(tt.theirs...), named(tt.label), joinAddr(a))
			if tt.joins {
				within(t, 5*time.Second, "joined", func() error { return errors.Join(a.sees("a:active", "b:active"), isReady(b)) })
				return
			}
			<-b.done
			if !errors.Is(b.err, errJoin) {
				t.Errorf("it ended with %v", b.err)
			}
			if err := a.sees("a:active"); err != nil {
				t.Error(err)
			}
			if s := log.String(); strings.Contains(s, old) || strings.Contains(s, next) {
				t.Errorf("a secret is in the log: %s", s)
			}
		})
	}
}

// TestRotation replaces the secret of three nodes by starting them again, one after
// the other, twice: none is ever alone.
func TestRotation(t *testing.T) {
	const old, next = "the old secret of the cluster", "the next secret of the cluster"
	network := newNetwork()
	nodes := make([]*testNode, 3)
	for i := range nodes {
		nodes[i] = network.startReal(t, fmt.Sprint("n", i), "127.0.0.1:0", secrets(old), joinAddr(nodes[:i]...))
	}
	for step, keys := range [][]string{{old, next}, {next, old}, {next}} {
		for i, n := range nodes {
			n.leave()
			addr := n.Addr()
			others := append(append([]*testNode(nil), nodes[:i]...), nodes[i+1:]...)
			nodes[i] = network.startReal(t, n.id, addr, secrets(keys...), joinAddr(others...), func(o *Options) { o.ProxyAddr = n.opt.ProxyAddr })
			within(t, 10*time.Second, fmt.Sprint("step ", step, " node ", i), func() error {
				for _, n := range nodes {
					if n.Size() != 3 {
						return n.sees("three nodes")
					}
				}
				return nil
			})
		}
	}
}

// TestGarbageOnPort sends what is no gossip, to a node with a secret: nothing
// happens but counters and few lines.
func TestGarbageOnPort(t *testing.T) {
	network := newNetwork()
	var log lockedBuffer
	a := network.startReal(t, "a", "127.0.0.1:0", secrets("a secret that is long enough"), func(o *Options) { o.Logger = slog.New(slog.NewTextHandler(&log, nil)) })
	udp, err := net.Dial("udp", a.Addr())
	if err != nil {
		t.Fatal(err)
	}
	defer udp.Close()
	for i := range 256 {
		udp.Write(bytes.Repeat([]byte{byte(i)}, i%64+1))
	}
	var idle []net.Conn
	for i := range maxStreamsFrom + 50 {
		conn, err := net.Dial("tcp", a.Addr())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i%2 == 0 {
			conn.Write([]byte{byte(i), 0xff, 0xff, 0xff, 0xff})
		}
		idle = append(idle, conn)
	}
	within(t, 5*time.Second, "connections beyond the limit are dropped", func() error {
		if testutil.ToFloat64(a.metrics.drops.WithLabelValues("connections")) == 0 {
			return errors.New("none is")
		}
		return nil
	})
	for _, c := range idle {
		c.Close()
	}
	b := network.startReal(t, "b", "127.0.0.1:0", secrets("a secret that is long enough"), joinAddr(a), func(o *Options) { o.JoinTimeout = 10 * time.Second })
	within(t, 10*time.Second, "others can still join", func() error { return a.sees("a:active", "b:active") })
	if n := strings.Count(log.String(), "\n"); n > 40 {
		t.Errorf("%d lines of log: %.2000s", n, log.String())
	}
	_ = b
}

// TestMetrics has every name that dashboards know, also with two nodes of one id.
func TestMetrics(t *testing.T) {
	network := newNetwork()
	reg := prometheus.NewPedanticRegistry()
	a := network.startReal(t, "a", "127.0.0.1:0", func(o *Options) { o.Registerer = reg })
	b := network.startReal(t, "b", "127.0.0.1:0", joinAddr(a))
	b.serve("x", "y")
	within(t, 5*time.Second, "together", func() error { return equal(a, b) })
	const want = `
# HELP piko_cluster_nodes Number of nodes in the cluster, by status.
# TYPE piko_cluster_nodes gauge
piko_cluster_nodes{status="active"} 2
piko_cluster_nodes{status="draining"} 0
piko_cluster_nodes{status="left"} 0
piko_cluster_nodes{status="unreachable"} 0
# HELP piko_gossip_entries Number of endpoints of each node.
# TYPE piko_gossip_entries gauge
piko_gossip_entries{deleted="false",internal="false",node_id="a"} 0
piko_gossip_entries{deleted="false",internal="false",node_id="b"} 2
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "piko_cluster_nodes", "piko_gossip_entries"); err != nil {
		t.Error(err)
	}
}

func TestAdvertiseIP(t *testing.T) {
	tests := []struct{ bind, advertise, want string }{
		{":8003", "10.1.2.3", "10.1.2.3"},
		{":8003", "10.1.2.3:9", "10.1.2.3"},
		{":8003", "[2001:db8::1]:9", "2001:db8::1"},
		{":8003", "2001:db8::1", "2001:db8::1"},
		{"192.0.2.1:8003", "", "192.0.2.1"},
		{"[2001:db8::1]:8003", "", "2001:db8::1"},
		{"127.0.0.1:8003", "localhost", "127.0.0.1"},
	}
	for _, tt := range tests {
		if got, err := AdvertiseIP(tt.bind, tt.advertise); got != tt.want || err != nil {
			t.Errorf("%q, %q: got %s, %v", tt.bind, tt.advertise, got, err)
		}
	}
	if got, err := AdvertiseIP(":8003", "0.0.0.0"); err == nil {
		t.Errorf("0.0.0.0 is advertised as %s", got)
	}
	for _, bind := range []string{":8003", "0.0.0.0:8003", "[::]:8003"} {
		got, err := AdvertiseIP(bind, "")
		if ip, _ := netip.ParseAddr(got); err != nil || ip.IsUnspecified() || !ip.IsValid() {
			t.Errorf("%s: got %q, %v", bind, got, err)
		}
	}
}

func TestChooseIP(t *testing.T) {
	tests := []struct {
		addrs string
		only4 bool
		want  string
	}{
		{"127.0.0.1 ::1 fe80::1 192.0.2.1 10.0.0.1 10.0.0.2", false, "10.0.0.1"},
		{"127.0.0.1 2001:db8::1 192.0.2.1", false, "192.0.2.1"},
		{"127.0.0.1 ::1 fe80::1 fd00::1 2001:db8::1", false, "2001:db8::1"},
		{"127.0.0.1 ::1 fe80::1 fd00::1", false, "fd00::1"},
		{"127.0.0.1 ::1 fe80::1 fd00::1", true, "127.0.0.1"},
		{"127.0.0.1 ::1", false, "127.0.0.1"},
		{"fe80::1", false, ""},
	}
	for _, tt := range tests {
		var addrs []netip.Addr
		for a := range strings.FieldsSeq(tt.addrs) {
			addrs = append(addrs, netip.MustParseAddr(a))
		}
		got, ok := chooseIP(addrs, tt.only4)
		if s := got.String(); ok && s != tt.want || !ok && tt.want != "" {
			t.Errorf("%s: got %s", tt.addrs, s)
		}
	}
}

// TestRunEndsWhileJoining has Run end by its context while it waits for a node.
func TestRunEndsWhileJoining(t *testing.T) {
	network := newNetwork()
	a := network.startReal(t, "a", "127.0.0.1:0", func(o *Options) { o.Join, o.JoinTimeout = []string{"192.0.2.1:8003"}, time.Minute })
	start := time.Now()
	a.crash()
	if took := time.Since(start); took > 4*time.Second || a.err != nil {
		t.Errorf("Run ended after %v with %v", took, a.err)
	}
	a.Leave(context.Background()) // must do no harm afterwards
	if err := a.transport.Shutdown(); err != nil {
		t.Error(err)
	}
}

// lockedBuffer is a log that many write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}
