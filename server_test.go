package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/netip"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/agent"
	"piko/client"
	"piko/tunnel"
)

// testNode is a node as main runs it, on free ports.
type testNode struct {
	*server
	log  *lockedBuffer
	stop func() error // ends it and returns what Run said
}

// startNode runs a node until the test's end; change may be nil.
func startNode(t *testing.T, change func(*serverConfig)) *testNode {
	t.Helper()
	cfg := loopbackServerConfig()
	cfg.GracePeriod = 5 * time.Second
	n := &testNode{log: &lockedBuffer{}}
	cfg.AccessOut = n.log
	if change != nil {
		change(&cfg)
	}
	var level slog.LevelVar
	s, err := newServer(cfg, newLogger(n.log, cfg.Log, &level))
	if err != nil {
		t.Fatal(err)
	}
	n.server = s
	ctx, cancel := context.WithCancelCause(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	n.stop = sync.OnceValue(func() error {
		cancel(errors.New("the test is over"))
		return <-done
	})
	t.Cleanup(func() {
		if err := n.stop(); err != nil {
			t.Errorf("the node failed: %v", err)
		}
		if t.Failed() {
			t.Logf("log of the node:\n%s", n.log)
		}
	})
	<-s.Ready()
	return n
}

// startAgent runs an agent for one service until the test's end, or stop.
func startAgent(t *testing.T, n *testNode, endpoint, addr string) (stop func()) {
	t.Helper()
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: endpoint, Addr: addr}}, GracePeriod: 5 * time.Second},
		&client.Client{URL: "http://" + n.UpstreamAddr().String()}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	_, before := n.table.Totals()
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent failed: %v", err)
		}
	})
	t.Cleanup(stop)
	eventually(t, func() error {
		if _, now := n.table.Totals(); now <= before {
			return fmt.Errorf("the agent for %s is not connected", endpoint)
		}
		return nil
	})
	return stop
}

// testService answers every request with what it was asked.
func testService(t *testing.T) *httptest.Server {
	t.Helper()
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		fmt.Fprintf(w, "%s %s %s %s", r.Method, r.URL.RequestURI(), r.Header.Get("x-piko-endpoint"), body)
	}))
	t.Cleanup(s.Close)
	return s
}

// newClient is an HTTP client whose connections end with the test.
func newClient(t *testing.T) *http.Client {
	t.Helper()
	transport := &http.Transport{MaxIdleConnsPerHost: 64}
	t.Cleanup(transport.CloseIdleConnections)
	return &http.Client{Transport: transport, Timeout: 20 * time.Second}
}

// get asks a node; headers are name, value, ... and Host is the request's host.
func get(t *testing.T, c *http.Client, url string, headers ...string) (status int, body string, header http.Header) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		if headers[i] == "Host" {
			req.Host = headers[i+1]
			continue
		}
		req.Header.Set(headers[i], headers[i+1])
	}
	res, err := c.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(text), res.Header
}

func TestRequestsReachTheServiceByHeaderAndByHost(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	c, url := newClient(t), "http://"+n.ProxyAddr().String()
	for _, headers := range [][]string{
		{"x-piko-endpoint", "my-endpoint"},
		{"X-Piko-Endpoint", "My-Endpoint"},
		{"Host", "my-endpoint.example.com"},
		{"Host", "my-endpoint.example.com:8000"},
		{"Host", "other.example.com", "x-piko-endpoint", "my-endpoint"},
	} {
		status, body, _ := get(t, c, url+"/a%2Fb?q=1", headers...)
		if status != http.StatusOK || !strings.HasPrefix(body, "GET /a%2Fb?q=1 ") {
			t.Errorf("%v: %d %s", headers, status, body)
		}
	}
}

