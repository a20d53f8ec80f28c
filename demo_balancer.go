package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds of the demo's balancer.
const (
	balancerCheck = 50 * time.Millisecond // between two questions to a node's /ready
	balancerDial  = time.Second
	balancerConns = 1024 // per front, at a time
)

// demoBalancer is the load balancer before the demo's nodes, as simple as one
// can be: it asks each node's /ready now and again, and passes the bytes of each
// new connection on to the next node that is ready, whatever they mean.
type demoBalancer struct {
	// Static after construction.
	nodes  []*demoNode
	fronts []*balancerFront
	client *http.Client

	ready []atomic.Bool // as last asked, by node
}

// balancerFront is one address of the balancer and the port of the nodes
// behind it.
type balancerFront struct {
	ln    net.Listener
	to    func(*demoNode) string // host:port
	slots chan struct{}

	next atomic.Uint32 // whose turn it is among those that are ready
}

func newDemoBalancer(nodes []*demoNode) (*demoBalancer, error) {
	b := &demoBalancer{
		nodes:  nodes,
		client: &http.Client{Timeout: time.Second, Transport: &http.Transport{DisableKeepAlives: true}},
		ready:  make([]atomic.Bool, len(nodes)),
	}
	for _, to := range []func(*demoNode) string{(*demoNode).proxyAddr, (*demoNode).upstreamAddr} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.close()
			return nil, fmt.Errorf("listen for the demo's load balancer: %w", err)
		}
		b.fronts = append(b.fronts, &balancerFront{ln: ln, to: to, slots: make(chan struct{}, balancerConns)})
	}
	return b, nil
}

// proxyAddr is the address for clients, upstreamAddr that for agents.
func (b *demoBalancer) proxyAddr() string    { return b.fronts[0].ln.Addr().String() }
func (b *demoBalancer) upstreamAddr() string { return b.fronts[1].ln.Addr().String() }

func (b *demoBalancer) close() {
	for _, f := range b.fronts {
		f.ln.Close()
	}
}

// run balances until ctx ends, then cuts what is left, and leaves no goroutine.
func (b *demoBalancer) run(ctx context.Context) error {
	var running sync.WaitGroup
	defer running.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for i := range b.nodes {
		running.Go(func() { b.watch(ctx, i) })
	}
	failed := make(chan error, len(b.fronts))
	for _, f := range b.fronts {
		running.Go(func() { failed <- b.serve(ctx, f) })
	}
	defer b.close()
	select {
	case <-ctx.Done():
		return nil
	case err := <-failed:
		return err
	}
}

// watch keeps asking a node whether it is ready.
func (b *demoBalancer) watch(ctx context.Context, i int) {
	tick := time.NewTicker(balancerCheck)
	defer tick.Stop()
	for {
		b.ready[i].Store(b.ask(ctx, i))
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
	}
}

func (b *demoBalancer) ask(ctx context.Context, i int) bool {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+b.nodes[i].adminAddr()+"/ready", nil)
	if err != nil {
		return false
	}
	res, err := b.client.Do(req)
	if err != nil {
		return false
	}
	res.Body.Close()
	return res.StatusCode == http.StatusOK
}

// awaitReady returns once the balancer has seen that node i is ready.
func (b *demoBalancer) awaitReady(ctx context.Context, i int) error {
	ctx, cancel := context.WithTimeout(ctx, demoReadyTimeout)
	defer cancel()
	for !b.ready[i].Load() {
		pause(ctx, balancerCheck/2)
		if ctx.Err() != nil {
			return fmt.Errorf("run %s of the demo: the load balancer finds it not ready", b.nodes[i].name)
		}
	}
	return nil
}

// serve takes the connections of a front. It returns when all of them have ended.
func (b *demoBalancer) serve(ctx context.Context, f *balancerFront) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	for {
		conn, err := f.ln.Accept()
		if errors.Is(err, net.ErrClosed) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("accept at the demo's load balancer: %w", err)
		}
		select {
		case f.slots <- struct{}{}:
		default:
			conn.Close()
			continue
		}
		conns.Go(func() {
			defer func() { <-f.slots }()
			b.pass(ctx, conn, f)
		})
	}
}

// pass connects conn to a node and carries bytes until both directions have
// ended, or ctx.
func (b *demoBalancer) pass(ctx context.Context, conn net.Conn, f *balancerFront) {
	defer conn.Close()
	node, err := b.dial(ctx, f)
	if err != nil {
		return
	}
	defer node.Close()
	defer context.AfterFunc(ctx, func() { conn.Close(); node.Close() })()
	var there sync.WaitGroup
	there.Go(func() { carry(node, conn) })
	carry(conn, node)
	there.Wait()
}

// carry copies until src ends, and then ends dst for writing; a side that
// breaks breaks both.
func carry(dst, src net.Conn) {
	if _, err := io.Copy(dst, src); err != nil {
		dst.Close()
		src.Close()
		return
	}
	dst.(*net.TCPConn).CloseWrite()
}

// dial connects to the next node that is ready, or to one after it if it cannot.
// Taking turns matters to agents, which look for a node that they do not have.
func (b *demoBalancer) dial(ctx context.Context, f *balancerFront) (net.Conn, error) {
	var ready []*demoNode
	for i, n := range b.nodes {
		if b.ready[i].Load() {
			ready = append(ready, n)
		}
	}
	dialer := net.Dialer{Timeout: balancerDial}
	err := errors.New("no node is ready")
	first := int(f.next.Add(1))
	for i := range ready {
		var conn net.Conn
		if conn, err = dialer.DialContext(ctx, "tcp", f.to(ready[(first+i)%len(ready)])); err == nil {
			return conn, nil
		}
	}
	return nil, err
}
