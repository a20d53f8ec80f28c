package upstreamconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/client"
	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// slow answers after release is closed; begun gets a token for each request.
func slow(begun chan<- struct{}, release <-chan struct{}) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		io.WriteString(w, "late")
	})
}

// inFlight sends a request, waits until the service has it, and returns where
// its result will be.
func inFlight(t *testing.T, l *router.Local, begun <-chan struct{}) <-chan error {
	t.Helper()
	result := make(chan error, 1)
	go func() {
		l.Begin()
		defer l.End()
		got, err := do(l.Upstream(), http.MethodPost, "")
		if err == nil && got != "late" {
			err = fmt.Errorf("read %q", got)
		}
		result <- err
	}()
	<-begun
	return result
}

func TestAgentThatDrainsGetsNothingNewAndEndsWhatItHas(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	a := startAgentFor(t, n.url, "endpoint", "tcp", slow(begun, release))
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)

	stopped := make(chan error, 1)
	go func() { stopped <- a.Shutdown(t.Context()) }()
	n.waitFor(t, "endpoint", 0)
	if _, err := do(l.Upstream(), http.MethodPost, ""); !relay.NeverExecuted(err) || !errors.Is(err, errLeaving) {
		t.Errorf("a request after the drain: %v", err)
	}
	if _, err := l.Upstream().Open(t.Context()); !errors.Is(err, errLeaving) {
		t.Errorf("a stream after the drain: %v", err)
	}
	select {
	case err := <-stopped:
		t.Fatalf("the agent has stopped with a request in flight: %v", err)
	default:
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("the agent's stop: %v", err)
	}
}

// Requests of any method that meet an agent's drain are done there or refused
// before they are done: at another upstream they all succeed.
func TestDrainLosesNoRequest(t *testing.T) {
	n := startNode(t, nil)
	var served atomic.Int64
	count := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		echo(w, r)
	})
	startAgent(t, n.url, "endpoint", count)
	n.waitFor(t, "endpoint", 1) // an agent knows of its tunnel a moment before the table does
	var sent atomic.Int64
	ctx, stop := context.WithCancel(t.Context())
	var clients sync.WaitGroup
	for range 8 {
		clients.Go(func() {
			for ctx.Err() == nil {
				if err := n.send(http.MethodPost, "endpoint"); err != nil {
					t.Errorf("a request was lost: %v", err)
					return
				}
				sent.Add(1)
			}
		})
	}
	for range 10 {
		a := startAgent(t, n.url, "endpoint", count)
		n.waitFor(t, "endpoint", 2)
		before := served.Load()
		eventually(t, func() error {
			if served.Load() < before+50 {
				return errors.New("no traffic")
			}
			return nil
		})
		if err := a.Shutdown(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	stop()
	clients.Wait()
	if served.Load() != sent.Load() {
		t.Errorf("%d requests were sent, %d served", sent.Load(), served.Load())
	}
}

func TestNoStreamComesAfterTheLastOne(t *testing.T) {
	n := startNode(t, nil)
	for range 20 {
		var last atomic.Uint32
		drained := make(chan uint32, 4)
		d := tunnel.Dialer{URL: n.url, Options: tunnel.Options{Events: tunnel.Events{
			Drained: func(id uint32) { drained <- id },
		}}}
		sess, err := d.Dial(t.Context(), "endpoint")
		if err != nil {
			t.Fatal(err)
		}
		var wg sync.WaitGroup
		wg.Go(func() {
			for {
				st, err := sess.Accept()
				if err != nil {
					return
				}
				last.Store(max(last.Load(), st.ID()))
				st.Close()
			}
		})
		u := n.waitFor(t, "endpoint", 1)[0].Upstream()
		for range 8 {
			wg.Go(func() {
				for {
					c, err := u.Open(context.Background())
					if err != nil {
						return
					}
					c.Close()
				}
			})
		}
		eventually(t, func() error {
			if last.Load() < 100 {
				return errors.New("no streams")
			}
			return nil
		})
		sess.Drain(tunnel.DrainMessage{})
		said := <-drained
		eventually(t, func() error {
			if got := last.Load(); got != said {
				return fmt.Errorf("the last stream was %d, said was %d", got, said)
			}
			return nil
		})
		sess.Close()
		wg.Wait()
	}
}

// yes is what a node is told that knows of other nodes.
func yes() bool { return true }

func TestAgentIsAskedToMove(t *testing.T) {
	var others atomic.Bool
	n := startNode(t, func(s *Server) { s.Others = others.Load })
	asked := make(chan tunnel.DrainMessage, 1)
	d := tunnel.Dialer{URL: n.url, Options: tunnel.Options{Events: tunnel.Events{
		Drain: func(m tunnel.DrainMessage) { asked <- m },
	}}}
	sess, err := d.Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer sess.Close()
	l := n.waitFor(t, "endpoint", 1)[0]
	n.Drain(t.Context(), tunnel.DrainMessage{Reason: "node stops", ReconnectWithin: time.Second})
	if got := <-asked; got.Reason != "node stops" || got.ReconnectWithin > maxSpread {
		t.Errorf("asked %v", got)
	}
	if !l.Draining() {
		t.Error("the tunnel is no last resort")
	}
	n.waitFor(t, "endpoint", 1) // until it has moved it serves

	// Nobody else would take a new one: better here than nowhere.
	late, err := d.Dial(t.Context(), "late")
	if err != nil {
		t.Fatal(err)
	}
	defer late.Close()
	if l := n.waitFor(t, "late", 1)[0]; !l.Draining() {
		t.Error("the new tunnel is no last resort")
	}
	<-asked // it is asked too
	others.Store(true)
	res, code := handshake(t, n.url+"/piko/v1/upstream/endpoint", nil)
	if res.StatusCode != 503 || code != fault.Draining || res.Header.Get("Retry-After") == "" {
		t.Errorf("a new tunnel is answered %s %q, Retry-After %q", res.Status, code, res.Header.Get("Retry-After"))
	}
}

// hijackHook calls a function between the check of a handshake and its answer.
type hijackHook struct {
	http.ResponseWriter
	before func()
}

func (h hijackHook) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	h.before()
	return http.NewResponseController(h.ResponseWriter).Hijack()
}

