package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/agent"
	"piko/client"
	"piko/tracing"
	"piko/tracing/tracingtest"
)

const (
	clientTrace  = "0af7651916cd43dd8448eb211c80319c"
	clientParent = "00-" + clientTrace + "-b7ad6b7169203331-01"
)

// traced are nodes, of which the first has an agent, and a service that knows what header it was sent.
type traced struct {
	nodes     []*testNode
	collector *tracingtest.Collector // nil: nobody traces
	service   *headerService
	client    *http.Client
}

// headerService keeps the header of the last request.
type headerService struct {
	*httptest.Server
	mu     sync.Mutex
	header http.Header
}

func startHeaderService(t *testing.T) *headerService {
	s := &headerService{}
	s.Server = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		s.mu.Lock()
		s.header = r.Header.Clone()
		s.mu.Unlock()
		if r.Header.Get("Upgrade") != "" {
			conn, _, err := w.(http.Hijacker).Hijack()
			if err == nil {
				_, _ = io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
				_, _ = io.Copy(conn, conn)
				_ = conn.Close()
			}
			return
		}
		_, _ = io.WriteString(w, "hello")
	}))
	t.Cleanup(s.Close)
	return s
}

func (s *headerService) last(name string) []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.header[name]
}

// startTraced starts so many nodes, and an agent at the first of them.
func startTraced(t *testing.T, nodes int, on bool) *traced {
	w := &traced{service: startHeaderService(t)}
	if on {
		w.collector = tracingtest.Start(t)
	}
	w.nodes = startCluster(t, nodes, func(cfg *serverConfig) {
		cfg.Cluster.Secret = []secret{"0123456789abcdef"}
		if on {
			cfg.Tracing.Endpoint = collectorURL(w.collector.URL)
		}
	})
	w.agent(t, w.service.URL)
	w.client = newClient(t) // whose connections end before the nodes wait for that
	for _, n := range w.nodes {
		eventually(t, func() error {
			if n.table.Lookup("my-endpoint") == nil {
				return errors.New("the agent is not known everywhere")
			}
			return nil
		})
	}
	return w
}

