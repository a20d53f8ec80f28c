package peer

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"testing/synctest"
)

// vnet is a network in memory for bubbles of synctest: addresses are names, and
// its links can be cut (as by the death of a process) or frozen (as by that of
// a machine: what is sent arrives nowhere).
type vnet struct {
	mu     sync.Mutex
	hosts  map[string]*streamListener
	wires  map[string][]*wire // by the host that was dialled
	frozen map[string]bool
	dials  map[string]int
}

// wire is a connection: two pipes, and two goroutines that copy between them.
type wire struct {
	near, far net.Conn // the network's ends
	frozen    chan struct{}
	ended     chan struct{}
	once      [2]sync.Once
}

func newVnet() *vnet {
	return &vnet{hosts: map[string]*streamListener{}, wires: map[string][]*wire{}, frozen: map[string]bool{}, dials: map[string]int{}}
}

var errNoHost = errors.New("connection refused")

func (n *vnet) dial(ctx context.Context, _, addr string) (net.Conn, error) {
	n.mu.Lock()
	n.dials[addr]++
	l, frozen := n.hosts[addr], n.frozen[addr]
	n.mu.Unlock()
	if frozen {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if l == nil {
		return nil, errNoHost
	}
	caller, near := net.Pipe()
	far, callee := net.Pipe()
	w := &wire{near: near, far: far, frozen: make(chan struct{}), ended: make(chan struct{})}
	if !l.hand(callee) {
		caller.Close()
		return nil, errNoHost
	}
	go w.copy(near, far)
	go w.copy(far, near)
	n.mu.Lock()
	n.wires[addr] = append(n.wires[addr], w)
	n.mu.Unlock()
	return caller, nil
}

func (w *wire) copy(to, from net.Conn) {
	defer to.Close()
	defer from.Close()
	buf := make([]byte, 32<<10)
	for {
		n, err := from.Read(buf)
		if err != nil {
			if err == io.ErrClosedPipe || err == io.EOF {
				return
			}
			return
		}
		select {
		case <-w.frozen:
			<-w.ended
			return
		default:
		}
		if _, err := to.Write(buf[:n]); err != nil {
			return
		}
	}
}

func (w *wire) freeze() { w.once[0].Do(func() { close(w.frozen) }) }

func (w *wire) cut() {
	w.near.Close()
	w.far.Close()
	w.once[1].Do(func() { close(w.ended) })
}

// freeze has nothing arrive at the host any more, or from it.
func (n *vnet) freeze(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.frozen[addr] = true
	for _, w := range n.wires[addr] {
		w.freeze()
	}
}

// die ends the host's connections as the death of its process does.
func (n *vnet) die(addr string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.hosts, addr)
	for _, w := range n.wires[addr] {
		w.cut()
	}
	n.wires[addr] = nil
}

func (n *vnet) dialled(addr string) int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dials[addr]
}

// end lets the goroutines of frozen wires end.
func (n *vnet) end() {
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, list := range n.wires {
		for _, w := range list {
			w.cut()
		}
	}
}

// inBubble runs a test with virtual time and a network of its own.
func inBubble(t *testing.T, test func(t *testing.T, n *vnet, g *gossip)) {
	synctest.Test(t, func(t *testing.T) {
		n := newVnet()
		t.Cleanup(n.end)
		test(t, n, new(gossip))
	})
}

// start runs a node at the address that is its id.
func (n *vnet) start(t *testing.T, g *gossip, id string, handler http.HandlerFunc) *testNode {
	t.Helper()
	node := n.startUnknown(t, g, id, handler)
	g.tell(node.node)
	return node
}

func (n *vnet) startUnknown(t *testing.T, g *gossip, id string, handler http.HandlerFunc) *testNode {
	t.Helper()
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") }
	}
	p, err := New(Options{Epoch: id + "-1", Lookup: g.lookup, Handler: handler})
	if err != nil {
		t.Fatal(err)
	}
	p.connect = n.dial
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	l := newStreamListener()
	n.mu.Lock()
	n.hosts[id] = l
	n.mu.Unlock()
	web := &http.Server{Handler: p}
	served := make(chan struct{})
	go func() { defer close(served); web.Serve(l) }()
	t.Cleanup(func() {
		cancel()
		<-ran
		web.Close()
		<-served
	})
	return &testNode{Peers: p, node: Node{ID: id, Epoch: id + "-1", Addr: id, Key: p.Key()}}
}