func TestRequestsThatGoNowhere(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	c, url := newClient(t), "http://"+n.ProxyAddr().String()
	for _, tt := range []struct {
		name    string
		path    string
		headers []string
		status  int
		code    string
	}{
		{"unknown endpoint", "/", []string{"x-piko-endpoint", "nobody"}, 502, "no-upstream"},
		{"no endpoint", "/", nil, 400, "missing-endpoint"},
		{"forbidden bytes", "/", []string{"x-piko-endpoint", "a/b"}, 400, "invalid-endpoint"},
		{"300 bytes", "/", []string{"x-piko-endpoint", strings.Repeat("a", 300)}, 400, "invalid-endpoint"},
		{"reserved path", "/_piko/v1/anything", []string{"x-piko-endpoint", "my-endpoint"}, 404, "reserved-path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			status, body, header := get(t, c, url+tt.path, tt.headers...)
			var got struct{ Error, Code string }
			if err := json.Unmarshal([]byte(body), &got); err != nil {
				t.Fatalf("%v: %s", err, body)
			}
			if status != tt.status || got.Code != tt.code || got.Error == "" || header.Get("x-piko-error") != tt.code {
				t.Errorf("%d %s (x-piko-error %s), want %d %s", status, body, header.Get("x-piko-error"), tt.status, tt.code)
			}
		})
	}
}

func TestAdminPortKnowsTheNode(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	startAgent(t, n, "my-endpoint", testService(t).URL)
	c, url := newClient(t), "http://"+n.AdminAddr().String()
	for path, want := range map[string]string{
		"/health":                    "",
		"/ready":                     "",
		"/status/upstream/endpoints": `"my-endpoint":1`,
		"/metrics":                   "piko_upstreams_connected_upstreams 1",
		"/debug/pprof/goroutine":     "",
	} {
		if status, body, _ := get(t, c, url+path); status != http.StatusOK || !strings.Contains(body, want) {
			t.Errorf("%s: %d, want 200 and %q in\n%.2000s", path, status, want, body)
		}
	}
	status, stdout, stderr := runPiko(t, "server", "status", "upstream", "endpoints", "--server.url", url)
	if status != exitOK || stdout != "my-endpoint: 1\n" {
		t.Errorf("exit status %d, stdout %q, stderr %q", status, stdout, stderr)
	}
}

func TestAccessLogTellsEachRequest(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(cfg *serverConfig) { cfg.Cluster.NodeID = "n1" })
	startAgent(t, n, "my-endpoint", testService(t).URL)
	c := newClient(t)
	get(t, c, "http://"+n.ProxyAddr().String()+"/here", "x-piko-endpoint", "my-endpoint")
	c.CloseIdleConnections()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(n.log.String()) {
		var got struct {
			Msg, Subsystem string
			Request        struct {
				Path, Endpoint, Node, Upstream string
				Status                         int
			}
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Fatalf("a line of the log is not JSON: %v: %s", err, line)
		}
		if got.Msg == "request" {
			if net.ParseIP(hostOf(got.Request.Upstream)) == nil {
				t.Errorf("the upstream is %q, want the address of its tunnel", got.Request.Upstream)
			}
			if got.Subsystem != "proxy.access" || got.Request.Path != "/here" || got.Request.Endpoint != "my-endpoint" || got.Request.Node != "n1" || got.Request.Status != 200 {
				t.Errorf("got %s", line)
			}
			return
		}
	}
	t.Error("the access log has no request")
}

func hostOf(hostport string) string {
	host, _, _ := net.SplitHostPort(hostport)
	return host
}

func TestRoutingByHostCanBeRestrictedToDomains(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(cfg *serverConfig) { cfg.Proxy.Domain = []domain{"tunnels.example.com"} })
	startAgent(t, n, "my-endpoint", testService(t).URL)
	for host, want := range map[string]int{"my-endpoint.tunnels.example.com": 200, "my-endpoint.example.com": 400} {
		if status, _, _ := get(t, newClient(t), "http://"+n.ProxyAddr().String()+"/", "Host", host); status != want {
			t.Errorf("Host %s: %d, want %d", host, status, want)
		}
	}
}

func TestForwardedHeadersAreBelievedOnlyOfTrustedProxies(t *testing.T) {
	t.Parallel()
	forwarded := func(set func(*serverConfig)) string {
		n := startNode(t, set)
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, r.Header.Get("X-Forwarded-For"))
		}))
		t.Cleanup(s.Close)
		startAgent(t, n, "my-endpoint", s.URL)
		_, body, _ := get(t, newClient(t), "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", "my-endpoint", "X-Forwarded-For", "192.0.2.1")
		return body
	}
	if got := forwarded(nil); got != "127.0.0.1" {
		t.Errorf("of a stranger: %q", got)
	}
	if got := forwarded(func(cfg *serverConfig) { cfg.Proxy.TrustedProxies = []ipPrefix{{netip.MustParsePrefix("127.0.0.0/8")}} }); got != "192.0.2.1, 127.0.0.1" {
		t.Errorf("of a trusted proxy: %q", got)
	}
}

