package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"piko/agent"
	"piko/client"
)

// sickService is a service that can fall ill: it then answers everything with 503.
type sickService struct {
	*httptest.Server
	sick atomic.Bool
}

func newSickService(t *testing.T, name string) *sickService {
	s := &sickService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if s.sick.Load() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
		io.WriteString(w, name)
	}))
	t.Cleanup(s.Close)
	return s
}

// startCheckedAgent runs an agent that checks its service all the time.
func startCheckedAgent(t *testing.T, n *testNode, endpoint, service string) {
	t.Helper()
	check := agent.HealthCheck{Type: agent.CheckHTTP, Path: "/healthz", Interval: 100 * time.Millisecond, Timeout: 20 * time.Second, Rise: 1, Fall: 1, StartGate: true}
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: endpoint, Addr: service, HealthCheck: check}}, GracePeriod: 5 * time.Second},
		&client.Client{URL: "http://" + n.UpstreamAddr().String(), Connections: 1}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent failed: %v", err)
		}
	})
}

// awaitWeights waits until the node knows the weights of the endpoint, that of its
// own tunnel and that of the other node.
func awaitWeights(t *testing.T, n *testNode, endpoint string, local, remote int) {
	t.Helper()
	eventually(t, func() error {
		r := n.table.Lookup(endpoint)
		if r == nil || len(r.Locals) != 1 || len(r.Remotes) != 1 {
			return fmt.Errorf("%s does not know of both tunnels", n.id)
		}
		if l, o := r.Locals[0].Weight(), r.Remotes[0].Weight; l != local || o != remote {
			return fmt.Errorf("%s has the weights %d and %d, want %d and %d", n.id, l, o, local, remote)
		}
		return nil
	})
}

// A service that is ill gets no requests through any node as long as another agent
// has the endpoint, and gets them again when it is well. Requests that cannot be
// repeated show it.
func TestServiceThatIsIllGetsNoRequests(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	a, b := newSickService(t, "a"), newSickService(t, "b")
	startCheckedAgent(t, nodes[0], "e", a.URL)
	startCheckedAgent(t, nodes[1], "e", b.URL)
	c := newClient(t)
	answers := func(n *testNode) map[string]int {
		t.Helper()
		got := map[string]int{}
		for range 50 {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://"+n.ProxyAddr().String()+"/", nil)
			req.Header.Set("x-piko-endpoint", "e")
			res, err := c.Do(req)
			if err != nil {
				t.Fatal(err)
			}
			body, _ := io.ReadAll(res.Body)
			res.Body.Close()
			got[fmt.Sprint(res.StatusCode, " ", string(body))]++
		}
		return got
	}
	awaitWeights(t, nodes[0], "e", 100, 100)
	awaitWeights(t, nodes[1], "e", 100, 100)

	a.sick.Store(true)
	awaitWeights(t, nodes[0], "e", 0, 100)
	awaitWeights(t, nodes[1], "e", 100, 1)
	for _, n := range nodes {
		if got := answers(n); got["200 b"] != 50 {
			t.Errorf("through %s while a is ill: %v", n.id, got)
		}
	}

	b.sick.Store(true) // the last resort is better than nothing
	awaitWeights(t, nodes[0], "e", 0, 1)
	if got := answers(nodes[0]); got["503 a"]+got["503 b"] != 50 {
		t.Errorf("while both are ill: %v", got)
	}

	a.sick.Store(false)
	awaitWeights(t, nodes[0], "e", 100, 1)
	awaitWeights(t, nodes[1], "e", 0, 100)
	for _, n := range nodes {
		if got := answers(n); got["200 a"] != 50 {
			t.Errorf("through %s when a is well again: %v", n.id, got)
		}
	}
}