// logHook calls a function for the line that a tunnel is logged with, just
// before it is put into the table.
type logHook struct {
	slog.Handler
	connected func()
}

func (h logHook) Enabled(context.Context, slog.Level) bool { return true }

func (h logHook) Handle(_ context.Context, r slog.Record) error {
	if r.Message == "upstream connected" {
		h.connected()
	}
	return nil
}

// The drain of a node meets a tunnel that is being opened at each point where
// it is known in part.
func TestTunnelThatMeetsTheDrain(t *testing.T) {
	msg := tunnel.DrainMessage{Reason: "node stops", ReconnectWithin: maxSpread}
	never := func(*Server) {}
	for _, c := range []struct {
		name             string
		accepted, joined func(*Server)
	}{
		{"before it is registered", func(s *Server) { s.Drain(context.Background(), msg) }, never},
		{"before it is in the table", never, func(s *Server) { s.Drain(context.Background(), msg) }},
	} {
		t.Run(c.name, func(t *testing.T) {
			url := startHookedNode(t, c.accepted, c.joined)
			asked := make(chan tunnel.DrainMessage, 2)
			d := tunnel.Dialer{URL: url, Options: tunnel.Options{Events: tunnel.Events{
				Drain: func(m tunnel.DrainMessage) { asked <- m },
			}}}
			sess, err := d.Dial(t.Context(), "endpoint")
			if err != nil {
				t.Fatal(err)
			}
			defer sess.Close()
			select {
			case got := <-asked:
				if got != msg {
					t.Errorf("asked %v", got)
				}
			case <-time.After(2 * time.Second):
				t.Error("the tunnel was not told to move")
			}
		})
	}
}

func TestTunnelThatMeetsTheEnd(t *testing.T) {
	// Close waits for the tunnels, of which one is in the hook.
	ended, cancel := context.WithCancel(context.Background())
	cancel()
	end := func(s *Server) { s.Close(ended) }
	never := func(*Server) {}
	for _, c := range []struct {
		name             string
		accepted, joined func(*Server)
	}{
		{"before it is registered", end, never},
		{"before it is in the table", never, end},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := dialOldAgent(t, startHookedNode(t, c.accepted, c.joined), "endpoint")
			wantSentBack(t, "the agent", old.serve(t, echo))
		})
	}
}

// startHookedNode runs a node that calls accepted when it has checked a
// handshake, and joined when the tunnel is registered but not in the table.
func startHookedNode(t *testing.T, accepted, joined func(*Server)) (url string) {
	t.Helper()
	n := startNode(t, func(s *Server) {
		s.Logger = slog.New(logHook{slog.DiscardHandler, func() { joined(s) }})
	})
	h := n.Handler()
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.ServeHTTP(hijackHook{w, func() { accepted(n.Server) }}, r)
	}))
	t.Cleanup(srv.Close)
	return srv.URL
}

