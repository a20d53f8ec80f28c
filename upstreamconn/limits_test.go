package upstreamconn

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"piko/fault"
)

// TestTCPToHTTPListenerIsRefused: its bytes would be requests that have passed no proxy. Upgrades are requests, and
// listeners that do not say what they are get what they always got.
func TestTCPToHTTPListenerIsRefused(t *testing.T) {
	n := startNode(t, nil)
	hello := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, "hello") })
	startAgent(t, n.url, "http", hello)
	startAgentFor(t, n.url, "tcp", "tcp", hello)
	dialOldAgent(t, n.url, "old").serve(t, hello)
	for endpoint, refused := range map[string]bool{"http": true, "tcp": false, "old": false} {
		u := n.waitFor(t, endpoint, 1)[0].Upstream()
		c, err := u.Open(t.Context())
		if c != nil {
			c.Close()
		}
		if errors.Is(err, fault.WrongProtocol) != refused || err != nil != refused {
			t.Errorf("%s: %v", endpoint, err)
		}
		if _, err := do(u, http.MethodGet, ""); err != nil {
			t.Errorf("%s: a request: %v", endpoint, err)
		}
	}
}

func TestRequestsOfATunnelAreBounded(t *testing.T) {
	n := startNode(t, func(s *Server) { s.MaxRequests = 2 })
	startAgent(t, n.url, "endpoint", echo)
	l := n.waitFor(t, "endpoint", 1)[0]
	for i, want := range []bool{true, true, false} {
		if got := l.Begin(); got != want {
			t.Errorf("request %d begins: %v, with %d in flight", i+1, got, l.InFlight())
		}
	}
}
