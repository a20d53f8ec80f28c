package upstreamconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/yamux"

	"piko/fault"
	"piko/relay"
	"piko/tunnel"
)

// keepOldAgent is a v0.9.0 agent that connects again after an end that makes it
// do so, until the test ends.
func keepOldAgent(t *testing.T, url, endpoint string, h http.Handler) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	first := dialOldAgent(t, url, endpoint)
	var wg sync.WaitGroup
	wg.Go(func() {
		for a := first; a != nil; a = redial(ctx, url, endpoint) {
			srv := &http.Server{Handler: h}
			end := context.AfterFunc(ctx, func() { a.sess.Close() })
			err := srv.Serve(a.sess)
			end()
			a.sess.Close()
			srv.Close()
			if errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
				if ctx.Err() == nil {
					t.Errorf("the agent of %s takes the end of its tunnel for its own: %v", endpoint, err)
				}
				return
			}
		}
	})
	t.Cleanup(func() {
		cancel()
		wg.Wait()
	})
}

// redial tries until it succeeds, or returns nil when ctx ends.
func redial(ctx context.Context, url, endpoint string) *oldAgent {
	for sleep(ctx, 5*time.Millisecond) {
		if a, err := tryOldAgent(url, endpoint, nil); err == nil {
			return a
		}
	}
	return nil
}

// A node that stops sends v0.9.0 agents to the others while requests come all
// the time: to one so many that it is never idle.
func TestOldAgentsAreSentBackUnderLoad(t *testing.T) {
	const agents = 20
	c := startNodes(t, 2, func(s *Server) { s.Others = yes })
	stopping, other := c.list[0], c.list[1]
	c.balance(stopping)
	for _, endpoint := range endpoints(agents) {
		keepOldAgent(t, c.url, endpoint, echo)
	}
	keepOldAgent(t, c.url, "busy", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		sleep(r.Context(), 20*time.Millisecond)
		echo(w, r)
	}))
	stopping.waitFor(t, "busy", 1)
	// Not POST, of which each leaves a stream in a pool: yamux v0.1.2 spins for
	// seconds when a session with many ends.
	l := startLoad(t, stopping, http.MethodPut, endpoints(agents)...)
	busy := startLoad(t, stopping, http.MethodPost, "busy")
	l.more(t, agents)
	busy.more(t, 10)
	c.balance(c.list...)
	stopping.Drain(t.Context(), tunnel.DrainMessage{Reason: "stop"})
	bounded, end := context.WithTimeout(t.Context(), 20*time.Second)
	defer end()
	stopping.SendBack(bounded)
	if bounded.Err() != nil {
		t.Error("not all have left")
	}
	l.more(t, agents)
	busy.more(t, 10)
	eventually(t, func() error {
		if n := c.tunnels(); n[0] != 0 || n[1] != agents+1 {
			return fmt.Errorf("tunnels: %v", n)
		}
		return nil
	})
	other.waitFor(t, "busy", 1)
	t.Logf("%d requests, %d to the busy agent", l.sent.Load(), busy.sent.Load())
}

// Who is sent back stays in the table for a moment: a request that meets it
// there knows that it will be worth while to wait.
func TestUpstreamThatWasSentBackLingers(t *testing.T) {
	n := startNode(t, nil)
	end := dialOldAgent(t, n.url, "endpoint").serve(t, echo)
	l := n.waitFor(t, "endpoint", 1)[0]
	n.SendBack(t.Context())
	wantSentBack(t, "the agent", end)
	if n.waitFor(t, "endpoint", 1); !l.Draining() {
		t.Error("it is no last resort")
	}
	if _, err := do(l.Upstream(), http.MethodPost, ""); !relay.NeverExecuted(err) || !errors.Is(err, fault.Draining) {
		t.Errorf("a request that meets it: %v", err)
	}
	n.waitFor(t, "endpoint", 0)
}

func TestNothingLingersAfterTheEnd(t *testing.T) {
	n := startNode(t, func(s *Server) { s.second = time.Hour })
	for _, endpoint := range []string{"first", "second"} {
		dialOldAgent(t, n.url, endpoint).serve(t, echo)
		n.waitFor(t, endpoint, 1)
	}
	n.SendBack(t.Context())
	n.Close(t.Context())
	n.waitFor(t, "first", 0)
	n.waitFor(t, "second", 0)
}

// A stream without end, such as a WebSocket, keeps its upstream: requests that
// came while it was held go on there.
func TestUpstreamThatCannotEndServesOn(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	handler := http.NewServeMux()
	handler.Handle("/", slow(begun, release))
	handler.Handle("PUT /", echo)
	end := dialOldAgent(t, n.url, "endpoint").serve(t, handler)
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)

	u := l.Upstream().(*upstream)
	ctx, cancel := context.WithTimeout(t.Context(), 600*time.Millisecond)
	defer cancel()
	left := make(chan int, 1)
	r := newReturning(ctx, n.Server, []*upstream{u}, 0)
	go func() {
		for r.look(time.Now()); len(r.list) > 0 && sleep(ctx, quietPoll); {
			r.look(time.Now())
		}
		r.finish()
		left <- r.left
	}()
	eventually(t, func() error {
		u.mu.Lock()
		defer u.mu.Unlock()
		if u.held == nil {
			return errors.New("not held")
		}
		return nil
	})
	if got, err := do(u, http.MethodPut, "while held"); err != nil || got != "while held" {
		t.Errorf("a request that met the hold: %q, %v", got, err)
	}
	if got := <-left; got != 0 {
		t.Error("it has left with a stream open")
	}
	if got, err := do(u, http.MethodPut, "after"); err != nil || got != "after" {
		t.Errorf("a request after it: %q, %v", got, err)
	}
	select {
	case err := <-end:
		t.Errorf("the agent was ended: %v", err)
	default:
	}
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
}

// A client that gives up does not wait for the end of a hold; a session that
// ends meanwhile ends it.
func TestHoldEndsForThoseThatNeedNotWait(t *testing.T) {
	n := startNode(t, nil)
	old := dialOldAgent(t, n.url, "endpoint")
	u := n.waitFor(t, "endpoint", 1)[0].Upstream().(*upstream)
	if !u.hold() || u.hold() {
		t.Fatal("an upstream is held once")
	}
	gone := errors.New("client went away")
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(gone)
	if _, err := u.Open(ctx); !errors.Is(err, gone) {
		t.Errorf("for a client that went away: %v", err)
	}
	failed := make(chan error, 1)
	go func() {
		_, err := u.Open(context.Background())
		failed <- err
	}()
	old.ws.NetConn().Close()
	if err := <-failed; !relay.NeverExecuted(err) {
		t.Errorf("when the tunnel has ended: %v", err)
	}
	if u.hold() {
		t.Error("a tunnel that has ended is held")
	}
}
