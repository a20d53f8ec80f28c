package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/agent"
	"piko/client"
)

// startCluster runs n nodes that know each other.
func startCluster(t *testing.T, n int, change func(*serverConfig)) []*testNode {
	t.Helper()
	nodes := make([]*testNode, n)
	for i := range nodes {
		nodes[i] = startMember(t, fmt.Sprintf("n%d", i+1), change, nodes[:i]...)
	}
	eventually(t, func() error {
		for _, node := range nodes {
			if size := node.gossip.Size(); size != n {
				return fmt.Errorf("%s knows %d nodes", node.id, size)
			}
		}
		return nil
	})
	return nodes
}

// startMember runs a node that joins others.
func startMember(t *testing.T, id string, change func(*serverConfig), others ...*testNode) *testNode {
	t.Helper()
	return startNode(t, func(cfg *serverConfig) {
		cfg.Cluster.NodeID = nodeID(id)
		for _, o := range others {
			cfg.Cluster.Join = append(cfg.Cluster.Join, joinAddr(o.GossipAddr()))
		}
		if change != nil {
			change(cfg)
		}
	})
}

// reach asks the node for the endpoint until it answers.
func reach(t *testing.T, c *http.Client, n *testNode, endpoint string) {
	t.Helper()
	eventually(t, func() error {
		status, body, _ := get(t, c, "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", endpoint)
		if status != http.StatusOK {
			return fmt.Errorf("%s through %s: %d %s", endpoint, n.id, status, body)
		}
		return nil
	})
}

func TestEveryNodeServesEveryEndpoint(t *testing.T) {
	t.Parallel()
	for name, secret := range map[string][]secret{"without a secret": nil, "with a secret": {"0123456789abcdef"}} {
		t.Run(name, func(t *testing.T) {
			nodes := startCluster(t, 3, func(cfg *serverConfig) { cfg.Cluster.Secret = secret })
			service := testService(t).URL
			for i, n := range nodes {
				startAgent(t, n, fmt.Sprintf("endpoint-%d", i), service)
			}
			c := newClient(t)
			for _, n := range nodes {
				for i := range nodes {
					reach(t, c, n, fmt.Sprintf("endpoint-%d", i))
				}
			}
		})
	}
}

// chooser is a balancer for agents: each connection goes to a random node that
// is ready.
type chooser struct {
	net.Listener
	mu    sync.Mutex
	nodes []*testNode
	next  atomic.Uint64
}

func startChooser(t *testing.T, nodes ...*testNode) *chooser {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &chooser{Listener: ln, nodes: slices.Clone(nodes)}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	running.Go(func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			running.Go(func() { c.serve(ctx, conn) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		cancel()
		running.Wait()
	})
	return c
}

func (c *chooser) set(nodes ...*testNode) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.nodes = slices.Clone(nodes)
}

func (c *chooser) serve(ctx context.Context, conn net.Conn) {
	defer conn.Close()
	c.mu.Lock()
	var ready []*testNode
	for _, n := range c.nodes {
		if n.isReady.Load() {
			ready = append(ready, n)
		}
	}
	c.mu.Unlock()
	if len(ready) == 0 {
		return
	}
	to, err := net.Dial("tcp", ready[c.next.Add(1)%uint64(len(ready))].UpstreamAddr().String())
	if err != nil {
		return
	}
	defer to.Close()
	defer context.AfterFunc(ctx, func() { conn.Close(); to.Close() })()
	var both sync.WaitGroup
	copyHalf := func(to, from net.Conn) {
		buf := make([]byte, 32<<10)
		for {
			n, err := from.Read(buf)
			if n > 0 {
				if _, err := to.Write(buf[:n]); err != nil {
					break
				}
			}
			if err != nil {
				break
			}
		}
		to.Close()
		from.Close()
	}
	both.Go(func() { copyHalf(to, conn) })
	both.Go(func() { copyHalf(conn, to) })
	both.Wait()
}

func (c *chooser) URL() string { return "http://" + c.Addr().String() }

// startAgentAt runs an agent that reaches its servers at the URL.
func startAgentAt(t *testing.T, url, endpoint, service string, connections int) {
	t.Helper()
	a, err := agent.New(agent.Config{
		Listeners:   []agent.Listener{{Endpoint: endpoint, Addr: service}},
		GracePeriod: 5 * time.Second,
	}, &client.Client{URL: url, Connections: connections}, newLogger(t.Output(), logConfig{Level: "info", Format: "text"}, new(slog.LevelVar)), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("the agent failed: %v", err)
		}
	})
}

func TestRollingRestartLosesNothing(t *testing.T) {
	t.Parallel()
	// A client may have chosen a node a moment before it began to stop.
	late := func(cfg *serverConfig) { cfg.ShutdownDelay = time.Second }
	nodes := startCluster(t, 3, late)
	agents := startChooser(t, nodes...)
	service := testService(t).URL
	for range 2 {
		startAgentAt(t, agents.URL(), "my-endpoint", service, 2)
	}
	c := newClient(t)
	for _, n := range nodes {
		reach(t, c, n, "my-endpoint")
	}

	// Clients ask the nodes that are ready, as through a load balancer, and the
	// one that is about to stop until it is not.
	var current [3]atomic.Pointer[testNode]
	for i, n := range nodes {
		current[i].Store(n)
	}
	ctx, stop := context.WithCancel(t.Context())
	var asking sync.WaitGroup
	var asked, failed atomic.Int64
	for i := range 16 {
		asking.Go(func() {
			c := newClient(t)
			for ctx.Err() == nil {
				n := current[i%3].Load()
				if n == nil {
					n = current[(i+1)%3].Load()
				}
				method := []string{http.MethodGet, http.MethodPost}[i%2]
				req, err := http.NewRequest(method, "http://"+n.ProxyAddr().String()+"/", strings.NewReader("body"))
				if err != nil {
					t.Error(err)
					return
				}
				req.Header.Set("x-piko-endpoint", "my-endpoint")
				asked.Add(1)
				res, err := c.Do(req)
				if err == nil {
					res.Body.Close()
				}
				if err != nil || res.StatusCode != http.StatusOK {
					failed.Add(1)
					t.Errorf("%s through %s: %v, %+v", method, n.id, err, res)
					return
				}
			}
		})
	}
	for i, n := range nodes {
		others := []*testNode{nodes[(i+1)%3], nodes[(i+2)%3]}
		current[i].Store(nil)
		if err := n.stop(); err != nil {
			t.Errorf("%s: %v", n.id, err)
		}
		nodes[i] = startMember(t, n.id, late, others...)
		agents.set(nodes...)
		current[i].Store(nodes[i])
	}
	stop()
	asking.Wait()
	t.Logf("%d requests, %d failed", asked.Load(), failed.Load())
}
