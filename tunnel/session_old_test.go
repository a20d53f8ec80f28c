package tunnel

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"testing"
	"time"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"
)

// gorillaBytes is a gorilla WebSocket as v0.9.0 uses it: bytes in binary
// messages.
type gorillaBytes struct {
	*websocket.Conn
	r io.Reader
}

func (c *gorillaBytes) Read(p []byte) (int, error) {
	for {
		if c.r == nil {
			_, r, err := c.NextReader()
			if err != nil {
				return 0, err
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

func (c *gorillaBytes) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

func (c *gorillaBytes) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

// withOldAgent runs f in a bubble with a node's session whose peer is a v0.9.0
// agent: gorilla/websocket and yamux with their defaults.
func withOldAgent(t *testing.T, f func(t *testing.T, node *Session, agent *yamux.Session, below *memConn)) {
	// yamux keeps timers in a pool, which must not wander between bubbles.
	clearPools := func() {
		runtime.GC()
		runtime.GC()
	}
	clearPools()
	defer clearPools()
	within(t, func(t *testing.T) {
		w := runWheel(t)
		accepted := make(chan *Session, 1)
		srv := &http.Server{Handler: http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			s, err := Accept(rw, r, Reply{NodeID: "node"}, Options{Wheel: w})
			if err != nil {
				t.Error(err)
				return
			}
			accepted <- s
		})}
		l := newMemListener()
		go srv.Serve(l)
		defer srv.Close()
		below := l.dial()
		dialer := websocket.Dialer{NetDialContext: func(context.Context, string, string) (net.Conn, error) { return below, nil }}
		ws, _, err := dialer.Dial("ws://node/", nil)
		if err != nil {
			t.Fatal(err)
		}
		cfg := yamux.DefaultConfig()
		cfg.LogOutput = io.Discard
		agent, err := yamux.Client(&gorillaBytes{Conn: ws}, cfg)
		if err != nil {
			t.Fatal(err)
		}
		defer agent.Close()
		node := <-accepted
		defer node.Close()
		f(t, node, agent, below)
	})
}

func TestIdleOldAgentStaysForHours(t *testing.T) {
	withOldAgent(t, func(t *testing.T, node *Session, agent *yamux.Session, _ *memConn) {
		time.Sleep(6 * time.Hour)
		if err := node.Err(); err != nil || agent.IsClosed() {
			t.Fatalf("node: %v, agent closed: %v", err, agent.IsClosed())
		}
		exchange(t, node, agent)
	})
}

// exchange sends a little over a stream and back.
func exchange(t *testing.T, node *Session, agent *yamux.Session) {
	t.Helper()
	a, err := node.Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := agent.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	go io.WriteString(a, "hello")
	if _, err := io.CopyN(b, b, 5); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(a, make([]byte, 5)); err != nil {
		t.Fatal(err)
	}
}

func TestOldAgentThatVanishesUnderBulkIsGoneWithin15s(t *testing.T) {
	withOldAgent(t, func(t *testing.T, node *Session, agent *yamux.Session, below *memConn) {
		st, err := node.Open(context.Background())
		if err != nil {
			t.Fatal(err)
		}
		wrote := make(chan error, 1)
		go func() {
			for {
				if _, err := st.Write(make([]byte, 32<<10)); err != nil {
					wrote <- err
					return
				}
			}
		}()
		other, err := agent.Accept()
		if err != nil {
			t.Fatal(err)
		}
		go io.Copy(io.Discard, io.LimitReader(other, 16<<20))
		time.Sleep(time.Minute)
		below.vanish()
		wantEnd(t, "node", node, ErrDead, 0, 15*time.Second)
		if err := <-wrote; !errors.Is(err, ErrDead) {
			t.Errorf("the writer was told %v", err)
		}
	})
}

func TestOldAgentSeesGoAway2AndNoOrderlyEnd(t *testing.T) {
	withOldAgent(t, func(t *testing.T, node *Session, agent *yamux.Session, _ *memConn) {
		exchange(t, node, agent)
		if err := node.CloseWithGoAway(CodeReconnect); err != nil {
			t.Error(err)
		}
		_, err := agent.Accept()
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, yamux.ErrSessionShutdown) {
			t.Errorf("the agent's session ended with %v", err)
		}
	})
}

// A v0.9.0 node does not know what our upstream offers, and begins its streams
// with the first byte.
func TestOldNodeSendsNoPreamble(t *testing.T) {
	opened := make(chan *yamux.Session, 1)
	upgrader := websocket.Upgrader{}
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := upgrader.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		node, err := yamux.Server(&gorillaBytes{Conn: ws}, quietYamux())
		if err != nil {
			t.Error(err)
			return
		}
		opened <- node
	}))
	defer srv.Close()
	up, err := (&Dialer{URL: srv.URL, Features: []string{FeatureMeta, FeatureH2}}).Dial(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer up.Close()
	node := <-opened
	defer node.Close()
	a, err := node.Open()
	if err != nil {
		t.Fatal(err)
	}
	b, err := up.Accept()
	if err != nil {
		t.Fatal(err)
	}
	mustWrite(t, a, "\x00\x05hello")
	mustRead(t, b, "\x00\x05hello")
	if b.ClientAddr().IsValid() {
		t.Errorf("the client is %v", b.ClientAddr())
	}
}
