package agent

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
)

// blockingService answers when release is closed; arrived gets a value for
// each request that came.
func blockingService(t testing.TB) (url string, arrived chan struct{}, release chan struct{}) {
	arrived, release = make(chan struct{}, 100), make(chan struct{})
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		arrived <- struct{}{}
		select {
		case <-release:
			io.WriteString(w, "done")
		case <-r.Context().Done():
		}
	})
	return service.URL, arrived, release
}

type result struct {
	status int
	body   string
	err    error
}

// inFlight sends n requests and returns when all of them are at the service.
func (a *testAgent) inFlight(n int, arrived <-chan struct{}) <-chan result {
	results := make(chan result, n)
	for range n {
		go func() {
			status, body, err := a.get("/")
			results <- result{status, body, err}
		}()
	}
	for range n {
		<-arrived
	}
	return results
}

func TestGracefulStopFinishesRequestsInFlight(t *testing.T) {
	url, arrived, release := blockingService(t)
	a := startAgent(t, url)
	const n = 10
	results := a.inFlight(n, arrived)
	a.stop()
	eventually(t, func() error {
		if !a.draining.Load() {
			return errNotYet
		}
		return nil
	})
	select {
	case err := <-a.done:
		t.Fatalf("Run returned %v with %d requests in flight", err, n)
	default:
	}
	close(release)
	for range n {
		if r := <-results; r.err != nil || r.status != 200 || r.body != "done" {
			t.Errorf("request in flight at the stop: status %d, body %q, error %v", r.status, r.body, r.err)
		}
	}
	// An HTTP client in the test keeps streams whose answers lacked "Connection: close".
	a.node.client.CloseIdleConnections()
	if err := <-a.done; err != nil {
		t.Errorf("Run returned %v after a graceful stop, want nil", err)
	}
	if strings.Contains(a.log.String(), "requests cut") {
		t.Errorf("log says that requests were cut:\n%s", a.log)
	}
}

func TestRequestsThatOutliveTheGracePeriodAreCutAndCounted(t *testing.T) {
	url, arrived, _ := blockingService(t)
	a := startAgent(t, url, func(o *agentOptions) { o.grace = time.Millisecond })
	results := a.inFlight(3, arrived)
	a.stop()
	if err := <-a.done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	for range 3 {
		if r := <-results; r.err == nil {
			t.Errorf("a request that was cut ended with status %d and %q, want an error", r.status, r.body)
		}
	}
	if log := a.log.String(); !strings.Contains(log, "requests cut") || !strings.Contains(log, "count=3") {
		t.Errorf("log does not say that 3 requests were cut:\n%s", log)
	}
	if n := testutil.ToFloat64(a.metrics.cut); n != 3 {
		t.Errorf("metric counts %v cut requests, want 3", n)
	}
	if n := testutil.ToFloat64(a.metrics.inFlight); n != 0 {
		t.Errorf("%v requests are in flight after the end", n)
	}
}

func TestUpgradedConnectionIsCutAtTheEndOfTheGracePeriod(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		conn, rw, err := http.NewResponseController(w).Hijack()
		if err != nil {
			return
		}
		defer conn.Close()
		io.WriteString(conn, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		io.Copy(io.Discard, rw)
	})
	a := startAgent(t, service.URL, func(o *agentOptions) { o.grace = time.Millisecond })
	conn, r := a.dialNode()
	fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: a.b\r\nConnection: upgrade\r\nUpgrade: x\r\n\r\n")
	if _, err := http.ReadResponse(r, nil); err != nil {
		t.Fatal(err)
	}
	a.stop()
	if err := <-a.done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if n := a.active.Load(); n != 0 {
		t.Errorf("Run returned with %d exchanges active", n)
	}
	if _, err := r.ReadByte(); err == nil {
		t.Error("the connection is still open")
	}
	if n := testutil.ToFloat64(a.metrics.cut); n != 1 {
		t.Errorf("metric counts %v cut connections, want 1", n)
	}
}

func TestAnswersDuringADrainEndTheirStream(t *testing.T) {
	url, arrived, release := blockingService(t)
	a := startAgent(t, url)
	a.draining.Store(true) // as drain does first
	results := make(chan *http.Response, 1)
	go func() {
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://a.b/", nil)
		res, err := a.do(req)
		if err != nil {
			t.Error(err)
		}
		results <- res
	}()
	<-arrived
	close(release)
	if res := <-results; res != nil {
		res.Body.Close()
		if !res.Close {
			t.Error("answer during a drain does not say Connection: close, so a node that knows no drain would reuse the stream")
		}
	}
}

// refused is the connect of a listener that a node refuses for good.
func refused(endpoint string) func(context.Context) (tunnels, error) {
	return func(context.Context) (tunnels, error) {
		return nil, fmt.Errorf("listen on endpoint %q: %w", endpoint, errRefused)
	}
}

var errRefused = errors.New("server refused with 401 Unauthorized: invalid token")

