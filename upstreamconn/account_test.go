package upstreamconn

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"piko/fault"
)

// TestTunnelsKeepAccount of what they did, and end when somebody wants that, but
// not before the requests under way have.
func TestTunnelsKeepAccount(t *testing.T) {
	var mu sync.Mutex
	var changes []string
	n := startNode(t, func(s *Server) {
		s.NodeID = "node"
		s.OnChange = func(c Change) {
			mu.Lock()
			defer mu.Unlock()
			changes = append(changes, fmt.Sprint(c.Connected, " ", c.Endpoint, " ", c.ID))
		}
	})
	begun, release := make(chan struct{}), make(chan struct{})
	startAgent(t, n.url, "endpoint", slow(begun, release))
	l := n.waitFor(t, "endpoint", 1)[0]
	result := inFlight(t, l, begun)
	l.Upstream().(*upstream).NoteFailure(fault.UpstreamTimeout, strings.Repeat("x", 1000))

	before := slices.Collect(n.UpstreamsOf("endpoint"))
	if len(before) != 1 || len(slices.Collect(n.UpstreamsOf("other"))) != 0 {
		t.Fatalf("got %+v", before)
	}
	st := before[0]
	if st.Requests != 1 || st.Failed != 1 || st.LastFailure == nil || st.LastFailure.Code != fault.UpstreamTimeout || len(st.LastFailure.Detail) != failureText ||
		st.Weight != 100 || !strings.HasPrefix(st.ID, "node.") || st.Version == "" {
		t.Errorf("got %+v", st)
	}
	if n.Disconnect("node.1") || !n.Disconnect(st.ID) {
		t.Error("Disconnect does not know its tunnels")
	}
	n.waitFor(t, "endpoint", 0)
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request in flight: %v", err)
	}
	n.waitFor(t, "endpoint", 1) // the agent comes back
	eventually(t, func() error {
		mu.Lock()
		defer mu.Unlock()
		for _, want := range []string{"true endpoint ", "false endpoint "} {
			if !slices.Contains(changes, want+st.ID) {
				return fmt.Errorf("no %q in %q", want+st.ID, changes)
			}
		}
		return nil
	})
}