func TestNewServerWithAPortInUseLeavesNothingOpen(t *testing.T) {
	taken, err := openTCP("test", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	free, err := openTCP("test", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := bindAddr(free.Addr().String())
	free.Close()
	cfg := loopbackServerConfig()
	cfg.Proxy.BindAddr, cfg.Admin.BindAddr = addr, bindAddr(taken.Addr().String())
	if _, err := newServer(cfg, slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), "--admin.bind-addr") {
		t.Fatalf("error %v, want one about --admin.bind-addr", err)
	}
	again, err := openTCP("test", addr)
	if err != nil {
		t.Fatalf("the proxy port was left open: %v", err)
	}
	again.Close()
}

// TestDrainUnderLoadLosesNothing: clients that have connections, and heed
// Connection: close, lose no request when the node is told to stop.
func TestDrainUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	const shutdownDelay = 300 * time.Millisecond
	n := startNode(t, func(cfg *serverConfig) { cfg.ShutdownDelay = shutdownDelay })
	startAgent(t, n, "my-endpoint", testService(t).URL)
	url := "http://" + n.ProxyAddr().String()

	var served, refused atomic.Int64
	var clients sync.WaitGroup
	for range 16 {
		c := newClient(t)
		clients.Go(func() {
			for i := 0; ; i++ {
				status, err := post(t.Context(), c, url, fmt.Sprint(i))
				switch {
				case err == nil && status == http.StatusOK:
					served.Add(1)
				case errors.As(err, new(*net.OpError)) && strings.Contains(err.Error(), "connection refused"):
					refused.Add(1)
					return // the node has stopped listening: clients go to another one
				default:
					t.Errorf("lost a request: status %d, error %v", status, err)
					return
				}
			}
		})
	}
	eventually(t, func() error {
		if served.Load() < 500 {
			return fmt.Errorf("%d requests served", served.Load())
		}
		return nil
	})
	before, began := served.Load(), time.Now()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	clients.Wait()
	if took := time.Since(began); took < shutdownDelay || took > 4*time.Second {
		t.Errorf("the drain took %v", took)
	}
	if served.Load() == before || refused.Load() != 16 {
		t.Errorf("%d requests were served during the delay, %d clients refused; want some and 16", served.Load()-before, refused.Load())
	}
	if !strings.Contains(n.log.String(), `"requests_cut":0`) {
		t.Error("the log does not say that nothing was cut")
	}
}

func post(ctx context.Context, c *http.Client, url, body string) (int, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, url, strings.NewReader(body))
	if err != nil {
		return 0, err
	}
	req.Header.Set("x-piko-endpoint", "my-endpoint")
	res, err := c.Do(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err == nil && !strings.HasSuffix(string(text), " "+body) {
		err = fmt.Errorf("wrong answer %q to %q", text, body)
	}
	return res.StatusCode, err
}

