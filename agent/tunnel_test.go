package agent

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/client"
	"piko/fault"
	"piko/tunnel"
)

// tunnelNode is a node as far as the tunnels to it go: it opens streams for its
// client, and stops choosing a tunnel that drains.
type tunnelNode struct {
	t      testing.TB
	server *httptest.Server
	client *http.Transport

	mu       sync.Mutex
	sessions []*tunnel.Session // guarded by mu: all there ever were
	draining bool              // guarded by mu
}

func newTunnelNode(t testing.TB) *tunnelNode {
	n := &tunnelNode{t: t}
	n.server = httptest.NewServer(n)
	n.client = &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			s := n.session()
			if s == nil {
				return nil, fmt.Errorf("no tunnel")
			}
			return s.Open(ctx)
		},
		MaxIdleConnsPerHost: 1000,
		DisableCompression:  true,
	}
	t.Cleanup(func() {
		n.client.CloseIdleConnections()
		n.server.Close()
		for _, s := range n.sessions {
			s.Close()
		}
	})
	return n
}

// ServeHTTP takes tunnels, but for the endpoint "refused".
func (n *tunnelNode) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.HasSuffix(r.URL.Path, "/refused") {
		fault.Write(w, r, fault.New(fault.InvalidToken, nil))
		return
	}
	if err := tunnel.CheckHandshake(r); err != nil {
		fault.Write(w, r, err)
		return
	}
	var s *tunnel.Session
	accepted := make(chan struct{})
	reply := tunnel.Reply{Features: []string{tunnel.FeatureControl}, NodeID: "node-1"}
	s, err := tunnel.Accept(w, r, reply, tunnel.Options{Events: tunnel.Events{
		Drain: func(tunnel.DrainMessage) {
			go func() {
				<-accepted
				n.leave(s)
			}()
		},
	}})
	if err != nil {
		n.t.Error(err)
		return
	}
	close(accepted)
	n.mu.Lock()
	n.sessions = append(n.sessions, s)
	n.mu.Unlock()
}

// leave chooses the tunnels no more and says so.
func (n *tunnelNode) leave(s *tunnel.Session) {
	n.mu.Lock()
	n.draining = true
	n.mu.Unlock()
	n.client.CloseIdleConnections()
	s.Drained(s.LastStreamID())
}

// session is the tunnel to open streams on; nil if there is none.
func (n *tunnelNode) session() *tunnel.Session {
	n.mu.Lock()
	defer n.mu.Unlock()
	if len(n.sessions) == 0 || n.draining {
		return nil
	}
	return n.sessions[len(n.sessions)-1]
}

