package agent

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"piko/accesslog"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// eventually polls until check says nil, and fails with its last error.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never became true: %v", err)
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("never became true: %v", err)
		case <-time.After(2 * time.Millisecond):
		}
	}
}

// fakeNode stands for a node and the tunnel to it: its TCP connections are the
// streams. As a node does, it closes its idle streams when the listener drains.
type fakeNode struct {
	ln     net.Listener
	client *http.Transport

	// Of TCP streams; static once the agent runs.
	clientAddr netip.AddrPort
	done       chan struct{}

	mu     sync.Mutex
	conns  map[net.Conn]struct{} // guarded by mu: accepted and not closed
	opened int                   // guarded by mu
	empty  chan struct{}         // guarded by mu: closed when conns has become empty; nil: nobody waits
}

func newFakeNode(t testing.TB) *fakeNode {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n := &fakeNode{ln: ln, conns: make(map[net.Conn]struct{})}
	n.client = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
		},
		MaxIdleConnsPerHost: 1000,
		DisableCompression:  true,
	}
	t.Cleanup(func() { n.client.CloseIdleConnections(); ln.Close() })
	return n
}

// Accept, Addr, Close and Shutdown make it the agent's tunnels.
func (n *fakeNode) Accept() (net.Conn, error) {
	conn, err := n.ln.Accept()
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	c := &fakeStream{Conn: conn, node: n, heard: newHeard(conn, n.done)}
	n.conns[c] = struct{}{}
	n.opened++
	return c, nil
}

func (n *fakeNode) Addr() net.Addr { return n.ln.Addr() }
func (n *fakeNode) Close() error   { return n.ln.Close() }
func (n *fakeNode) SetWeight(int)  {}

func (n *fakeNode) Shutdown(ctx context.Context) error {
	n.client.CloseIdleConnections()
	n.mu.Lock()
	n.empty = make(chan struct{})
	empty := n.empty
	if len(n.conns) == 0 {
		close(n.empty)
		n.empty = nil
	}
	n.mu.Unlock()
	defer n.ln.Close()
	select {
	case <-empty:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// streams is how many connections the node has opened.
func (n *fakeNode) streams() int {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opened
}

type fakeStream struct {
	net.Conn
	node *fakeNode
	*heard
}

func (c *fakeStream) Read(p []byte) (int, error)        { return c.heard.Read(p) }
func (c *fakeStream) SetReadDeadline(t time.Time) error { return c.heard.SetReadDeadline(t) }
func (c *fakeStream) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

func (c *fakeStream) CloseWrite() error { return c.Conn.(*net.TCPConn).CloseWrite() }

func (c *fakeStream) ClientAddr() netip.AddrPort { return c.node.clientAddr }

// Done says that the client is gone, as the test decides.
func (c *fakeStream) Done() <-chan struct{} { return c.node.done }

func (c *fakeStream) Reset() {
	c.Conn.(*net.TCPConn).SetLinger(0)
	c.Close()
}

func (c *fakeStream) Close() error {
	c.end()
	n := c.node
	n.mu.Lock()
	delete(n.conns, c)
	if n.empty != nil && len(n.conns) == 0 {
		close(n.empty)
		n.empty = nil
	}
	n.mu.Unlock()
	return c.Conn.Close()
}

// testAgent is an agent with one listener, on a fake node.
type testAgent struct {
	t    testing.TB
	node *fakeNode
	*listener
	log  *logBuffer
	stop context.CancelFunc // begins the graceful stop
	done chan error         // Run's result
}

type agentOptions struct {
	listener Listener
	grace    time.Duration
	access   io.Writer
	adjust   func(*listener) // before it runs
	config   *Config         // nil: the zero value

	clientAddr netip.AddrPort // that the node names
	clientGone chan struct{}  // closed when the node has reset the stream
}

// startAgent runs an agent that forwards to addr until the test ends.
func startAgent(t testing.TB, addr string, opts ...func(*agentOptions)) *testAgent {
	t.Helper()
	o := agentOptions{listener: Listener{Endpoint: "my-endpoint", Addr: addr}, grace: 10 * time.Second}
	for _, opt := range opts {
		opt(&o)
	}
	a := &testAgent{t: t, node: newFakeNode(t), log: new(logBuffer), done: make(chan error, 1)}
	a.node.clientAddr, a.node.done = o.clientAddr, o.clientGone
	logger := slog.New(slog.NewTextHandler(a.log, &slog.HandlerOptions{Level: slog.LevelDebug}))
	m, err := newMetrics(nil)
	if err != nil {
		t.Fatal(err)
	}
	cfg := cmp.Or(o.config, &Config{AccessLog: accesslog.Options{}})
	if a.listener, err = newListener(cfg, o.listener, logger, m, o.access); err != nil {
		t.Fatal(err)
	}
	a.listen = func(context.Context) (tunnels, error) { return a.node, nil }
	if o.adjust != nil {
		o.adjust(a.listener)
	}
	agent := &Agent{grace: o.grace, log: logger, listeners: []*listener{a.listener}}
	ctx, cancel := context.WithCancel(context.Background())
	a.stop = cancel
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		a.done <- agent.Run(ctx)
	}()
	t.Cleanup(func() {
		a.node.client.CloseIdleConnections()
		cancel()
		<-ended
	})
	return a
}

// do sends a request as the node would and returns the answer.
func (a *testAgent) do(req *http.Request) (*http.Response, error) {
	return a.node.client.RoundTrip(req)
}

// get fetches a path and returns status and body.
func (a *testAgent) get(path string) (int, string, error) {
	req, err := http.NewRequestWithContext(a.t.Context(), http.MethodGet, "http://my-endpoint.example.com"+path, nil)
	if err != nil {
		return 0, "", err
	}
	res, err := a.do(req)
	if err != nil {
		return 0, "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return res.StatusCode, string(body), err
}

// mustGet is get for a request that has to work.
func (a *testAgent) mustGet(path string) string {
	a.t.Helper()
	status, body, err := a.get(path)
	if err != nil || status != http.StatusOK {
		a.t.Fatalf("GET %s: status %d, body %.100q, error %v: want a 200", path, status, body, err)
	}
	return body
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// errNotYet is for conditions that say nothing more.
var errNotYet = errors.New("not yet")