func TestCloseCutsAndCounts(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	defer close(release)
	startAgent(t, n.url, "endpoint", slow(begun, release))
	result := inFlight(t, n.waitFor(t, "endpoint", 1)[0], begun)
	if cut := n.Close(t.Context()); cut != 1 {
		t.Errorf("%d requests cut, want 1", cut)
	}
	if err := <-result; err == nil || relay.NeverExecuted(err) {
		t.Errorf("the request that was cut: %v", err)
	}
	n.waitFor(t, "endpoint", 0)
}

func TestNewestTunnelOfAnInstanceIsPreferred(t *testing.T) {
	n := startNode(t, nil)
	dial := func(instance string) *tunnel.Session {
		d := tunnel.Dialer{URL: n.url, Instance: instance}
		sess, err := d.Dial(t.Context(), "endpoint")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sess.Close() })
		return sess
	}
	wantDraining := func(why string, want ...bool) {
		t.Helper()
		locals := n.waitFor(t, "endpoint", len(want))
		eventually(t, func() error {
			for i, l := range locals {
				if l.Draining() != want[i] {
					return fmt.Errorf("%s: upstream %d: draining %v", why, i, l.Draining())
				}
			}
			return nil
		})
	}
	dial("a")
	n.waitFor(t, "endpoint", 1)
	dial("b")
	n.waitFor(t, "endpoint", 2)
	wantDraining("two instances", false, false)
	second := dial("a")
	n.waitFor(t, "endpoint", 3)
	wantDraining("instance a came back", true, false, false)
	third := dial("a")
	n.waitFor(t, "endpoint", 4)
	wantDraining("and again", true, false, true, false)
	second.Close()
	n.waitFor(t, "endpoint", 3)
	wantDraining("the one in the middle ended", true, false, false)
	third.Drain(tunnel.DrainMessage{})
	n.waitFor(t, "endpoint", 2)
	wantDraining("the newest leaves", false, false)
}

func TestWeightZeroIsALastResort(t *testing.T) {
	n := startNode(t, nil)
	a := startAgent(t, n.url, "endpoint", echo)
	l := n.waitFor(t, "endpoint", 1)[0]
	startAgent(t, n.url, "endpoint", echo)
	n.waitFor(t, "endpoint", 2)
	picked := func() bool {
		for i := range uint64(100) {
			if n.Table.Lookup("endpoint").Pick(time.Now(), i<<57|i, &router.Tried{}).Local == l {
				return true
			}
		}
		return false
	}
	for _, c := range []struct {
		weight int
		want   bool
	}{{0, false}, {100, true}} {
		a.SetWeight(c.weight)
		eventually(t, func() error {
			if picked() != c.want {
				return fmt.Errorf("with weight %d: picked %v", c.weight, !c.want)
			}
			return nil
		})
	}
}

func TestClientsMeetNodesInAnyOrder(t *testing.T) {
	n := startNode(t, func(s *Server) { s.Others = yes })
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	n.Drain(t.Context(), tunnel.DrainMessage{})
	_, err := (&client.Client{URL: n.url}).Listen(ctx, "endpoint")
	if !errors.Is(err, context.DeadlineExceeded) || !errors.Is(err, fault.Draining) {
		t.Errorf("connect to a node that drains: %v", err)
	}
}

func TestTunnelThatIsUsedUpIsRenewed(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	startAgent(t, n.url, "endpoint", slow(begun, release))
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)
	u := l.Upstream().(*upstream)
	for range 2 {
		if err := u.notOpened(t.Context(), fmt.Errorf("open stream: %w", tunnel.ErrExhausted)); !errors.Is(err, fault.UpstreamUnreachable) {
			t.Errorf("who wants a stream is told %v", err)
		}
	}
	n.waitFor(t, "endpoint", 0)
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	if again := n.waitFor(t, "endpoint", 1)[0]; again == l {
		t.Error("the tunnel is the old one")
	}
}

// TestUnhealthyFromTheStart: who says in its handshake that its service is ill gets no request that a healthy one could have,
// not even before its first message.
func TestUnhealthyFromTheStart(t *testing.T) {
	n := startNode(t, nil)
	for endpoint, unhealthy := range map[string]bool{"ill": true, "well": false} {
		d := tunnel.Dialer{URL: n.url, Unhealthy: unhealthy}
		sess, err := d.Dial(t.Context(), endpoint)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { sess.Close() })
		l := n.waitFor(t, endpoint, 1)[0]
		if w := l.Weight(); (w == 0) != unhealthy {
			t.Errorf("%s: weight %d in the table", endpoint, w)
		}
		if !unhealthy {
			continue
		}
		if err := sess.Weight(100); err != nil {
			t.Fatal(err)
		}
		eventually(t, func() error {
			if w := l.Weight(); w != 100 {
				return fmt.Errorf("weight %d once it is healthy", w)
			}
			return nil
		})
	}
}
