package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/tunnel"
)

// server is an http.Server on a listener, which the test ends.
type server struct {
	http.Server
	ln     *Listener
	served chan error
}

func startServer(t *testing.T, c *Client, endpoint string, h http.Handler) *server {
	t.Helper()
	ln, err := c.Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	s := &server{Server: http.Server{Handler: h}, ln: ln, served: make(chan error, 1)}
	go func() { s.served <- s.Serve(ln) }()
	return s
}

// wantOver waits for the end of all that s had.
func (s *server) wantOver(t *testing.T) {
	t.Helper()
	if err := <-s.served; !errors.Is(err, http.ErrServerClosed) && !errors.Is(err, net.ErrClosed) {
		t.Errorf("Serve returned %v", err)
	}
	if err := s.ln.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := s.ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	if p := s.ln.Phase(); p != PhaseClosed {
		t.Errorf("the listener is %s", p)
	}
}

// TestShutdownBeforeTheServersLosesNothing: servers take each other's place
// under load.
func TestShutdownBeforeTheServersLosesNothing(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", "")
	c := &Client{URL: "http://" + n.addr}
	var stop atomic.Bool
	var served atomic.Int64
	var clients sync.WaitGroup
	last := startServer(t, c, "endpoint", echo)
	n.waitFor(t, "endpoint", 1)
	for range 8 {
		clients.Go(func() {
			for !stop.Load() {
				if got, err := post("endpoint", "hello", n); got != "hello" || err != nil {
					t.Errorf("after %d requests: %q, %v", served.Load(), got, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for range 20 {
		next := startServer(t, c, "endpoint", echo)
		n.waitFor(t, "endpoint", 2)
		before := served.Load()
		eventually(t, func() error {
			if t.Failed() || served.Load() > before+50 {
				return nil
			}
			return errors.New("no requests")
		})
		if err := last.ln.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown of the listener: %v", err)
		}
		if err := last.Shutdown(t.Context()); err != nil {
			t.Errorf("shutdown of the server: %v", err)
		}
		last.wantOver(t)
		last = next
	}
	stop.Store(true)
	clients.Wait()
	last.Close()
	last.wantOver(t)
}

// slow is a handler that says when it was called and then waits.
func slow() (h http.Handler, begun, release chan struct{}) {
	begun, release = make(chan struct{}, 1), make(chan struct{})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		select {
		case <-release:
			io.WriteString(w, "late")
		case <-r.Context().Done():
		}
	}), begun, release
}

func TestServerShutdownWaitsForRequests(t *testing.T) {
	n := startNode(t, "n1", "")
	h, begun, release := slow()
	s := startServer(t, &Client{URL: "http://" + n.addr}, "endpoint", h)
	n.waitFor(t, "endpoint", 1)
	result := make(chan error, 1)
	go func() {
		got, err := post("endpoint", "", n)
		if err == nil && got != "late" {
			err = fmt.Errorf("read %q", got)
		}
		result <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- s.Shutdown(t.Context()) }()
	n.waitFor(t, "endpoint", 0)
	if p := s.ln.Phase(); p != PhaseDraining {
		t.Errorf("the listener is %s", p)
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	s.wantOver(t)
}

func TestServerCloseCutsRequests(t *testing.T) {
	n := startNode(t, "n1", "")
	h, begun, release := slow()
	defer close(release)
	s := startServer(t, &Client{URL: "http://" + n.addr}, "endpoint", h)
	n.waitFor(t, "endpoint", 1)
	result := make(chan error, 1)
	go func() {
		_, err := post("endpoint", "", n)
		result <- err
	}()
	<-begun
	s.Close()
	if err := <-result; err == nil {
		t.Error("the request was answered")
	}
	s.wantOver(t)
}

// accepted returns both ends of a connection to what listens on the endpoint.
func accepted(t *testing.T, n *node, ln *Listener) (theirs, ours net.Conn) {
	t.Helper()
	n.waitFor(t, ln.Endpoint(), 1)
	theirs, err := n.Table.Lookup(ln.Endpoint()).Locals[0].Upstream().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	ours, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { theirs.Close(); ours.Close() })
	return theirs, ours
}

func TestCloseLeavesConnectionsToTheirOwner(t *testing.T) {
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	a, b := accepted(t, n, ln)
	ln.Close()
	n.waitFor(t, "endpoint", 0)
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
	for _, way := range [][2]net.Conn{{a, b}, {b, a}} {
		io.WriteString(way[0], "still here")
		if _, err := io.ReadFull(way[1], make([]byte, 10)); err != nil {
			t.Fatalf("a connection after Close: %v", err)
		}
	}
	a.Close()
	b.Close()
	if err := ln.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestShutdownWithAnEndedContextCutsAtOnce(t *testing.T) {
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	a, b := accepted(t, n, ln)
	ended, end := context.WithCancel(t.Context())
	end()
	if err := ln.Shutdown(ended); !errors.Is(err, context.Canceled) {
		t.Errorf("shutdown: %v", err)
	}
	for name, c := range map[string]net.Conn{"theirs": a, "ours": b} {
		if _, err := c.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("%s reads %v, as if it had ended in order", name, err)
		}
	}
	if p := ln.Phase(); p != PhaseClosed {
		t.Errorf("the listener is %s", p)
	}
}

// TestWhatComesWhileClosing: a connection that the node opened before it was
// told is accepted, although Close has returned by then; one that nobody
// accepts is given up.
func TestWhatComesWhileClosing(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	n.waitFor(t, "endpoint", 1)
	var theirs []net.Conn
	for range 3 {
		c, err := n.Table.Lookup("endpoint").Locals[0].Upstream().Open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		theirs = append(theirs, c)
	}
	ln.Close()
	for range 2 {
		c, err := ln.Accept()
		if err != nil {
			t.Fatalf("accept what came before Close: %v", err)
		}
		io.WriteString(c, "hello")
		c.Close()
	}
	<-ln.closed // nobody accepts the third
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after Close: %v", err)
	}
	served := 0
	for _, c := range theirs {
		if got, err := io.ReadAll(c); string(got) == "hello" && err == nil {
			served++
		} else if err == nil {
			t.Errorf("a connection that nobody accepted reads %q and ends in order", got)
		}
		c.Close()
	}
	if served != 2 {
		t.Errorf("%d connections were served, want 2", served)
	}
	if err := ln.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestPhasesAndMetrics(t *testing.T) {
	n := startNode(t, "n1", "")
	lb := startBalancer(t, func() string { return n.addr })
	m := &Metrics{}
	var st states
	ln := serve(t, &Client{URL: lb.url, OnState: st.add, Metrics: m}, "endpoint", echo)
	n.waitFor(t, "endpoint", 1)
	if got, err := post("endpoint", "hello", n); got != "hello" || err != nil {
		t.Fatalf("answer %q, %v", got, err)
	}
	again := startNode(t, "n2", "")
	n.stop()
	eventually(t, func() error {
		if !st.has(func(s State) bool { return s.Phase == PhaseReconnecting && errors.Is(s.Err, tunnel.ErrClosedByPeer) }) {
			return errors.New("not told that the listener is reconnecting")
		}
		return nil
	})
	lb.set(again.addr)
	again.waitFor(t, "endpoint", 1)
	eventually(t, func() error {
		if !st.has(func(s State) bool { return s.Phase == PhaseConnected && s.NodeID == "n2" }) {
			return errors.New("not told that the listener is connected again")
		}
		return nil
	})
	if err := ln.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	var order []Phase
	for _, s := range st.all {
		if len(order) == 0 || order[len(order)-1] != s.Phase {
			order = append(order, s.Phase)
		}
	}
	if want := []Phase{PhaseConnected, PhaseReconnecting, PhaseConnected, PhaseDraining, PhaseClosed}; !slices.Equal(order, want) {
		t.Errorf("phases %v, want %v", order, want)
	}
	if m.Lost.Load() != 1 || m.Reconnects.Load() != 1 || m.Accepted.Load() != 1 || m.Dials.Load() < 2 || m.BytesIn.Load() == 0 || m.BytesOut.Load() == 0 {
		t.Errorf("lost %d, reconnects %d, accepted %d, dials %d, in %d, out %d",
			m.Lost.Load(), m.Reconnects.Load(), m.Accepted.Load(), m.Dials.Load(), m.BytesIn.Load(), m.BytesOut.Load())
	}
	eventually(t, func() error { // the server closes its ends by and by
		if open := m.Open.Load(); open != 0 {
			return fmt.Errorf("%d connections are open", open)
		}
		return nil
	})
}

// A handler that waits while its request is cancelled learns of it at once.
func TestResetEndsTheRequestsContext(t *testing.T) {
	n := startNode(t, "n1", "")
	begun, ended := make(chan struct{}), make(chan time.Time, 1)
	serve(t, &Client{URL: "http://" + n.addr}, "endpoint", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		close(begun)
		<-r.Context().Done()
		ended <- time.Now()
	}))
	n.waitFor(t, "endpoint", 1)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-begun
		cancel()
	}()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://endpoint.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	u := n.Table.Lookup("endpoint").Locals[0].Upstream()
	if res, err := u.RoundTrip(req); err == nil {
		res.Body.Close()
		t.Error("answered")
	}
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the handler's context has not ended")
	}
}
