package upstreamconn

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"

	"piko/tunnel"
)

// byteConn is a gorilla WebSocket as v0.9.0 uses it: a stream of bytes in
// binary messages. Any close is net.ErrClosed.
type byteConn struct {
	*websocket.Conn
	r io.Reader
}

func (c *byteConn) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			kind, r, err := c.NextReader()
			if err != nil {
				if _, ok := errors.AsType[*websocket.CloseError](err); ok {
					err = net.ErrClosed
				}
				return 0, err
			}
			if kind != websocket.BinaryMessage {
				return 0, errors.New("unexpected message type")
			}
			c.r = r
		}
		n, err := c.r.Read(p)
		if err == io.EOF {
			c.r = nil
			if err = nil; n == 0 {
				continue
			}
		}
		return n, err
	}
}

func (c *byteConn) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *byteConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// oldAgent is what a v0.9.0 agent is to a server: gorilla/websocket with its
// defaults, yamux with its defaults, a net/http server on the streams.
type oldAgent struct {
	ws   *byteConn
	sess *yamux.Session
}

// dialOldAgent connects an agent that serves nothing yet.
func dialOldAgent(t testing.TB, url, endpoint string) *oldAgent {
	t.Helper()
	a, err := tryOldAgent(url, endpoint, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.sess.Close() })
	return a
}

func tryOldAgent(url, endpoint string, header http.Header) (*oldAgent, error) {
	ws, res, err := websocket.DefaultDialer.Dial(strings.Replace(url, "http", "ws", 1)+"/piko/v1/upstream/"+endpoint, header)
	if res != nil {
		defer res.Body.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("dial: %w (%v)", err, res)
	}
	cfg := yamux.DefaultConfig()
	cfg.LogOutput = io.Discard
	a := &oldAgent{ws: &byteConn{Conn: ws}}
	a.sess, err = yamux.Client(a.ws, cfg)
	return a, err
}

// serve serves h until the session ends, and reports why accepting ended.
func (a *oldAgent) serve(t testing.TB, h http.Handler) <-chan error {
	srv := &http.Server{Handler: h}
	ended := make(chan error, 1)
	var wg sync.WaitGroup
	wg.Go(func() { ended <- srv.Serve(a.sess) })
	t.Cleanup(func() {
		a.sess.Close()
		srv.Close()
		wg.Wait()
	})
	return ended
}

func TestOldAgentThatGoesAwayIsLeftAtOnce(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	old := dialOldAgent(t, n.url, "endpoint")
	old.serve(t, slow(begun, release))
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)
	if err := old.sess.GoAway(); err != nil {
		t.Fatal(err)
	}
	n.waitFor(t, "endpoint", 0) // without a request that finds out
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	eventually(t, func() error {
		if s := old.sess.NumStreams(); s > 0 {
			return errors.New("the node keeps a stream open")
		}
		return nil
	})
}

// A v0.9.0 agent cannot be asked to move. It serves until the node has no
// request left; it reconnects only if GoAway 2 comes before the end.
func TestOldAgentIsSentBackWhenTheNodeHasDrained(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	busy, idle := dialOldAgent(t, n.url, "endpoint"), dialOldAgent(t, n.url, "other")
	busyEnd, idleEnd := busy.serve(t, slow(begun, release)), idle.serve(t, echo)
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)
	n.waitFor(t, "other", 1)
	n.Drain(t.Context(), tunnel.DrainMessage{Reason: "test"})
	if !n.waitFor(t, "other", 1)[0].Draining() {
		t.Error("the idle agent is no last resort")
	}
	if err := n.send(http.MethodPost, "other"); err != nil { // leaves a stream in the pool
		t.Errorf("a request that was on its way when the drain began: %v", err)
	}

	sentBack := make(chan struct{})
	go func() {
		defer close(sentBack)
		n.SendBack(t.Context())
	}()
	wantSentBack(t, "the idle agent", idleEnd)
	select {
	case err := <-busyEnd:
		t.Fatalf("the busy agent was ended with a request in flight: %v", err)
	case <-sentBack:
		t.Fatal("the busy agent was not waited for")
	case <-time.After(3 * quietPoll):
	}
	n.waitFor(t, "endpoint", 1) // as nobody else may serve it
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	wantSentBack(t, "the busy agent", busyEnd)
	<-sentBack
}

func TestSendBackEndsWithItsContext(t *testing.T) {
	n := startNode(t, nil)
	begun, release := make(chan struct{}), make(chan struct{})
	end := dialOldAgent(t, n.url, "endpoint").serve(t, slow(begun, release))
	result := inFlight(t, n.waitFor(t, "endpoint", 1)[0], begun)
	ctx, cancel := context.WithTimeout(t.Context(), 2*quietPoll)
	defer cancel()
	n.SendBack(ctx)
	select {
	case err := <-end:
		t.Errorf("the busy agent was ended: %v", err)
	default:
	}
	if cut := n.Close(t.Context()); cut != 1 {
		t.Errorf("%d requests cut, want 1", cut)
	}
	wantSentBack(t, "the agent", end)
	close(release)
	<-result
}

func TestOldAgentIsSentBackWhenTheNodeCloses(t *testing.T) {
	n := startNode(t, nil)
	end := dialOldAgent(t, n.url, "endpoint").serve(t, echo)
	n.waitFor(t, "endpoint", 1)
	n.Close(t.Context())
	wantSentBack(t, "the agent", end)
}

// wantSentBack checks that the session ended as the one that a v0.9.0 agent
// reconnects after: neither with EOF nor as if it had been closed.
func wantSentBack(t *testing.T, who string, end <-chan error) {
	t.Helper()
	select {
	case err := <-end:
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, yamux.ErrSessionShutdown) {
			t.Errorf("%s ended with %v, after which it would not come back", who, err)
		}
	case <-time.After(5 * time.Second):
		t.Errorf("%s has not ended", who)
	}
}
