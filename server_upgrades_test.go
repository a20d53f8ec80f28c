package main

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"

	"piko/agent"
	"piko/client"
)

// webSocketService hands out the service's ends of WebSockets.
func webSocketService(t *testing.T) (url string, conns <-chan *websocket.Conn) {
	far := make(chan *websocket.Conn, 10)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var up websocket.Upgrader
		c, err := up.Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		t.Cleanup(func() { c.Close() })
		far <- c
	}))
	t.Cleanup(s.Close)
	return s.URL, far
}

// runAgent runs an agent with a short grace period.
func runAgent(t *testing.T, n *testNode, endpoint, addr string) (stop func()) {
	t.Helper()
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{Endpoint: endpoint, Addr: addr}}, GracePeriod: 100 * time.Millisecond},
		&client.Client{URL: "http://" + n.UpstreamAddr().String()}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context()))
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	stopped := false
	stop = func() {
		if stopped {
			return
		}
		stopped = true
		cancel()
		if err := <-done; err != nil {
			t.Errorf("the agent failed: %v", err)
		}
	}
	t.Cleanup(stop)
	return stop
}

// dialWebSocket connects as soon as the node knows the endpoint.
func dialWebSocket(t *testing.T, n *testNode, endpoint string) *websocket.Conn {
	t.Helper()
	var c *websocket.Conn
	eventually(t, func() error {
		conn, res, err := websocket.DefaultDialer.Dial("ws://"+n.ProxyAddr().String(), http.Header{"X-Piko-Endpoint": {endpoint}})
		if err == nil {
			c = conn
		}
		if res != nil {
			res.Body.Close()
		}
		return err
	})
	t.Cleanup(func() { c.Close() })
	return c
}

// readClose reads until the end and returns why it came.
func readClose(c *websocket.Conn) error {
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			return err
		}
	}
}

// Whoever on the way of a WebSocket stops, both sides learn that it goes away, and not that it broke.
func TestWebSocketsAreToldOfAStop(t *testing.T) {
	short := func(cfg *serverConfig) { cfg.GracePeriod = time.Second }
	for _, stopped := range []string{"the only node", "the client's node", "the agent's node", "the agent"} {
		t.Run(stopped, func(t *testing.T) {
			t.Parallel()
			size := 2
			if stopped == "the only node" {
				size = 1
			}
			nodes := startCluster(t, size, short)
			entry, owner := nodes[0], nodes[size-1]
			service, conns := webSocketService(t)
			stopAgent := runAgent(t, owner, "chat", service)
			c := dialWebSocket(t, entry, "chat")
			far := <-conns
			if err := c.WriteMessage(websocket.TextMessage, []byte("hello")); err != nil {
				t.Fatal(err)
			}
			if _, b, err := far.ReadMessage(); string(b) != "hello" {
				t.Fatalf("got %q, %v", b, err)
			}
			ends := make(chan error, 1)
			go func() { ends <- readClose(far) }()
			switch stopped {
			case "the only node", "the client's node":
				entry.stop()
			case "the agent's node":
				owner.stop()
			case "the agent":
				stopAgent()
			}
			for side, err := range map[string]error{"client": readClose(c), "service": <-ends} {
				if !websocket.IsCloseError(err, websocket.CloseGoingAway) {
					t.Errorf("the %s saw %v", side, err)
				}
			}
			if log := entry.log.String(); strings.HasSuffix(stopped, "node") && entry == owner && !strings.Contains(log, `"requests_cut":1`) {
				t.Error("the log does not count the WebSocket among the requests that were cut")
			}
		})
	}
}
