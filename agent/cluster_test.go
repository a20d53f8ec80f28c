package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/client"
	"piko/router"
	"piko/tunnel"
	"piko/upstreamconn"
)

// clusterNode is a node as far as agents are concerned: it takes tunnels on a
// port, and others would be told what its table says that it serves.
type clusterNode struct {
	*upstreamconn.Server
	addr    string
	weights *weights
	stop    func() // at once; may be called again
}

// weights is what a node says that it serves of each endpoint.
type weights struct {
	mu  sync.Mutex
	now map[string]int // guarded by mu
}

func (w *weights) observe(endpoint string, weight int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.now[endpoint] = weight
}

func (w *weights) of(endpoint string) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.now[endpoint]
}

// startClusterNode runs a node at addr, "" for any, until the test ends.
func startClusterNode(t *testing.T, id, addr string, size *atomic.Int64, log io.Writer) *clusterNode {
	t.Helper()
	if addr == "" {
		addr = "127.0.0.1:0"
	}
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	table := router.NewTable()
	n := &clusterNode{addr: ln.Addr().String(), weights: &weights{now: make(map[string]int)}}
	table.Observe(n.weights.observe)
	n.Server = &upstreamconn.Server{
		NodeID: id, Table: table, Logger: slog.New(slog.NewTextHandler(log, nil)),
		ClusterSize: func() int { return int(size.Load()) },
		Others:      func() bool { return size.Load() > 0 },
	}
	srv := &http.Server{Handler: n.Handler(), ReadHeaderTimeout: 10 * time.Second}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { srv.Serve(ln) })
	running.Go(func() { n.Run(ctx) })
	n.stop = sync.OnceFunc(func() {
		srv.Close()
		n.Close(context.Background())
		cancel()
		running.Wait()
		if err := table.ConsistencyCheck(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(n.stop)
	return n
}

// get fetches the service's answer through the node's own tunnel.
func (n *clusterNode) get(t *testing.T) (string, error) {
	route := n.Table.Lookup("my-endpoint")
	if route == nil || len(route.Locals) == 0 {
		return "", fmt.Errorf("no tunnel to %s", n.NodeID)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://my-endpoint.example.com/", nil)
	if err != nil {
		return "", err
	}
	res, err := route.Locals[0].Upstream().RoundTrip(req)
	if err != nil {
		return "", err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return string(body), err
}

// awaitWeights waits until the nodes say that they serve the endpoint with
// these weights.
func awaitWeights(t *testing.T, reason string, nodes []*clusterNode, want ...int) {
	t.Helper()
	eventually(t, func() error {
		var got []int
		for _, n := range nodes {
			got = append(got, n.weights.of("my-endpoint"))
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Errorf("%s: the nodes serve the weights %v, want %v", reason, got, want)
		}
		return nil
	})
}

// An agent counts as one upstream, however many nodes it is connected to, and
// neither it nor they warn of a node that is restarted.
func TestAgentAtTwoNodes(t *testing.T) {
	t.Parallel()
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	log := new(logBuffer)
	var size atomic.Int64
	size.Store(2)
	a, b := startClusterNode(t, "node-a", "", &size, log), startClusterNode(t, "node-b", "", &size, log)
	template := &client.Client{URLs: []string{"http://" + a.addr, "http://" + b.addr}}
	agent, err := New(Config{Listeners: []Listener{{Endpoint: "my-endpoint", Addr: service.URL}}}, template, slog.New(slog.NewTextHandler(log, nil)), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	awaitWeights(t, "both nodes run", []*clusterNode{a, b}, 50, 50)
	for _, n := range []*clusterNode{a, b} {
		if got, err := n.get(t); got != "ok" || err != nil {
			t.Errorf("through %s: %q, %v", n.NodeID, got, err)
		}
	}

	size.Store(1)
	a.TellClusterSize(1)
	b.Drain(t.Context(), tunnel.DrainMessage{Reason: "shutdown"})
	awaitWeights(t, "one has been left", []*clusterNode{a, b}, 100, 0)
	eventually(t, func() error {
		if left := b.Tunnels(); left != 0 {
			return fmt.Errorf("%d tunnels are left at %s", left, b.NodeID)
		}
		return nil
	})
	b.stop()
	if got, err := a.get(t); got != "ok" || err != nil {
		t.Errorf("through the one that is left: %q, %v", got, err)
	}

	b = startClusterNode(t, "node-b", b.addr, &size, log)
	size.Store(2)
	a.TellClusterSize(2)
	awaitWeights(t, "it is back", []*clusterNode{a, b}, 50, 50)
	if s := log.String(); strings.Contains(s, "level=WARN") || strings.Contains(s, "level=ERROR") {
		t.Errorf("the log warns of a restart:\n%s", s)
	}
	for _, line := range []string{"tunnel open", "leaving tunnel", "server asks to move"} {
		if n := strings.Count(log.String(), line); n > 3 {
			t.Errorf("%d lines say %q", n, line)
		}
	}

	b.stop() // without a word before
	awaitWeights(t, "one is lost", []*clusterNode{a, b}, 100, 0)
	stop()
	if err := <-done; err != nil {
		t.Error(err)
	}
	awaitWeights(t, "the agent has stopped", []*clusterNode{a, b}, 0, 0)
}