func TestOneListenerRefusedForGoodLeavesTheOthersServing(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	log := new(logBuffer)
	logger := slog.New(slog.NewTextHandler(log, nil))
	node := newFakeNode(t)
	agent, err := New(Config{Listeners: []Listener{
		{Endpoint: "refused", Addr: service.URL}, {Endpoint: "served", Addr: service.URL},
	}}, nil, logger, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	agent.listeners[0].listen = refused("refused")
	agent.listeners[1].listen = func(context.Context) (tunnels, error) { return node, nil }
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	eventually(t, func() error {
		if !strings.Contains(log.String(), "listener failed") {
			return errNotYet
		}
		return nil
	})
	if !strings.Contains(log.String(), "endpoint=refused") || !strings.Contains(log.String(), "invalid token") {
		t.Errorf("log does not say which listener failed and why:\n%s", log)
	}
	a := &testAgent{t: t, node: node}
	if body := a.mustGet("/"); body != "ok" {
		t.Errorf("the other listener answers %q", body)
	}
	node.client.CloseIdleConnections()
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v after a stop, want nil", err)
	}
}

func TestRunFailsWhenEveryListenerHasFailed(t *testing.T) {
	agent, err := New(Config{Listeners: []Listener{{Endpoint: "a", Addr: "3000"}, {Endpoint: "b", Addr: "3001"}}}, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	for _, l := range agent.listeners {
		l.listen = refused(l.cfg.Endpoint)
	}
	err = agent.Run(t.Context())
	if !errors.Is(err, errRefused) {
		t.Errorf("Run returned %v, want the refusal", err)
	}
	for _, endpoint := range []string{`endpoint "a"`, `endpoint "b"`} {
		if err != nil && !strings.Contains(err.Error(), endpoint) {
			t.Errorf("error %q does not name %s", err, endpoint)
		}
	}
}

func TestFirstConnectIsBoundedByTheConnectTimeout(t *testing.T) {
	agent, err := New(Config{
		Listeners:      []Listener{{Endpoint: "a", Addr: "3000"}},
		ConnectTimeout: time.Millisecond,
	}, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	agent.listeners[0].listen = func(ctx context.Context) (tunnels, error) {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if err := agent.Run(t.Context()); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Run returned %v, want a time-out", err)
	}
}

func TestStopWhileConnectingReturnsAtOnce(t *testing.T) {
	agent, err := New(Config{Listeners: []Listener{{Endpoint: "a", Addr: "3000"}}}, nil, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	connecting := make(chan struct{})
	agent.listeners[0].listen = func(ctx context.Context) (tunnels, error) {
		close(connecting)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- agent.Run(ctx) }()
	<-connecting
	cancel()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name string
		l    []Listener
		want string // in the error; "" is none
	}{
		{"none", nil, "no listeners configured"},
		{"no endpoint", []Listener{{Addr: "3000"}}, "missing endpoint id"},
		{"bad endpoint", []Listener{{Endpoint: "a/b", Addr: "3000"}}, "invalid endpoint id"},
		{"no address", []Listener{{Endpoint: "a"}}, "missing address"},
		{"port 0", []Listener{{Endpoint: "a", Addr: "0"}}, "give a port"},
		{"port too high", []Listener{{Endpoint: "a", Addr: "70000"}}, "give a port"},
		{"host without port", []Listener{{Endpoint: "a", Addr: "example.com"}}, "give a port"},
		{"other scheme", []Listener{{Endpoint: "a", Addr: "ftp://example.com"}}, `"ftp"`},
		{"URL without host", []Listener{{Endpoint: "a", Addr: "http://"}}, "host is missing"},
		{"URL with user", []Listener{{Endpoint: "a", Addr: "http://me:secret@example.com"}}, "take it out"},
		{"URL with user that does not parse", []Listener{{Endpoint: "a", Addr: "http://me:secret@example.com:x"}}, "parse address"},
		{"URL with fragment", []Listener{{Endpoint: "a", Addr: "http://example.com/#x"}}, "take it out"},
		{"one of two is bad", []Listener{{Endpoint: "a", Addr: "3000"}, {Endpoint: "b", Addr: "x"}}, `listener "b"`},
		{"good", []Listener{{Endpoint: "A", Addr: "3000"}, {Endpoint: "a", Addr: "[::1]:3000"}, {Endpoint: "b", Addr: "https://example.com/x"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(Config{Listeners: tt.l}, nil, nil, prometheus.NewRegistry(), nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("New returned %v, want %q in it", err, tt.want)
			}
			if err != nil && strings.Contains(err.Error(), "secret") {
				t.Errorf("error %q shows a password", err)
			}
		})
	}
}

func TestServiceAddress(t *testing.T) {
	for addr, want := range map[string]string{
		"3000":                        "http localhost:3000 localhost:3000 ",
		"10.0.0.5:3000":               "http 10.0.0.5:3000 10.0.0.5:3000 ",
		":3000":                       "http localhost:3000 localhost:3000 ",
		"[::1]:3000":                  "http [::1]:3000 [::1]:3000 ",
		"http://example.com":          "http example.com example.com:80 ",
		"https://example.com/":        "https example.com example.com:443 ",
		"https://example.com:8443/a/": "https example.com:8443 example.com:8443 /a",
		"http://[::1]/a%2fb":          "http [::1] [::1]:80 /a%2fb",
	} {
		s, err := parseAddr(addr)
		if err != nil {
			t.Errorf("parse %q: %v", addr, err)
			continue
		}
		if got := fmt.Sprintf("%s %s %s %s", s.scheme, s.host, s.dialTo, s.prefix); got != want {
			t.Errorf("parse %q: %q, want %q", addr, got, want)
		}
	}
}
