package suites

import (
	"context"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"

	testgrpc "google.golang.org/grpc/interop/grpc_testing"
)

// slowUnary answers a little later, so that calls go on whenever something happens.
func slowUnary(ctx context.Context, in *testgrpc.SimpleRequest) (*testgrpc.SimpleResponse, error) {
	select {
	case <-time.After(20 * time.Millisecond):
		return &testgrpc.SimpleResponse{Payload: in.Payload}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// unaryLoad is unary calls, one after the other in each of some goroutines.
type unaryLoad struct {
	stop chan struct{}
	wg   sync.WaitGroup
	ok   atomic.Int64

	// Guarded by mu.
	mu     sync.Mutex
	failed []error
}

func startLoad(t *testing.T, c testgrpc.TestServiceClient) *unaryLoad {
	t.Helper()
	l := &unaryLoad{stop: make(chan struct{})}
	for range 8 {
		l.wg.Go(func() { l.run(c) })
	}
	t.Cleanup(l.end)
	l.more(t, 50)
	return l
}

func (l *unaryLoad) run(c testgrpc.TestServiceClient) {
	for {
		select {
		case <-l.stop:
			return
		default:
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		_, err := c.UnaryCall(ctx, &testgrpc.SimpleRequest{Payload: payload(100)})
		cancel()
		if err == nil {
			l.ok.Add(1)
			continue
		}
		l.mu.Lock()
		l.failed = append(l.failed, err)
		l.mu.Unlock()
	}
}

// more waits until n more calls went well.
func (l *unaryLoad) more(t *testing.T, n int64) {
	t.Helper()
	want := l.ok.Load() + n
	eventually(t, time.Minute, fmt.Sprintf("%d more calls", n), func() error {
		l.mu.Lock()
		defer l.mu.Unlock()
		if got := l.ok.Load(); got < want {
			return fmt.Errorf("%d are missing; %d failed: %v", want-got, len(l.failed), l.failed[:min(3, len(l.failed))])
		}
		return nil
	})
}

func (l *unaryLoad) end() {
	select {
	case <-l.stop:
	default:
		close(l.stop)
	}
	l.wg.Wait()
}

// wantNoFailure ends the load.
func (l *unaryLoad) wantNoFailure(t *testing.T) {
	t.Helper()
	l.end()
	t.Logf("%d calls went well", l.ok.Load())
	if n := len(l.failed); n > 0 {
		t.Errorf("%d calls failed: %v", n, l.failed[:min(5, n)])
	}
}

// TestGoAway wants no call to be lost while the server tells its connections all the time to go
// away, as servers with a maximal age of connections do.
func TestGoAway(t *testing.T) {
	t.Parallel()
	everyUpstream(t, func(t *testing.T, p *path, serve serveGRPC) {
		serve(t, "goaway", newTestServer(&service{unary: slowUnary}, grpc.KeepaliveParams(keepalive.ServerParameters{
			MaxConnectionAge: 200 * time.Millisecond, MaxConnectionAgeGrace: limit,
		})))
		load := startLoad(t, p.testClient(t, "goaway"))
		load.more(t, 1000)
		load.wantNoFailure(t)
	})
}

// TestGracefulStop wants no call to be lost when a server stops as it should and another takes
// its place, behind the agent or on a second listener.
func TestGracefulStop(t *testing.T) {
	t.Parallel()
	for name, newPath := range paths {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			p := newPath(t)
			t.Run(upstreamAgent, func(t *testing.T) {
				port := newSharedPort(t)
				p.agent(t, "restarts", "h2c://"+port.Addr().String())
				replaceServers(t, p, func() net.Listener { return port.share() })
			})
			t.Run(upstreamSDK, func(t *testing.T) {
				p := &path{entry: p.entry, owner: p.owner, suffix: "-sdk"}
				replaceServers(t, p, func() net.Listener { return p.listen(t, "restarts") })
			})
		})
	}
}

// replaceServers starts servers one after the other; each stops when the next is there.
func replaceServers(t *testing.T, p *path, listen func() net.Listener) {
	newServer := func() *grpc.Server {
		s := newTestServer(&service{unary: slowUnary})
		serveOn(t, s, listen())
		return s
	}
	s := newServer()
	load := startLoad(t, p.testClient(t, "restarts"))
	for range 5 {
		next := newServer()
		s.GracefulStop()
		s = next
		load.more(t, 100)
	}
	load.wantNoFailure(t)
}

// sharedPort hands the connections of one port to the listener that was made last.
type sharedPort struct {
	net.Listener

	// Guarded by mu.
	mu     sync.Mutex
	latest *share
}

// share is one of the listeners.
type share struct {
	*sharedPort
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newSharedPort(t *testing.T) *sharedPort {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	p := &sharedPort{Listener: ln}
	var wg sync.WaitGroup
	wg.Go(p.accept)
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return p
}

func (p *sharedPort) accept() {
	for {
		c, err := p.Listener.Accept()
		if err != nil {
			return
		}
		p.mu.Lock()
		s := p.latest
		p.mu.Unlock()
		select {
		case s.conns <- c:
		case <-s.closed: // no server takes it, as if it had come earlier
			c.Close()
		}
	}
}

func (p *sharedPort) share() *share {
	s := &share{sharedPort: p, conns: make(chan net.Conn), closed: make(chan struct{})}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.latest = s
	return s
}

// Accept returns a connection that came when this was the latest listener.
func (s *share) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

// Close ends this listener only.
func (s *share) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

// TestDrain wants no unary call to be lost when one of two nodes is stopped that clients and
// an agent are connected to.
func TestDrain(t *testing.T) {
	t.Parallel()
	p := acrossTwo(t)
	s := newTestServer(&service{unary: slowUnary})
	start(t, "agent", pikoBinary, "agent", "http", "drain", "h2c://"+serveTCP(t, s),
		"--connect.url", "http://"+p.owner.upstream, "--connect.url", "http://"+p.entry.upstream, "--connections", "2")
	for _, n := range []*node{p.entry, p.owner} {
		eventually(t, limit, n.id+" has a tunnel", func() error { return knows(n.admin, n.id, "drain") })
	}
	nodes := manual.NewBuilderWithScheme("nodes")
	nodes.InitialState(resolver.State{Addresses: []resolver.Address{{Addr: p.entry.proxy}, {Addr: p.owner.proxy}}})
	cc, err := grpc.NewClient("nodes:///", grpc.WithResolvers(nodes), grpc.WithAuthority(hostOf("drain")),
		grpc.WithTransportCredentials(insecure.NewCredentials()), grpc.WithDefaultServiceConfig(`{"loadBalancingConfig": [{"round_robin": {}}]}`))
	if err != nil {
		t.Fatalf("make client: %v", err)
	}
	t.Cleanup(func() { cc.Close() })
	load := startLoad(t, testgrpc.NewTestServiceClient(cc))
	p.owner.signal(t, syscall.SIGTERM)
	if code := p.owner.wait(t, time.Minute); code != 0 {
		t.Errorf("the node ended with status %d, want 0", code)
	}
	load.more(t, 200)
	load.wantNoFailure(t)
}
