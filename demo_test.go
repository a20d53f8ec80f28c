package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"

	"github.com/gorilla/websocket"
)

// demoProcess is a process whose output is kept; signals may be nil.
func demoProcess(ctx context.Context, stdout io.Writer, signals <-chan os.Signal) *process {
	return &process{
		ctx:    ctx,
		getenv: func(string) (string, bool) { return "", false },
		stdout: stdout, stderr: io.Discard,
		signals: signals,
	}
}

// runDemo runs the demo to its end and returns its output.
func runDemo(t *testing.T, args ...string) (status int, out string) {
	t.Helper()
	var b bytes.Buffer
	status = run(append([]string{"demo", "--exit"}, args...), demoProcess(t.Context(), &b, nil))
	return status, b.String()
}

func wantParts(t *testing.T, out string, parts ...string) {
	t.Helper()
	for _, want := range parts {
		if !strings.Contains(out, want) {
			t.Errorf("output lacks %q:\n%s", want, out)
		}
	}
}

func TestDemoRestartsEveryNodeAndLosesNothing(t *testing.T) {
	t.Parallel()
	status, out := runDemo(t)
	if status != exitOK {
		t.Errorf("status %d, want 0:\n%s", status, out)
	}
	wantParts(t, out, "x-piko-endpoint: my-endpoint", "Host: my-endpoint.example.com", "POST /echo", "server-sent events", "101: 3 messages", "All 5 requests",
		"GET /  at node-1", "GET /  at node-2", "GET /  at node-3", "Every node serves the endpoint",
		"node-3   ", "All 3 nodes were restarted, and none of ")
}

func TestDemoOfOneNode(t *testing.T) {
	t.Parallel()
	status, out := runDemo(t, "--nodes", "1")
	if status != exitOK {
		t.Errorf("status %d, want 0:\n%s", status, out)
	}
	wantParts(t, out, "A piko server", "All 5 requests")
	if strings.Contains(out, "node-2") || strings.Contains(out, "Restarting") {
		t.Errorf("one node is said to be more:\n%s", out)
	}
}

func TestDemoRefusesOddNumbersOfNodes(t *testing.T) {
	for _, n := range []string{"0", "-1", "10", "x"} {
		if status, _ := runDemo(t, "--nodes="+n); status != exitUsage {
			t.Errorf("%s nodes: status %d, want 2", n, status)
		}
	}
}

func TestDemoRunsUntilASignalAndCanBeTried(t *testing.T) {
	t.Parallel()
	r, w := io.Pipe()
	signals := make(chan os.Signal, 1)
	status := make(chan int, 1)
	go func() {
		status <- run([]string{"demo", "--nodes", "1"}, demoProcess(t.Context(), w, signals))
		w.Close()
	}()
	var url string
	lines := bufio.NewScanner(r)
	for lines.Scan() {
		if _, rest, ok := strings.Cut(lines.Text(), "curl -H 'x-piko-endpoint: my-endpoint' "); ok {
			url = rest
		}
		if strings.Contains(lines.Text(), "Ctrl-C") {
			break
		}
	}
	if url == "" {
		t.Fatalf("demo printed no curl line; status %d", <-status)
	}
	go io.Copy(io.Discard, r)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, url, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("x-piko-endpoint", "my-endpoint")
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("the line to try does not work: %v", err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if string(body) != demoGreeting || err != nil {
		t.Errorf("the line to try gives %q, error %v", body, err)
	}
	signals <- syscall.SIGINT
	if s := <-status; s != exitOK {
		t.Errorf("status %d after Ctrl-C, want 0", s)
	}
}

func TestDemoFailsWhenARequestFails(t *testing.T) {
	t.Parallel()
	d, err := newDemo(1, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	d.start(t.Context())
	defer d.stop()
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := d.show(ctx, io.Discard); err == nil {
		t.Error("requests under a context that has ended worked")
	}
}

// TestDemoLoadCountsFailures: a load that lost something must say so.
func TestDemoLoadCountsFailures(t *testing.T) {
	t.Parallel()
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		demoOrigin().ServeHTTP(w, r)
	}))
	defer service.Close()
	load := startLoad(t.Context(), service.Listener.Addr().String())
	eventually(t, func() error {
		for _, k := range load.kinds {
			if k.done.Load() == 0 {
				return fmt.Errorf("no %s was sent", k.what)
			}
		}
		return nil
	})
	load.end()
	if done, failed := load.totals(); failed == 0 || failed == done {
		t.Errorf("%d of %d failed, want all POSTs and nothing else", failed, done)
	}
	var out bytes.Buffer
	load.report(&out)
	wantParts(t, out.String(), "first: server answered 502")
}