// agent starts one more agent at the first node.
func (w *traced) agent(t *testing.T, service string) {
	var tracer *tracing.Tracer
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	var running sync.WaitGroup
	if w.collector != nil {
		var err error
		if tracer, err = tracing.New(tracing.Options{URL: w.collector.URL, Service: "piko-agent", Ratio: 1}); err != nil {
			t.Fatal(err)
		}
		running.Go(func() { tracer.Run(ctx) })
	}
	a, err := agent.New(agent.Config{Tracer: tracer, GracePeriod: 5 * time.Second, Listeners: []agent.Listener{{Endpoint: "my-endpoint", Addr: service}}},
		&client.Client{URL: "http://" + w.nodes[0].UpstreamAddr().String(), Connections: 1}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, before := w.nodes[0].table.Totals()
	running.Go(func() { _ = a.Run(ctx) })
	t.Cleanup(func() { cancel(); running.Wait() })
	eventually(t, func() error {
		if _, now := w.nodes[0].table.Totals(); now <= before {
			return errors.New("the agent is not connected")
		}
		return nil
	})
}

func (w *traced) get(t *testing.T, n *testNode, endpoint string, headers ...string) (status int) {
	t.Helper()
	status, _, _ = get(t, w.client, "http://"+n.ProxyAddr().String()+"/a?token=secret", append([]string{"x-piko-endpoint", endpoint}, headers...)...)
	return status
}

// chain waits for n spans of one trace, of which each is the parent of one other, and returns them in that order.
func (w *traced) chain(t *testing.T, n int) []tracingtest.Span {
	t.Helper()
	left := w.collector.Wait(t, n)
	var chain []tracingtest.Span
	root := slices.IndexFunc(left, func(s tracingtest.Span) bool {
		return !slices.ContainsFunc(left, func(p tracingtest.Span) bool { return p.ID == s.Parent })
	})
	for root >= 0 {
		s := left[root]
		chain = append(chain, s)
		root = slices.IndexFunc(left, func(c tracingtest.Span) bool { return c.Parent == s.ID && c.Trace == s.Trace })
	}
	if len(chain) != n || len(left) != n {
		t.Fatalf("%d spans in a chain of %d:\n%s", len(chain), n, show(left))
	}
	return chain
}

func show(spans []tracingtest.Span) string {
	var b strings.Builder
	for _, s := range spans {
		fmt.Fprintf(&b, "%+v\n", s)
	}
	return b.String()
}

// A request that makes a hop is one trace: a span for who gets it and one for who sends it on, at the entry node, the
// owner and the agent; and the service goes on below the last of them.
func TestTraceOverHop(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 2, true)
	entry := w.nodes[1]
	if status := w.get(t, entry, "my-endpoint", "Traceparent", clientParent, "Tracestate", "a=1"); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	chain := w.chain(t, 6)
	if chain[0].Parent != "b7ad6b7169203331" || chain[0].Trace != clientTrace {
		t.Errorf("the first span is no child of the client's: %+v", chain[0])
	}
	for i, want := range []struct{ service, kind string }{
		{"piko-server", "SERVER"}, {"piko-server", "CLIENT"}, {"piko-server", "SERVER"}, {"piko-server", "CLIENT"}, {"piko-agent", "SERVER"}, {"piko-agent", "CLIENT"},
	} {
		s := chain[i]
		if s.Service != want.service || s.Kind != want.kind || s.Failed || s.Attrs["http.response.status_code"] != "200" || s.Name != "GET" {
			t.Errorf("span %d is %+v, want %v", i, s, want)
		}
		for key, value := range s.Attrs {
			if strings.Contains(value, "secret") {
				t.Errorf("%s has the query", key)
			}
		}
		times := []string{tracing.Dial, tracing.FirstByte}
		if s.Kind == "SERVER" {
			times = []string{tracing.Endpoint, "url.path"}
		}
		for _, key := range times {
			if s.Attrs[key] == "" {
				t.Errorf("span %d has no %s", i, key)
			}
		}
	}
	if chain[0].Attrs[tracing.Queued] == "" || chain[0].Attrs[tracing.Node] != "n2" || chain[1].Attrs[tracing.HopTo] != "n1" || chain[2].Attrs[tracing.Node] != "n1" {
		t.Errorf("the nodes are not in the spans:\n%s", show(chain))
	}
	if got, want := w.service.last("Traceparent"), "00-"+clientTrace+"-"+chain[5].ID+"-01"; len(got) != 1 || got[0] != want {
		t.Errorf("the service got %q, want %q", got, want)
	}
	if got := w.service.last("Tracestate"); len(got) != 1 || got[0] != "a=1" {
		t.Errorf("the service got the tracestate %q", got)
	}
	if w.service.last("X-Piko-Trace") != nil {
		t.Error("the service got what is between nodes")
	}
	if !strings.Contains(entry.log.String(), `"trace_id":"`+clientTrace+`"`) {
		t.Errorf("the access log does not name the trace:\n%s", entry.log)
	}
	w.exemplars(t, entry)
}

// exemplars finds the trace in the metrics of who asks for OpenMetrics, and nothing new in those of others.
func (w *traced) exemplars(t *testing.T, n *testNode) {
	url := "http://" + n.AdminAddr().String() + "/metrics"
	_, text, _ := get(t, w.client, url, "Accept", "application/openmetrics-text;version=1.0.0")
	found := false
	for line := range strings.Lines(text) {
		found = found || strings.HasPrefix(line, "piko_proxy_request_latency_seconds_bucket{") && strings.Contains(line, `# {trace_id="`+clientTrace+`"}`)
	}
	if !found {
		t.Error("the latency has no exemplar")
	}
	_, text, _ = get(t, w.client, url)
	if strings.Contains(text, clientTrace) || !strings.Contains(text, `piko_proxy_requests_total{method="GET",status="200"} 1`) {
		t.Errorf("the text format has other metrics:\n%.2000s", text)
	}
}

// A client that has no trace begins one, and one that says that its own is not sampled has none; the service gets that.
func TestTraceOfClient(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 1, true)
	unsampled := strings.TrimSuffix(clientParent, "1") + "0"
	if w.get(t, w.nodes[0], "my-endpoint", "Traceparent", unsampled); w.service.last("Traceparent")[0] != unsampled {
		t.Errorf("the service got %q", w.service.last("Traceparent"))
	}
	w.get(t, w.nodes[0], "my-endpoint", "Traceparent", "no such thing", "Tracestate", "a=1")
	chain := w.chain(t, 4)
	if chain[0].Parent != "" {
		t.Errorf("the first span has a parent: %+v", chain[0])
	}
	if got := w.service.last("Traceparent"); len(got) != 1 || !strings.HasPrefix(got[0], "00-"+chain[0].Trace+"-"+chain[3].ID) || w.service.last("Tracestate") != nil {
		t.Errorf("the service got %q, %q", got, w.service.last("Tracestate"))
	}
}

