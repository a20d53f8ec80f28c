package peer

import (
	"context"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// gossip is what the nodes of a test know of each other.
type gossip struct {
	mu    sync.Mutex
	nodes map[string]Node
}

func (g *gossip) lookup(epoch string) (Node, bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	n, ok := g.nodes[epoch]
	return n, ok
}

func (g *gossip) tell(n Node) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.nodes == nil {
		g.nodes = make(map[string]Node)
	}
	g.nodes[n.Epoch] = n
}

func (g *gossip) forget(epoch string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.nodes, epoch)
}

// testNode is a node as far as this package goes: a proxy port that hands
// peers over.
type testNode struct {
	*Peers
	node Node
	web  *httptest.Server
}

// start runs a node that others know of at once.
func (g *gossip) start(t testing.TB, id string, secure bool, handler http.HandlerFunc) *testNode {
	t.Helper()
	n := g.startUnknown(t, id, secure, handler)
	g.tell(n.node)
	return n
}

func (g *gossip) startUnknown(t testing.TB, id string, secure bool, handler http.HandlerFunc) *testNode {
	t.Helper()
	epoch := id + "-0197f0000000"
	if handler == nil {
		handler = func(w http.ResponseWriter, r *http.Request) { fmt.Fprintf(w, "hello from %s", id) }
	}
	return g.startWith(t, id, Options{Epoch: epoch, Secure: secure, Lookup: g.lookup, Handler: handler})
}

func (g *gossip) startWith(t testing.TB, id string, opt Options) *testNode {
	t.Helper()
	p, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ran := make(chan error, 1)
	go func() { ran <- p.Run(ctx) }()
	web := httptest.NewServer(p)
	t.Cleanup(func() {
		cancel()
		if err := <-ran; err != nil {
			t.Errorf("Run returned %v", err)
		}
		web.Close()
	})
	return &testNode{Peers: p, web: web, node: Node{ID: id, Epoch: opt.Epoch, Addr: web.Listener.Addr().String(), Key: p.Key()}}
}

// levels records what a link says of its node.
type levels struct {
	mu  sync.Mutex
	all []bool
}

func (l *levels) set(up bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.all = append(l.all, up)
}

func (l *levels) now() (up bool, changes int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.all) > 0 && l.all[len(l.all)-1], len(l.all)
}

func (l *levels) await(t testing.TB, want bool) {
	t.Helper()
	eventually(t, func() error {
		if up, n := l.now(); up != want || n == 0 {
			return fmt.Errorf("reachable is %v after %d calls, want %v", up, n, want)
		}
		return nil
	})
}

// connect makes a link from a to b that is up.
func connect(t testing.TB, a, b *testNode) (*Link, *levels) {
	t.Helper()
	up := new(levels)
	l := a.Connect(b.node, up.set)
	up.await(t, true)
	return l, up
}

func request(t testing.TB, method, path string) *http.Request {
	req, err := http.NewRequestWithContext(t.Context(), method, "http://e.example.com"+path, nil)
	if err != nil {
		t.Fatal(err)
	}
	return req
}

// eventually calls check until it returns nil, and fails with its last error
// after 10 s.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	timeout := time.After(10 * time.Second)
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-timeout:
			t.Fatalf("after 10 s: %v", err)
		}
	}
}

var _ net.Listener = (*streamListener)(nil)