// start runs an agent with the listeners and returns Run's result and how to
// stop it.
func (n *tunnelNode) start(log io.Writer, listeners ...Listener) (*Agent, <-chan error, context.CancelFunc) {
	n.t.Helper()
	a, err := New(Config{Listeners: listeners}, &client.Client{URL: n.server.URL}, slog.New(slog.NewTextHandler(log, nil)), nil, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done, ended := make(chan error, 1), make(chan struct{})
	go func() {
		defer close(ended)
		done <- a.Run(ctx)
	}()
	n.t.Cleanup(func() { cancel(); <-ended })
	return a, done, cancel
}

func (n *tunnelNode) get(path string) result {
	req, err := http.NewRequestWithContext(n.t.Context(), http.MethodGet, "http://my-endpoint.example.com"+path, nil)
	if err != nil {
		return result{err: err}
	}
	res, err := n.client.RoundTrip(req)
	if err != nil {
		return result{err: err}
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	return result{res.StatusCode, string(body), err}
}

func (n *tunnelNode) awaitTunnel() {
	n.t.Helper()
	eventually(n.t, func() error {
		if n.session() == nil {
			return errNotYet
		}
		return nil
	})
}

func TestRequestsInFlightOverATunnelSurviveTheStop(t *testing.T) {
	url, arrived, release := blockingService(t)
	n := newTunnelNode(t)
	log := new(logBuffer)
	a, done, stop := n.start(log, Listener{Endpoint: "my-endpoint", Addr: url})
	n.awaitTunnel()
	const flying = 20
	results := make(chan result, flying)
	for range flying {
		go func() { results <- n.get("/") }()
	}
	for range flying {
		<-arrived
	}
	stop()
	eventually(t, func() error {
		n.mu.Lock()
		defer n.mu.Unlock()
		if !n.draining {
			return errNotYet
		}
		return nil
	})
	close(release)
	for range flying {
		if r := <-results; r.err != nil || r.body != "done" {
			t.Errorf("request in flight: status %d, body %q, error %v", r.status, r.body, r.err)
		}
	}
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
	if strings.Contains(log.String(), "requests cut") {
		t.Errorf("log says that requests were cut:\n%s", log)
	}
	if v := testutil.ToFloat64(a.listeners[0].metrics.connected); v != 0 {
		t.Errorf("%v listeners are connected after the end", v)
	}
	if v := testutil.ToFloat64(a.listeners[0].metrics.tunnels); v != 0 {
		t.Errorf("%v tunnels are open after the end", v)
	}
}

func TestServerThatCutsTheTunnelIsConnectedToAgain(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	n := newTunnelNode(t)
	log := new(logBuffer)
	a, _, _ := n.start(log, Listener{Endpoint: "my-endpoint", Addr: service.URL})
	n.awaitTunnel()
	first := n.session()
	first.Close()
	eventually(t, func() error {
		if s := n.session(); s == first {
			return errNotYet
		}
		return nil
	})
	if r := n.get("/"); r.err != nil || r.body != "ok" {
		t.Errorf("request over the second tunnel: status %d, body %q, error %v", r.status, r.body, r.err)
	}
	eventually(t, func() error {
		if v := testutil.ToFloat64(a.listeners[0].metrics.connects); v != 2 {
			return fmt.Errorf("metric counts %v connects, want 2", v)
		}
		if v := testutil.ToFloat64(a.listeners[0].metrics.tunnels); v != 1 {
			return fmt.Errorf("metric counts %v tunnels, want 1", v)
		}
		if v := testutil.ToFloat64(a.listeners[0].metrics.lost); v != 1 {
			return fmt.Errorf("metric counts %v lost tunnels, want 1", v)
		}
		return nil
	})
	for _, want := range []string{"node-1", "my-endpoint", n.server.URL} {
		if !strings.Contains(log.String(), want) {
			t.Errorf("log does not name %s:\n%s", want, log)
		}
	}
}

func TestEndpointThatTheServerRefusesLeavesTheOthersServing(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "ok") })
	n := newTunnelNode(t)
	log := new(logBuffer)
	n.start(log, Listener{Endpoint: "refused", Addr: service.URL}, Listener{Endpoint: "served", Addr: service.URL})
	n.awaitTunnel()
	eventually(t, func() error {
		if !strings.Contains(log.String(), "listener failed") || !strings.Contains(log.String(), "invalid token") {
			return fmt.Errorf("log does not say that the listener failed:\n%s", log)
		}
		return nil
	})
	if r := n.get("/"); r.err != nil || r.body != "ok" {
		t.Errorf("the other listener: status %d, body %q, error %v", r.status, r.body, r.err)
	}
}

func TestUploadThatTheServiceCutsOverATunnelLeavesTheTunnelWhole(t *testing.T) {
	service := startService(t, func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost {
			w.WriteHeader(http.StatusForbidden)
			return
		}
		io.WriteString(w, "ok")
	})
	n := newTunnelNode(t)
	n.start(io.Discard, Listener{Endpoint: "my-endpoint", Addr: service.URL})
	n.awaitTunnel()
	for range 3 {
		body := io.LimitReader(zeros{}, 64<<20)
		req, _ := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://my-endpoint.example.com/", body)
		res, err := n.client.RoundTrip(req)
		if err == nil {
			res.Body.Close() // the refusal may be lost in the reset that follows it
		}
		if r := n.get("/"); r.err != nil || r.body != "ok" {
			t.Errorf("request beside it: status %d, body %q, error %v", r.status, r.body, r.err)
		}
	}
}

type zeros struct{}

func (zeros) Read(p []byte) (int, error) { clear(p); return len(p), nil }