// What fails says why, by the codes that clients get.
func TestTraceOfFailures(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 1, true)
	if status := w.get(t, w.nodes[0], "nobody", "Traceparent", clientParent); status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	s := w.collector.Wait(t, 1)[0]
	if !s.Failed || s.Attrs["error.type"] != "no-upstream" || s.Attrs["http.response.status_code"] != "502" || s.Attrs[tracing.Endpoint] != "nobody" {
		t.Errorf("span of an endpoint that nobody serves: %+v", s)
	}

	w.service.Close()
	if status := w.get(t, w.nodes[0], "my-endpoint", "Traceparent", clientParent); status != http.StatusBadGateway {
		t.Errorf("status %d", status)
	}
	for _, s := range w.collector.Wait(t, 5)[1:] {
		if !s.Failed || s.Attrs["error.type"] == "" {
			t.Errorf("span of a service that is down: %+v", s)
		}
	}
}

// Each attempt is a span.
func TestTraceOfRetry(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 1, true)
	down, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_ = down.Close()
	w.agent(t, "http://"+down.Addr().String())
	retried := func() (root *tracingtest.Span, attempts int) {
		spans := w.collector.Spans()
		for i, s := range spans {
			if s.Attrs[tracing.Retries] != "1" {
				continue
			}
			for _, c := range spans {
				if c.Parent == s.ID {
					attempts++
				}
			}
			return &spans[i], attempts
		}
		return nil, 0
	}
	eventually(t, func() error {
		if status := w.get(t, w.nodes[0], "my-endpoint"); status != http.StatusOK {
			t.Fatalf("status %d", status)
		}
		if root, attempts := retried(); root == nil || attempts != 2 || root.Failed {
			return fmt.Errorf("no request was sent twice: %+v, %d", root, attempts)
		}
		return nil
	})
}

// The span of an upgraded connection ends with the handshake, and one that is carried byte for byte has none.
func TestTraceOfConnections(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 1, true)
	conn, err := net.Dial("tcp", w.nodes[0].ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprintf(conn, "GET /_piko/v1/tcp/my-endpoint HTTP/1.1\r\nHost: x\r\nTraceparent: %s\r\n\r\n", clientParent)
	r := bufio.NewReader(conn)
	if res, err := http.ReadResponse(r, nil); err != nil || res.StatusCode != http.StatusBadRequest {
		t.Fatalf("%+v, %v", res, err)
	} else {
		_, _ = io.Copy(io.Discard, res.Body)
	}
	up, err := net.Dial("tcp", w.nodes[0].ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	fmt.Fprintf(up, "GET / HTTP/1.1\r\nHost: my-endpoint.example.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\nTraceparent: %s\r\n\r\n", clientParent)
	if res, err := http.ReadResponse(bufio.NewReader(up), nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%+v, %v", res, err)
	}
	for _, s := range w.chain(t, 4) { // while it is open
		if s.Attrs["http.response.status_code"] != "101" {
			t.Errorf("span of a handshake: %+v", s)
		}
	}
}

// Requests of HTTP/2 are traced as others are.
func TestTraceOverHTTP2(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 1, true)
	transport := &http.Transport{Protocols: new(http.Protocols)}
	transport.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(transport.CloseIdleConnections)
	w.client = &http.Client{Transport: transport}
	if status := w.get(t, w.nodes[0], "my-endpoint", "Traceparent", clientParent); status != http.StatusOK {
		t.Fatalf("status %d", status)
	}
	chain := w.chain(t, 4)
	if got := chain[0].Attrs["network.protocol.version"]; got != "2" {
		t.Errorf("version %q", got)
	}
}

// Where nobody traces, what a client says passes to the service as it is, also over a hop and through what does not parse.
func TestTraceparentPasses(t *testing.T) {
	t.Parallel()
	w := startTraced(t, 2, false)
	for _, parent := range []string{clientParent, "00-zz", "", "cc" + clientParent[2:] + "-more"} {
		for _, n := range w.nodes {
			if status := w.get(t, n, "my-endpoint", "Traceparent", parent, "Tracestate", "a=1,b=2"); status != http.StatusOK {
				t.Fatalf("status %d", status)
			}
			if got := w.service.last("Traceparent"); len(got) != 1 || got[0] != parent {
				t.Errorf("through %s the service got %q, want %q", n.id, got, parent)
			}
			if got := w.service.last("Tracestate"); len(got) != 1 || got[0] != "a=1,b=2" {
				t.Errorf("through %s the service got the tracestate %q", n.id, got)
			}
		}
	}
	w.get(t, w.nodes[1], "my-endpoint")
	if w.service.last("Traceparent") != nil {
		t.Error("a traceparent was made up")
	}
}
