//go:build e2e

package e2e

import (
	"fmt"
	"testing"
	"time"
)

// TestStreamThroughLeavingNode ends the node that serves another's streams, when it has none
// of its own and nothing else to wait for: they have as much of the grace period as they need.
func TestStreamThroughLeavingNode(t *testing.T) {
	t.Parallel()
	c := newCluster(t, clusterOptions{nodes: 2, agents: -1, server: secretFlags})
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	entry, owner := c.nodes[0], c.nodes[1]
	o := startOrigin(t, "origin")
	owner.agent(t, "e", o.addr, "--connections", "1", "--connect.url", "http://"+entry.upstream)
	eventually(t, 5*time.Second, "the entry node knows the endpoint", func() error { return c.ask(entry, "e", "hello") })

	answers := inFlight(t, entry.server, o, "/sse?n=19&every=1s", "/slow?d=18s", "/slow-body?d=18s")
	ws := dialWebSocket(t, entry.server, "e", "/ws")
	wantEcho(t, ws, "before")
	c.end(t, owner.process, func() {
		for i := range 18 {
			<-time.After(time.Second)
			wantEcho(t, ws, fmt.Sprint("message ", i))
		}
		ws.Close()
		for range 3 {
			if r := <-answers; r.code != 0 || len(r.stdout) < len("slow origin") {
				t.Errorf("curl ended with status %d, %q %s", r.code, r.stdout, r.stderr)
			}
		}
	})
}