func TestDrainTellsItsState(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	arrived := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(arrived)
		<-release
		_, _ = io.WriteString(w, "late")
	}))
	defer service.Close()
	n := startNode(t, nil)
	startAgent(t, n, "my-endpoint", service.URL)
	c := newClient(t)

	type answer struct {
		status int
		body   string
	}
	got := make(chan answer, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.ProxyAddr().String(), nil)
		req.Header.Set("x-piko-endpoint", "my-endpoint")
		res, err := c.Do(req)
		if err != nil {
			got <- answer{0, err.Error()}
			return
		}
		defer res.Body.Close()
		body, _ := io.ReadAll(res.Body)
		got <- answer{res.StatusCode, string(body)}
	}()
	<-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	eventually(t, func() error {
		if status, _, _ := get(t, c, "http://"+n.AdminAddr().String()+"/ready"); status != http.StatusServiceUnavailable {
			return fmt.Errorf("/ready says %d", status)
		}
		return nil
	})
	if status, _, _ := get(t, c, "http://"+n.AdminAddr().String()+"/health"); status != http.StatusOK {
		t.Errorf("/health says %d while the node drains, want 200", status)
	}
	eventually(t, func() error {
		conn, err := net.Dial("tcp", n.ProxyAddr().String())
		if err == nil {
			conn.Close()
			return errors.New("the proxy port takes connections")
		}
		return nil
	})
	close(release)
	if a := <-got; a.status != http.StatusOK || a.body != "late" {
		t.Errorf("the request in flight got %d %s", a.status, a.body)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestDrainCutsAndCountsWhatOutlivesTheGracePeriod(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.WriteString(w, "some")
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	defer service.Close()
	n := startNode(t, func(cfg *serverConfig) { cfg.GracePeriod = 200 * time.Millisecond })
	startAgent(t, n, "my-endpoint", service.URL)
	req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://"+n.ProxyAddr().String(), nil)
	req.Header.Set("x-piko-endpoint", "my-endpoint")
	res, err := newClient(t).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	began := time.Now()
	if err := n.stop(); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took > 2*time.Second {
		t.Errorf("the drain took %v with a grace period of 200 ms", took)
	}
	if body, err := io.ReadAll(res.Body); err == nil {
		t.Errorf("a response that was cut looks complete: %q", body)
	}
	for _, want := range []string{`"requests cut at the end of the grace period"`, `"requests_cut":1`} {
		if !strings.Contains(n.log.String(), want) {
			t.Errorf("the log does not say %s", want)
		}
	}
}

// TestDrainLetsRequestsBeRepeatedAtAgentsThatCannotMove: agents without
// control, as those of v0.9.0 are, serve as long as a request may need them.
func TestDrainLetsRequestsBeRepeatedAtAgentsThatCannotMove(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	upstream, err := url.Parse("http://" + n.UpstreamAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	without := httptest.NewServer(&httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
		r.SetURL(upstream)
		r.Out.Header.Del(tunnel.HeaderFeatures)
	}})
	defer without.Close()
	// Whichever agent gets the request first keeps it until its tunnel ends.
	var requests atomic.Int64
	arrived := make(chan *client.Listener, 1)
	for range 2 {
		ln, err := (&client.Client{URL: without.URL}).Listen(t.Context(), "my-endpoint")
		if err != nil {
			t.Fatal(err)
		}
		service := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if requests.Add(1) == 1 {
				arrived <- ln
				<-r.Context().Done()
				return
			}
			_, _ = io.WriteString(w, "served")
		})}
		var serving sync.WaitGroup
		serving.Go(func() { _ = service.Serve(ln) })
		defer serving.Wait()
		defer service.Close()
		defer ln.Close()
	}
	eventually(t, func() error {
		if _, upstreams := n.table.Totals(); upstreams != 2 {
			return fmt.Errorf("%d agents are connected", upstreams)
		}
		return nil
	})

	conn, err := net.Dial("tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: my-endpoint.example.com\r\n\r\n")
	first := <-arrived
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	eventually(t, func() error {
		for _, l := range n.table.Lookup("my-endpoint").Locals {
			if !l.Draining() {
				return errors.New("the node has not got as far as telling the agents")
			}
		}
		return nil
	})
	cut, cancel := context.WithCancel(t.Context())
	cancel()
	first.Shutdown(cut) // at once
	res, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); res.StatusCode != http.StatusOK || string(body) != "served" {
		t.Errorf("a request under way got %s %q, %v", res.Status, body, err)
	}
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestUpgradedConnectionsGetTheGracePeriod(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = rw.WriteString("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
		_ = rw.Flush()
		_, _ = io.Copy(conn, rw)
	}))
	defer service.Close()
	n := startNode(t, nil)
	startAgent(t, n, "my-endpoint", service.URL)
	conn, err := net.Dial("tcp", n.ProxyAddr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "GET / HTTP/1.1\r\nHost: my-endpoint.example.com\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n")
	br := bufio.NewReader(conn)
	res, err := http.ReadResponse(br, nil)
	if err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("%v, %v", res, err)
	}
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop() }()
	eventually(t, func() error {
		if !strings.Contains(n.log.String(), "draining upstreams") {
			return errors.New("the node has not got as far as telling the agents")
		}
		return nil
	})
	fmt.Fprint(conn, "still there\n")
	if line, err := br.ReadString('\n'); line != "still there\n" {
		t.Errorf("got %q, %v from an upgraded connection while the node drains", line, err)
	}
	conn.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
	if !strings.Contains(n.log.String(), `"requests_cut":0`) {
		t.Error("the log does not say that nothing was cut")
	}
}

