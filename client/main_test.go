package client

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"piko/relay"
	"piko/router"
	"piko/upstreamconn"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

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

// node is a server for tunnels on a port of its own.
type node struct {
	*upstreamconn.Server
	addr string
	stop func() // at once, as a process that is killed; may be called again
}

// startNode runs a node at addr, "" for any, until the test ends.
func startNode(t testing.TB, id, addr string, opts ...func(*upstreamconn.Server)) *node {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	n := &node{addr: ln.Addr().String(), Server: &upstreamconn.Server{NodeID: id, Table: router.NewTable()}}
	for _, opt := range opts {
		opt(n.Server)
	}
	srv := &http.Server{Handler: n.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	wg.Go(func() { n.Run(ctx) })
	var once sync.Once
	n.stop = func() {
		once.Do(func() {
			srv.Close()
			n.Close(context.Background())
			cancel()
			wg.Wait()
		})
	}
	t.Cleanup(n.stop)
	return n
}

// upstreams is how many upstreams the endpoint has at the node.
func (n *node) upstreams(endpoint string) int {
	route := n.Table.Lookup(endpoint)
	if route == nil {
		return 0
	}
	return len(route.Locals)
}

func (n *node) waitFor(t testing.TB, endpoint string, want int) {
	t.Helper()
	eventually(t, func() error {
		if got := n.upstreams(endpoint); got != want {
			return fmt.Errorf("endpoint %s has %d upstreams at %s, want %d", endpoint, got, n.NodeID, want)
		}
		return nil
	})
}

// post sends a request to an upstream of the endpoint at one of the nodes, and
// to another one if that has not seen it, as proxies would.
func post(endpoint, body string, nodes ...*node) (string, error) {
	var last error
	for _, n := range nodes {
		var tried router.Tried
		for {
			route := n.Table.Lookup(endpoint)
			if route == nil {
				break
			}
			target := route.Pick(time.Now(), 0, &tried)
			if !target.OK() {
				break
			}
			tried.Add(target)
			target.Begin()
			var answer string
			answer, last = roundTrip(target.Upstream(endpoint), body)
			target.End()
			if last == nil || !relay.NeverExecuted(last) {
				return answer, last
			}
		}
	}
	return "", fmt.Errorf("no upstream: %w", last)
}

func roundTrip(u http.RoundTripper, body string) (string, error) {
	req, err := http.NewRequest(http.MethodPost, "http://endpoint.example.com/", strings.NewReader(body))
	if err != nil {
		return "", err
	}
	res, err := u.RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	return string(b), err
}

// serve serves h on what the client listens on, until the test ends.
func serve(t testing.TB, c *Client, endpoint string, h http.Handler) *Listener {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	ln, err := c.Listen(ctx, endpoint)
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: h}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		ln.Close()
		srv.Close()
		wg.Wait()
	})
	return ln
}

// echo answers with the body it got.
var echo = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	b, err := io.ReadAll(r.Body)
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	w.Write(b)
})

// balancer forwards TCP connections to where pick says.
type balancer struct {
	url string

	// Guarded by mu.
	mu   sync.Mutex
	pick func() string
}

func startBalancer(t testing.TB, pick func() string) *balancer {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{url: "http://" + ln.Addr().String(), pick: pick}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { b.forward(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		wg.Wait()
	})
	return b
}

// set changes where new connections go.
func (b *balancer) set(addr string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pick = func() string { return addr }
}

func (b *balancer) forward(c net.Conn) {
	defer c.Close()
	b.mu.Lock()
	addr := b.pick()
	b.mu.Unlock()
	s, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	defer s.Close()
	var wg sync.WaitGroup
	wg.Go(func() {
		io.Copy(s, c)
		s.Close()
	})
	io.Copy(c, s)
	c.Close()
	wg.Wait()
}

// states collects what OnState is told.
type states struct {
	mu  sync.Mutex
	all []State
}

func (s *states) add(st State) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = append(s.all, st)
}

// has says whether a state was told for which f is true.
func (s *states) has(f func(State) bool) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.ContainsFunc(s.all, f)
}
