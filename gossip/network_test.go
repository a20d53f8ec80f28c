package gossip

import (
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/hashicorp/memberlist"

	"piko/router"
)

// network is a network in memory, of gossip ports and of connections between
// nodes. It drops packets when a receiver does not keep up.
type network struct {
	mu    sync.Mutex
	ports map[netip.AddrPort]*memTransport
	nodes map[string]*Cluster // by the address of the proxy port
	cut   map[[2]netip.Addr]bool
	loss  float64
	delay time.Duration
	tap   func(to netip.AddrPort, b []byte)
	lost  func(b []byte) bool // more that is lost
	stuck int                 // streams opened before so many calls of stick bring nothing
}

// stick makes all streams that are open bring nothing any more.
func (n *network) stick() {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.stuck++
}

// stickyBody is a stream that may be stuck.
type stickyBody struct {
	net.Conn
	net   *network
	since int
	done  chan struct{}
	once  *sync.Once
}

func (b stickyBody) Read(p []byte) (int, error) {
	n, err := b.Conn.Read(p)
	b.net.mu.Lock()
	stuck := b.since < b.net.stuck
	b.net.mu.Unlock()
	if stuck {
		<-b.done
		return 0, net.ErrClosed
	}
	return n, err
}

func (b stickyBody) Close() error {
	b.once.Do(func() { close(b.done) })
	return b.Conn.Close()
}

func newNetwork() *network {
	return &network{ports: make(map[netip.AddrPort]*memTransport), nodes: make(map[string]*Cluster), cut: make(map[[2]netip.Addr]bool)}
}

// partition cuts or heals the connections between the groups, both ways.
func (n *network) partition(cut bool, a, b []*testNode) {
	for _, x := range a {
		for _, y := range b {
			n.oneWay(cut, x, y)
			n.oneWay(cut, y, x)
		}
	}
}

func (n *network) oneWay(cut bool, from, to *testNode) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.cut[[2]netip.Addr{from.ip, to.ip}] = cut
}

// open reports whether connections between the two work.
func (n *network) open(a, b netip.Addr) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return !n.cut[[2]netip.Addr{a, b}] && !n.cut[[2]netip.Addr{b, a}]
}

func (n *network) clusterAt(proxyAddr string) *Cluster {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.nodes[proxyAddr]
}

// memTransport is a gossip port in the network.
type memTransport struct {
	net     *network
	addr    netip.AddrPort
	packets chan *memberlist.Packet
	streams chan net.Conn
	done    chan struct{}
	once    sync.Once
}

func (n *network) listen(addr netip.AddrPort) *memTransport {
	t := &memTransport{net: n, addr: addr, packets: make(chan *memberlist.Packet, packetQueue), streams: make(chan net.Conn), done: make(chan struct{})}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.ports[addr] = t
	return t
}

func (t *memTransport) advertised() netip.AddrPort      { return t.addr }
func (t *memTransport) isSelf(addr netip.AddrPort) bool { return addr == t.addr }
func (t *memTransport) observe(*metrics)                {}
func (t *memTransport) FinalAdvertiseAddr(string, int) (net.IP, int, error) {
	return t.addr.Addr().AsSlice(), int(t.addr.Port()), nil
}
func (t *memTransport) PacketCh() <-chan *memberlist.Packet { return t.packets }
func (t *memTransport) StreamCh() <-chan net.Conn           { return t.streams }

// Shutdown takes the port out of the network.
func (t *memTransport) Shutdown() error {
	t.once.Do(func() { close(t.done) })
	t.net.mu.Lock()
	defer t.net.mu.Unlock()
	if t.net.ports[t.addr] == t {
		delete(t.net.ports, t.addr)
	}
	return nil
}

func (t *memTransport) WriteTo(b []byte, addr string) (time.Time, error) {
	now := time.Now()
	to := netip.MustParseAddrPort(addr)
	n := t.net
	n.mu.Lock()
	defer n.mu.Unlock()
	if isClosed(t.done) {
		return now, net.ErrClosed
	}
	if n.cut[[2]netip.Addr{t.addr.Addr(), to.Addr()}] || rand.Float64() < n.loss || n.lost != nil && n.lost(b) {
		return now, nil
	}
	if n.tap != nil {
		n.tap(to, b)
	}
	p := &memberlist.Packet{Buf: slices.Clone(b), From: net.UDPAddrFromAddrPort(t.addr)}
	if n.delay > 0 {
		go func() {
			time.Sleep(n.delay/2 + rand.N(n.delay))
			n.mu.Lock()
			defer n.mu.Unlock()
			n.deliver(to, p)
		}()
		return now, nil
	}
	n.deliver(to, p)
	return now, nil
}