// balancedDemo is nodes that are only an answer to /ready and a port that says
// its number; the caller says which are ready.
func balancedDemo(t *testing.T, ready *[2]atomic.Bool) (b *demoBalancer, ports []net.Listener) {
	t.Helper()
	var nodes []*demoNode
	for i := range ready {
		admin := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if !ready[i].Load() {
				w.WriteHeader(http.StatusServiceUnavailable)
			}
		}))
		t.Cleanup(admin.Close)
		port, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { port.Close() })
		ports = append(ports, port)
		go echoWithNumber(port, i)
		n := &demoNode{name: fmt.Sprint(i)}
		n.cfg.Admin.BindAddr = bindAddr(admin.Listener.Addr().String())
		n.cfg.Proxy.BindAddr = bindAddr(port.Addr().String())
		nodes = append(nodes, n)
	}
	b, err := newDemoBalancer(nodes)
	if err != nil {
		t.Fatal(err)
	}
	part := startPart(t.Context(), make(chan struct{}, 1), "balancer", b.run)
	t.Cleanup(func() {
		if err := part.stop(); err != nil {
			t.Error(err)
		}
	})
	return b, ports
}

// echoWithNumber answers the bytes of each connection, once they have ended,
// with them and a number.
func echoWithNumber(ln net.Listener, number int) {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return
		}
		body, _ := io.ReadAll(conn)
		fmt.Fprintf(conn, "%s%d", body, number)
		conn.Close()
	}
}

// throughBalancer sends a word, ends its side, and returns what comes back.
func throughBalancer(t *testing.T, b *demoBalancer) string {
	t.Helper()
	conn, err := net.Dial("tcp", b.proxyAddr())
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "node ")
	conn.(*net.TCPConn).CloseWrite()
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

func TestDemoBalancerKnowsWhoIsReady(t *testing.T) {
	var ready [2]atomic.Bool
	b, ports := balancedDemo(t, &ready)
	if got := throughBalancer(t, b); got != "" {
		t.Errorf("got %q from nodes that are not ready", got)
	}
	ready[1].Store(true)
	if err := b.awaitReady(t.Context(), 1); err != nil {
		t.Fatal(err)
	}
	for range 3 {
		if got := throughBalancer(t, b); got != "node 1" {
			t.Errorf("got %q, want the node that is ready", got)
		}
	}
	ready[0].Store(true)
	if err := b.awaitReady(t.Context(), 0); err != nil {
		t.Fatal(err)
	}
	seen := map[string]int{}
	for range 4 {
		seen[throughBalancer(t, b)]++
	}
	if seen["node 0"] != 2 || seen["node 1"] != 2 {
		t.Errorf("got %v, want both in turn", seen)
	}
	ports[0].Close() // it is gone, and /ready does not say so
	for range 2 {
		if got := throughBalancer(t, b); got != "node 1" {
			t.Errorf("got %q, want the node that can be reached", got)
		}
	}
}

func TestDemoWebSocketSpeaksWithOthers(t *testing.T) {
	t.Run("our service with gorilla's client", func(t *testing.T) {
		s := httptest.NewServer(demoOrigin())
		defer s.Close()
		conn, _, err := websocket.DefaultDialer.DialContext(t.Context(), "ws"+strings.TrimPrefix(s.URL, "http")+"/websocket", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if err := conn.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
			t.Fatal(err)
		}
		if _, got, err := conn.ReadMessage(); err != nil || string(got) != "hello" {
			t.Errorf("echo is %q, error %v", got, err)
		}
	})
	t.Run("our client with gorilla's service", func(t *testing.T) {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			conn, err := new(websocket.Upgrader).Upgrade(w, r, nil)
			if err != nil {
				t.Error(err)
				return
			}
			defer conn.Close()
			kind, message, err := conn.ReadMessage()
			if err != nil {
				t.Error(err)
				return
			}
			conn.WriteMessage(kind, message)
			conn.ReadMessage() // the close, which is answered
		}))
		defer s.Close()
		conn, err := net.Dial("tcp", s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, s.URL, nil)
		r, err := wsDial(conn, req)
		if err != nil {
			t.Fatal(err)
		}
		if err := wsRoundTrip(conn, r, wsText, "hello"); err != nil {
			t.Errorf("message: %v", err)
		}
		if err := wsRoundTrip(conn, r, wsClose, "\x03\xe8"); err != nil {
			t.Errorf("close: %v", err)
		}
	})
}

func TestDemoWebSocketRefusesOtherFrames(t *testing.T) {
	for name, frame := range map[string]string{
		"fragmented":        "\x01\x81\x00\x00\x00\x00a",
		"reserved bit":      "\xc1\x81\x00\x00\x00\x00a",
		"unmasked":          "\x81\x01a",
		"too long":          "\x81\xfe\x00\x80\x00\x00\x00\x00",
		"cut in the header": "\x81",
		"cut in the mask":   "\x81\x81\x00",
		"cut in the text":   "\x81\x82\x00\x00\x00\x00a",
	} {
		if _, _, err := wsRead(strings.NewReader(frame), true); err == nil {
			t.Errorf("a frame that is %s was read", name)
		}
	}
	if err := wsWrite(io.Discard, wsText, make([]byte, wsMaxPayload+1), true); err == nil {
		t.Error("a frame that is too long was written")
	}
}
