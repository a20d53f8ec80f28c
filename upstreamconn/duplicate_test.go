package upstreamconn

import (
	"fmt"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"

	"piko/client"
	"piko/fault"
	"piko/tunnel"
)

// A node that an upstream has named refuses the tunnel, and does nothing else.
func TestNodeThatIsNamedRefuses(t *testing.T) {
	var others atomic.Bool
	n := startNode(t, func(s *Server) { s.NodeID, s.Others = "node-1", others.Load })
	url := n.url + "/piko/v1/upstream/endpoint"
	for _, c := range []struct {
		name, nodes string
		status      int
		code        fault.Code
	}{
		{"nobody", "", 101, ""},
		{"itself", "node-1", 409, fault.DuplicateTunnel},
		{"itself among others", "node-0, node-1 ,node-2", 409, fault.DuplicateTunnel},
		{"others", "node-0, node-10, Node-1", 101, ""},
		{"rubbish", "node-1, a b", 101, ""},
		{"too many", strings.Repeat("n,", 16) + "node-1", 101, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			res, code := handshake(t, url, func(r *http.Request) { r.Header.Set(tunnel.HeaderNodes, c.nodes) })
			if res.StatusCode != c.status || code != c.code {
				t.Errorf("answered %s %q, want %d %q", res.Status, code, c.status, c.code)
			}
			if id := res.Header.Get(tunnel.HeaderNodeID); id != "node-1" {
				t.Errorf("the answer is of node %q", id)
			}
		})
	}
	if got := n.log.with("upstream refused", "level=DEBUG", "already"); len(got) != 2 {
		t.Errorf("the log says %q", got)
	}
	if got := n.log.with("level=INFO", "upstream refused"); len(got) != 0 {
		t.Errorf("the log says %q", got)
	}
	others.Store(true)
	n.Drain(t.Context(), tunnel.DrainMessage{})
	if res, code := handshake(t, url, func(r *http.Request) { r.Header.Set(tunnel.HeaderNodes, "node-1") }); code != fault.Draining {
		t.Errorf("answered %s %q by a node that drains, which others may take better", res.Status, code)
	}
}

// An agent that is always led to one node of several is one tunnel to it, and
// no more than debug lines.
func TestAgentThatIsLedToOneNodeDisturbsNothing(t *testing.T) {
	n := startNode(t, func(s *Server) { s.ClusterSize = func() int { return 3 } })
	var again atomic.Int64
	c := &client.Client{URL: n.url, OnState: func(s client.State) {
		if s.Err != nil {
			again.Add(1)
		}
	}}
	ln, err := c.Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	l := n.waitFor(t, "endpoint", 1)[0]
	eventually(t, func() error {
		if got := again.Load(); got < 4 {
			return fmt.Errorf("%d attempts were in vain", got)
		}
		return nil
	})
	if got := n.waitFor(t, "endpoint", 1)[0]; got != l || l.Draining() {
		t.Errorf("the tunnel was superseded: another one %v, draining %v", got != l, l.Draining())
	}
	if got := n.log.with("upstream connected"); len(got) != 1 {
		t.Errorf("%d connects: %q", len(got), got)
	}
	if got := n.log.with("upstream refused", "level=DEBUG"); len(got) < 4 {
		t.Errorf("%d refusals", len(got))
	}
	if got := n.Tunnels(); got != 1 {
		t.Errorf("%d tunnels", got)
	}
}