// deliver is called with mu held.
func (n *network) deliver(to netip.AddrPort, p *memberlist.Packet) {
	port := n.ports[to]
	if port == nil {
		return
	}
	p.Timestamp = time.Now()
	select {
	case port.packets <- p:
	default:
	}
}

var errRefused = errors.New("connection refused")

func (t *memTransport) DialTimeout(addr string, timeout time.Duration) (net.Conn, error) {
	to := netip.MustParseAddrPort(addr)
	timer := time.NewTimer(max(timeout, 0))
	defer timer.Stop()
	if !t.net.open(t.addr.Addr(), to.Addr()) {
		select {
		case <-timer.C:
		case <-t.done:
		}
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: context.DeadlineExceeded}
	}
	t.net.mu.Lock()
	port := t.net.ports[to]
	t.net.mu.Unlock()
	if port == nil || isClosed(t.done) {
		return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errRefused}
	}
	ours, theirs := net.Pipe()
	select {
	case port.streams <- pipeConn{theirs}:
		return pipeConn{ours}, nil
	case <-port.done:
	case <-timer.C:
	case <-t.done:
	}
	return nil, &net.OpError{Op: "dial", Net: "tcp", Err: errRefused}
}

// pipeConn has an address that memberlist can log.
type pipeConn struct{ net.Conn }

// memPeer is the connection to a node as package peer makes it: it proves the
// epoch, and notices within 2 s that nothing comes back.
type memPeer struct {
	net    *network
	from   netip.Addr
	m      Member
	tell   func(bool)
	cancel context.CancelFunc
	wg     sync.WaitGroup

	mu     sync.Mutex
	up     bool
	bodies map[net.Conn]bool
}

func (n *network) connect(from netip.Addr) func(Member, func(bool)) Peer {
	return func(m Member, reachable func(bool)) Peer {
		ctx, cancel := context.WithCancel(context.Background())
		p := &memPeer{net: n, from: from, m: m, tell: reachable, cancel: cancel, bodies: make(map[net.Conn]bool)}
		p.wg.Go(func() { p.run(ctx) })
		return p
	}
}

func (p *memPeer) target() *Cluster {
	c := p.net.clusterAt(p.m.ProxyAddr)
	if c == nil || c.opt.Epoch != p.m.Epoch {
		return nil
	}
	return c
}

func (p *memPeer) run(ctx context.Context) {
	const interval = 100 * time.Millisecond
	silent := time.Duration(0)
	addr := netip.MustParseAddrPort(p.m.ProxyAddr).Addr()
	for {
		switch up := p.target() != nil; {
		case !up:
			p.set(false) // a connection that is reset
		case !p.net.open(p.from, addr):
			if silent += interval; silent > 2*time.Second {
				p.set(false)
			}
		default:
			silent = 0
			p.set(true)
		}
		if !sleep(ctx, interval) {
			p.set(false)
			return
		}
	}
}

func (p *memPeer) set(up bool) {
	p.mu.Lock()
	changed := p.up != up
	p.up = up
	if !up {
		for b := range p.bodies {
			b.Close()
		}
		clear(p.bodies)
	}
	p.mu.Unlock()
	if changed {
		p.tell(up)
	}
}

func (p *memPeer) Upstream(endpoint string) router.Upstream { return nil }

func (p *memPeer) Close() {
	p.cancel()
	p.wg.Wait()
}

func (p *memPeer) Subscribe(ctx context.Context, epoch string, since uint64) (io.ReadCloser, error) {
	c := p.target()
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.up || c == nil {
		return nil, errRefused
	}
	ours, theirs := net.Pipe()
	p.net.mu.Lock()
	body := stickyBody{ours, p.net, p.net.stuck, make(chan struct{}), new(sync.Once)}
	p.net.mu.Unlock()
	p.bodies[body] = true
	p.wg.Go(func() {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		defer theirs.Close()
		defer context.AfterFunc(ctx, func() { body.Close() })()
		serveOn(ctx, c, theirs, epoch, since)
	})
	return body, nil
}

// serveOn serves the log to a connection without the HTTP around it.
func serveOn(ctx context.Context, c *Cluster, conn net.Conn, epoch string, since uint64) {
	r := httptest.NewRequestWithContext(ctx, http.MethodGet, "/_piko/v1/cluster/log?epoch="+epoch+"&since="+strconv.FormatUint(since, 10), nil)
	c.LogHandler().ServeHTTP(&connWriter{Conn: conn, header: make(http.Header)}, r)
}

