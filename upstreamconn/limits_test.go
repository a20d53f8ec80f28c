package upstreamconn

import (
	"errors"
	"io"
	"net/http"
	"testing"

	"piko/fault"
	"piko/router"
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

// TestLimitsAreReplaced: of a node that serves, for tunnels that are there and for those that come.
func TestLimitsAreReplaced(t *testing.T) {
	n := startNode(t, func(s *Server) { s.MaxRequests = 1 })
	startAgent(t, n.url, "old", echo)
	old := n.waitFor(t, "old", 1)[0]
	n.SetLimits(Limits{Tunnels: 2, TunnelsPerEndpoint: 1}, 2)
	startAgent(t, n.url, "new", echo)
	for name, l := range map[string]*router.Local{"there": old, "new": n.waitFor(t, "new", 1)[0]} {
		for i, want := range []bool{true, true, false} {
			if got := l.Begin(); got != want {
				t.Errorf("%s: request %d begins: %v", name, i+1, got)
			}
		}
	}
	for endpoint, limits := range map[string]Limits{"third": {Tunnels: 2}, "old": {TunnelsPerEndpoint: 1}} {
		n.SetLimits(limits, 0)
		if res, body := ask(t, n.url, "/piko/v1/upstream/"+endpoint, nil); res.StatusCode != http.StatusServiceUnavailable {
			t.Errorf("%s with %+v: %d %s", endpoint, limits, res.StatusCode, body)
		}
	}
	if !old.Begin() {
		t.Error("the bound of requests is still there")
	}
	n.SetLimits(Limits{}, 0)
	if res, body := ask(t, n.url, "/piko/v1/upstream/third", nil); res.StatusCode != http.StatusSwitchingProtocols {
		t.Errorf("without limits: %d %s", res.StatusCode, body)
	}
}
