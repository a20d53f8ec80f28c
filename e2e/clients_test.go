//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"testing"
	"time"
)

// way is a way from clients to services: through one node, or across two, where clients ask
// the one and agents are at the other.
type way struct {
	entry, owner *server // the same, with one node
}

// overEach runs a test with each way, beside other tests. The nodes have no flags but where
// they are; nodes get more, if there are any.
func overEach(t *testing.T, test func(t *testing.T, w *way), nodes ...string) {
	t.Parallel()
	for i, name := range []string{"one node", "two nodes"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t, startWay(t, i+1, nodes...))
		})
	}
}

// startWay starts one node or two.
func startWay(t testing.TB, n int, args ...string) *way {
	t.Helper()
	if n == 1 {
		s := startServer(t, args...)
		return &way{entry: s, owner: s}
	}
	c := newPair(t, args)
	for _, s := range c {
		s.startWith(t, nil)
	}
	for _, s := range c {
		s.waitReady(t)
	}
	return &way{entry: c[0], owner: c[1]}
}

// newPair prepares two nodes that find each other.
func newPair(t testing.TB, args []string) (pair [2]*server) {
	gossip := [2]string{freeAddr(t), freeAddr(t)}
	for i := range pair {
		pair[i] = &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
		pair[i].args = append([]string{
			"--cluster.node-id", fmt.Sprintf("n%d", i+1), "--cluster.gossip.bind-addr", gossip[i],
			"--cluster.join", gossip[1-i], "--cluster.secret", clusterSecret,
		}, args...)
	}
	return pair
}

// agent starts an agent of one HTTP service, and returns when clients reach it.
func (w *way) agent(t testing.TB, endpoint, addr string, args ...string) *process {
	t.Helper()
	return w.started(t, endpoint, start(t, "agent", nil, pikoBinary, append([]string{
		"agent", "http", endpoint, addr, "--connect.url", "http://" + w.owner.upstream, "--connections", "1"}, args...)...))
}

// agents starts an agent of many services, which a file lists.
func (w *way) agents(t testing.TB, listeners string) *process {
	t.Helper()
	file := writeFile(t, t.TempDir(), "agent.yaml", listeners)
	return start(t, "agent", nil, pikoBinary, "agent", "start", "--config.path", file, "--connect.url", "http://"+w.owner.upstream, "--connections", "1")
}

// started waits until clients reach an agent, or what else has been started on an endpoint.
func (w *way) started(t testing.TB, endpoint string, p *process) *process {
	t.Helper()
	w.waitKnown(t, endpoint)
	return p
}

// waitKnown waits until the entry node knows that the owner serves an endpoint.
func (w *way) waitKnown(t testing.TB, endpoint string) {
	t.Helper()
	if w.entry == w.owner {
		w.owner.waitUpstreams(t, endpoint, 1, 10*time.Second)
		return
	}
	eventually(t, 10*time.Second, "the entry node knows the endpoint", func() error {
		body, err := fetch("http://" + w.entry.admin + "/status/cluster/nodes/n2")
		if err != nil {
			return err
		}
		var owner struct{ Endpoints map[string]int }
		if err := json.Unmarshal(body, &owner); err != nil {
			return fmt.Errorf("read the owner: %w", err)
		}
		if owner.Endpoints[endpoint] == 0 {
			return fmt.Errorf("it knows %v", owner.Endpoints)
		}
		return nil
	})
}