// connWriter is an http.ResponseWriter that writes bodies only.
type connWriter struct {
	net.Conn
	header http.Header
}

// benchBytes counts what logs carry.
var benchBytes atomic.Int64

func (w *connWriter) Write(b []byte) (int, error) {
	benchBytes.Add(int64(len(b)))
	return w.Conn.Write(b)
}

func (w *connWriter) Header() http.Header { return w.header }
func (w *connWriter) WriteHeader(int)     {}
func (w *connWriter) Flush()              {}

// testNode is a node in the network.
type testNode struct {
	*Cluster
	t      testing.TB
	net    *network
	id     string
	ip     netip.Addr
	table  *router.Table
	cancel context.CancelFunc
	done   chan struct{}
	err    error // of Run, once done is closed
	undo   map[string]func()
	port   *memTransport
}

// newNode prepares a node; it is at 10.0.0.<number>, gossip port 8003, proxy port 8000.
func (n *network) newNode(t testing.TB, id string, number int, change ...func(*Options)) *testNode {
	t.Helper()
	ip := netip.AddrFrom4([4]byte{10, 0, 0, byte(number)})
	port := n.listen(netip.AddrPortFrom(ip, 8003))
	opt := Options{
		NodeID: id, Epoch: NewEpoch(id, time.Now()), ProxyAddr: netip.AddrPortFrom(ip, 8000).String(), AdminAddr: netip.AddrPortFrom(ip, 8002).String(),
		Key: []byte("0123456789abcdef"), Table: router.NewTable(), Connect: n.connect(ip), AbortIfJoinFails: true, transport: port,
	}
	if testing.Verbose() {
		opt.Logger = testLogger(t, id)
	}
	for _, f := range change {
		f(&opt)
	}
	c, err := New(opt)
	if err != nil {
		t.Fatalf("new node: %v", err)
	}
	return &testNode{Cluster: c, t: t, net: n, id: id, ip: ip, table: opt.Table, done: make(chan struct{}), undo: make(map[string]func()), port: port}
}

// start starts a node that joins the numbers.
func (n *network) start(t testing.TB, id string, number int, join ...int) *testNode {
	t.Helper()
	node := n.newNode(t, id, number, joining(join...))
	node.run()
	return node
}

func joining(numbers ...int) func(*Options) {
	return func(o *Options) {
		for _, i := range numbers {
			o.Join = append(o.Join, netip.AddrFrom4([4]byte{10, 0, 0, byte(i)}).String())
		}
	}
}

func (n *testNode) run() {
	ctx, cancel := context.WithCancel(context.Background())
	n.cancel = cancel
	n.net.mu.Lock()
	n.net.nodes[n.opt.ProxyAddr] = n.Cluster
	n.net.mu.Unlock()
	go func() {
		defer close(n.done)
		n.err = n.Cluster.Run(ctx)
	}()
}

// crash ends a node without a word.
func (n *testNode) crash() {
	n.port.Shutdown()
	n.net.mu.Lock()
	if n.net.nodes[n.opt.ProxyAddr] == n.Cluster {
		delete(n.net.nodes, n.opt.ProxyAddr)
	}
	n.net.mu.Unlock()
	n.cancel()
	<-n.done
}

// leave ends a node as a drain does.
func (n *testNode) leave() {
	n.Leave(context.Background())
	n.crash()
}

func (n *testNode) serve(endpoints ...string) {
	for _, e := range endpoints {
		if n.undo[e] == nil {
			n.undo[e] = n.table.Add(e, router.NewLocal(nil))
		}
	}
}

func (n *testNode) unserve(endpoints ...string) {
	for _, e := range endpoints {
		if n.undo[e] != nil {
			n.undo[e]()
			delete(n.undo, e)
		}
	}
}

// routes returns the ids of the other nodes that requests for the endpoint can go to.
func (n *testNode) routes(endpoint string) (ids []string) {
	route := n.table.Lookup(endpoint)
	if route == nil {
		return nil
	}
	for _, r := range route.Remotes {
		if r.Node.Alive() {
			ids = append(ids, r.Node.ID())
		}
	}
	return ids
}

// stop ends nodes at the end of a test and lets memberlist's goroutines end.
func stop(nodes ...*testNode) {
	for _, n := range nodes {
		n.crash()
	}
	time.Sleep(30 * time.Second)
}
