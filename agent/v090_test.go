package agent

import (
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"

	"github.com/gorilla/websocket"
	"github.com/hashicorp/yamux"

	"piko/client"
)

// webSocketBytes is a byte stream over gorilla's WebSocket, as in v0.9.0.
type webSocketBytes struct {
	*websocket.Conn
	r io.Reader // the current message
}

func (c *webSocketBytes) Read(p []byte) (int, error) {
	for {
		if c.r != nil {
			if n, err := c.r.Read(p); n > 0 || err != io.EOF {
				return n, err
			}
		}
		var err error
		if _, c.r, err = c.NextReader(); err != nil {
			return 0, err
		}
	}
}

func (c *webSocketBytes) Write(p []byte) (int, error) {
	return len(p), c.WriteMessage(websocket.BinaryMessage, p)
}

// TestAgentAtAServerOfV090 has the agent at a server with gorilla's WebSocket
// and yamux with its defaults, which knows no drain and opens a stream per
// request: it forwards, and its stop loses nothing that is in flight.
func TestAgentAtAServerOfV090(t *testing.T) {
	sessions := make(chan *yamux.Session, 1)
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ws, err := new(websocket.Upgrader).Upgrade(w, r, nil)
		if err != nil {
			t.Error(err)
			return
		}
		cfg := yamux.DefaultConfig()
		cfg.LogOutput = io.Discard
		s, err := yamux.Server(&webSocketBytes{Conn: ws}, cfg)
		if err != nil {
			t.Error(err)
			return
		}
		sessions <- s
	}))
	defer server.Close()
	url, arrived, release := blockingService(t)
	a, err := New(Config{Listeners: []Listener{{Endpoint: "my-endpoint", Addr: url}}}, &client.Client{URL: server.URL}, nil, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- a.Run(ctx) }()
	session := <-sessions
	defer session.Close()
	transport := &http.Transport{
		DialContext:       func(context.Context, string, string) (net.Conn, error) { return session.OpenStream() },
		DisableKeepAlives: true,
	}
	var flying sync.WaitGroup
	for range 10 {
		flying.Go(func() {
			req, _ := http.NewRequestWithContext(t.Context(), http.MethodGet, "http://my-endpoint.example.com/", nil)
			res, err := transport.RoundTrip(req)
			if err != nil {
				t.Errorf("request in flight at the stop: %v", err)
				return
			}
			defer res.Body.Close()
			if body, err := io.ReadAll(res.Body); string(body) != "done" || err != nil {
				t.Errorf("request in flight at the stop: body %q, error %v", body, err)
			}
		})
	}
	for range 10 {
		<-arrived
	}
	stop()
	eventually(t, func() error {
		stream, err := session.OpenStream()
		if err == nil {
			stream.Close()
			return errNotYet
		}
		if err != yamux.ErrRemoteGoAway {
			return err
		}
		return nil
	})
	close(release)
	flying.Wait()
	if err := <-done; err != nil {
		t.Errorf("Run returned %v, want nil", err)
	}
}