func TestSecondSignalKills(t *testing.T) {
	t.Parallel()
	release := make(chan struct{})
	arrived := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) {
		close(arrived)
		<-release
	}))
	defer service.Close()
	defer close(release)
	p := newTestProcess(t)
	status := startRun(t, p, append([]string{"server", "--log.format=json", "--grace-period=500ms"}, anyPorts...)...)
	var started struct{ Proxy, Upstream string }
	eventually(t, func() error {
		for line := range strings.Lines(p.err.String()) {
			if strings.Contains(line, "node started") {
				return json.Unmarshal([]byte(line), &started)
			}
		}
		return errors.New("the node has not started")
	})
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: "my-endpoint", Addr: service.URL}}, GracePeriod: -1},
		&client.Client{URL: "http://" + started.Upstream}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	agentDone := make(chan error, 1)
	go func() { agentDone <- a.Run(ctx) }()
	defer func() { cancel(); <-agentDone }()
	eventually(t, func() error { return logged(p, "my-endpoint") })
	requestDone := make(chan struct{})
	go func() {
		defer close(requestDone)
		_, _ = post(ctx, newClient(t), "http://"+started.Proxy, "x")
	}()
	defer func() { <-requestDone }()
	<-arrived
	p.sigs <- interrupt
	eventually(t, func() error { return logged(p, "node draining") })
	p.sigs <- interrupt
	if got := <-status; got != exitFailure {
		t.Errorf("exit status %d, want 1", got)
	}
	if err := logged(p, "killed by a second signal"); err != nil {
		t.Error(err)
	}
}

// TestAgentCommand runs `piko agent start` as main does, with its metrics port.
func TestAgentCommand(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	file := writeFile(t, "agent.yaml", "listeners:\n  - {endpoint_id: one, addr: '${SERVICE}'}\n  - {endpoint_id: two, addr: '${SERVICE}'}\n")
	path, receive := systemd(t)
	p := newTestProcess(t, "SERVICE="+testService(t).URL, "NOTIFY_SOCKET="+path, "PIKO_CONNECT_URL=http://"+n.UpstreamAddr().String())
	status := startRun(t, p, "agent", "start", "--config.path", file, "--config.expand-env", "--server.enabled", "--server.bind-addr", "127.0.0.1:0")
	if got := receive(); got != "READY=1\nSTATUS=2 listeners" {
		t.Errorf("systemd heard %q", got)
	}
	eventually(t, func() error {
		if endpoints, _ := n.table.Totals(); endpoints != 2 {
			return fmt.Errorf("%d endpoints are connected", endpoints)
		}
		return nil
	})
	c := newClient(t)
	for _, endpoint := range []string{"one", "two"} {
		if status, body, _ := get(t, c, "http://"+n.ProxyAddr().String()+"/x", "x-piko-endpoint", endpoint); status != http.StatusOK {
			t.Errorf("%s: %d %s", endpoint, status, body)
		}
	}
	var serving struct{ Msg, Addr string }
	eventually(t, func() error {
		for line := range strings.Lines(p.err.String()) {
			if strings.Contains(line, "serving metrics") {
				return json.Unmarshal([]byte(line), &serving)
			}
		}
		return errors.New("the agent does not serve metrics")
	})
	if status, body, _ := get(t, c, "http://"+serving.Addr+"/metrics"); status != http.StatusOK || !strings.Contains(body, `piko_agent_requests_total{endpoint="one"`) {
		t.Errorf("metrics: %d %.500s", status, body)
	}
	p.sigs <- interrupt
	if got := <-status; got != exitOK {
		t.Errorf("exit status %d, want 0", got)
	}
	for _, want := range []string{"agent started", "agent stopped", "received interrupt", `"subsystem":"proxy.http.access"`} {
		if err := logged(p, want); err != nil {
			t.Error(err)
		}
	}
}

func TestAgentWithMetricsPortInUseFails(t *testing.T) {
	taken, err := openTCP("test", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	status, _, stderr := runPiko(t, "agent", "http", "e", "1", "--server.enabled", "--server.bind-addr", taken.Addr().String())
	if status != exitFailure || !strings.Contains(stderr, "--server.bind-addr") {
		t.Errorf("exit status %d, stderr %s", status, stderr)
	}
}
