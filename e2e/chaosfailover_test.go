//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// ask makes one GET through a node and returns why it failed.
func (c *cluster) ask(n *clusterNode, endpoint, id string) error {
	client := &plainClient{addr: n.proxy, dial: (&net.Dialer{Timeout: time.Second}).DialContext}
	defer client.close()
	var r record
	client.do(plan{id: id, kind: kindGet, endpoint: endpoint}, &r)
	if r.Failure != "" {
		return fmt.Errorf("%s for %s: %s, %s", n.id, endpoint, r.Failure, r.Detail)
	}
	return nil
}

// askAll asks each node that runs for each endpoint.
func (c *cluster) askAll(id string) error {
	var errs []error
	for _, n := range c.nodes {
		for _, e := range c.endpoints {
			if n.running() {
				errs = append(errs, c.ask(n, e, id))
			}
		}
	}
	return errors.Join(errs...)
}

// holders returns the nodes that have tunnels of an endpoint.
func (c *cluster) holders(t testing.TB, endpoint string) (holders []*clusterNode) {
	t.Helper()
	for _, n := range c.nodes {
		counts, err := n.endpoints()
		if err != nil {
			t.Fatalf("read endpoints of %s: %v", n.id, err)
		}
		if counts[endpoint] > 0 {
			holders = append(holders, n)
		}
	}
	return holders
}

// TestKillOnlyHolder kills the only node that has tunnels of an endpoint: its agent, behind
// the load balancer, is reachable through the other nodes within a second.
func TestKillOnlyHolder(t *testing.T) {
	c := startCluster(t, clusterOptions{agents: 1, endpoints: 1, tunnels: 1})
	const trials = 3
	for i := range trials {
		n := c.holders(t, "e1")[0]
		n.kill(t)
		eventually(t, time.Second+100*time.Millisecond, "the endpoint is reachable through the others", func() error {
			return c.askAll(fmt.Sprintf("trial-%d", i))
		})
		t.Logf("%s, the only node with a tunnel, was killed; through all others the endpoint was reachable %v later", n.id, time.Since(n.exitedAt).Round(time.Millisecond))
		c.startNode(n)
		n.waitReady(t)
		c.lb.waitUp(t, n.id)
		c.waitWhole(t, 15*time.Second)
	}
}

// TestKillOneOfTwoHolders is the same with the two tunnels that an agent has by default:
// there is no gap.
func TestKillOneOfTwoHolders(t *testing.T) {
	x := startChaos(t, startCluster(t, clusterOptions{agents: 1}))
	x.base = nil
	n := x.holders(t, "e1")[0]
	i := slices.Index(x.nodes, n)
	x.load.enter(t, x.lb.without[i])
	killed := time.Now()
	n.kill(t)
	x.excuseKill(i, killed, n.exitedAt)
	x.quiet(3 * time.Second)
	x.finish()
}

// TestNodeReturnsUnderItsName kills a node and starts it again at once, under the same id and
// addresses: it is usable when it says so, the others use it, and nothing of its former
// life is left in the status.
func TestNodeReturnsUnderItsName(t *testing.T) {
	c := startCluster(t, clusterOptions{})
	for i := range pick(3, 20) {
		n, id := c.nodes[i%len(c.nodes)], fmt.Sprintf("return-%d", i)
		n.kill(t)
		c.startNode(n)
		n.waitReady(t)
		if err := c.askAll(id); err != nil {
			t.Errorf("right after %s was ready: %v", n.id, err)
		}
		c.waitWhole(t, 12*time.Second)
		if err := c.askAll(id + "-whole"); err != nil {
			t.Errorf("with all tunnels there: %v", err)
		}
	}
}

// statusOf is what `piko server status cluster nodes` of one node says of another; "" if it
// is not there.
func (c *cluster) statusOf(t testing.TB, asked, about *clusterNode) string {
	t.Helper()
	r := piko(t, "server", "status", "cluster", "nodes", "--server.url", "http://"+asked.admin)
	if r.code != 0 {
		t.Fatalf("status of the cluster: status %d, %s", r.code, r.stderr)
	}
	for item := range strings.SplitSeq(r.stdout, "- ") {
		if !strings.Contains(item, "id: "+about.id+"\n") {
			continue
		}
		_, status, _ := strings.Cut(item, "status: ")
		status, _, _ = strings.Cut(status, "\n")
		return strings.Trim(status, `"`)
	}
	return ""
}

// TestStatusOfLostNodes follows nodes through the status of another one: killed, silent,
// and ended.
func TestStatusOfLostNodes(t *testing.T) {
	t.Parallel()
	c := startCluster(t, clusterOptions{agents: 1, endpoints: 1})
	watcher, lost := c.nodes[0], c.nodes[1]
	active := func(want bool, within time.Duration, why string) {
		t.Helper()
		eventually(t, within, why, func() error {
			if s := c.statusOf(t, watcher, lost); (s == "active") != want {
				return fmt.Errorf("its status is %q", s)
			}
			return nil
		})
	}
	active(true, 10*time.Second, "a node that runs is active")
	for _, sig := range []syscall.Signal{syscall.SIGKILL, syscall.SIGTERM, syscall.SIGSTOP} {
		lost.signal(t, sig)
		active(false, 10*time.Second, fmt.Sprintf("a node is not active after %v", sig))
		for began := time.Now(); time.Since(began) < 5*time.Second; <-time.After(200 * time.Millisecond) {
			active(false, 0, fmt.Sprintf("a node does not come back as a ghost after %v", sig))
		}
		if sig == syscall.SIGSTOP {
			lost.signal(t, syscall.SIGCONT)
		} else {
			lost.wait(t, 15*time.Second)
			c.startNode(lost)
			lost.waitReady(t)
		}
		active(true, 3*time.Second, fmt.Sprintf("a node is active again after %v", sig))
	}
	c.waitWhole(t, 20*time.Second)
}

// TestRollingRestartWithOldAgents is a rolling restart under load with agents that know
// nothing of several connections and of being asked to move, as those of v0.9.0.
func TestRollingRestartWithOldAgents(t *testing.T) {
	c := newCluster(t, clusterOptions{agents: 2, tunnels: 1})
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
		c.lb.waitUp(t, n.id)
	}
	var wg sync.WaitGroup
	for _, a := range c.agents {
		for _, e := range c.endpoints {
			old := &oldAgent{url: "ws://" + c.lb.upstream + "/piko/v1/upstream/" + e, service: c.services[a.name+"-"+e]}
			wg.Go(func() { old.run(t.Context()) })
		}
	}
	t.Cleanup(wg.Wait) // the context of the test ends before
	c.waitWhole(t, 15*time.Second)
	// Such an agent can only be sent away between two requests, so that streams one after the
	// other would keep it to the end of the grace period.
	x := startChaosWith(t, c, 0)
	x.restartNodes(2 * time.Second) // an old agent has to come back before the next one goes
	x.finish()
}

// TestRebalancing lets agents that all came to the first node be moved to those that joined
// later, under load: nothing is lost.
func TestRebalancing(t *testing.T) {
	rounds(t, func(t *testing.T) {
		const endpoints = 12
		c := newCluster(t, clusterOptions{agents: 2, endpoints: endpoints, tunnels: 1, server: []string{
			"--upstream.rebalance.threshold", "0.1", "--upstream.rebalance.shed-rate", "0.2", "--upstream.rebalance.min-conns", "0",
		}})
		first := c.nodes[0]
		first.args = append(first.args, "--cluster.abort-if-join-fails=false", "--cluster.join-timeout=1s")
		c.startNode(first)
		first.waitReady(t)
		c.lb.waitUp(t, first.id)
		for _, a := range c.agents {
			c.startAgent(a)
		}
		c.waitWhole(t, 15*time.Second)
		x := startChaos(t, c)
		x.base = nil
		for _, n := range c.nodes[1:] {
			c.startNode(n)
			n.waitReady(t)
			c.lb.waitUp(t, n.id)
		}
		x.waitBalanced(t, 2*endpoints)
		x.finish()
	})
}

// waitBalanced waits until no node has clearly more tunnels than its part.
func (c *cluster) waitBalanced(t testing.TB, all int) {
	t.Helper()
	began := time.Now()
	eventually(t, 60*time.Second, "the tunnels are spread over the nodes", func() error {
		var spread []int
		sum := 0
		for _, n := range c.nodes {
			counts, err := n.endpoints()
			if err != nil {
				return err
			}
			tunnels := 0
			for _, count := range counts {
				tunnels += count
			}
			spread, sum = append(spread, tunnels), sum+tunnels
		}
		if average := all / len(c.nodes); sum != all || slices.Max(spread) > average+max(2, average/4) {
			return fmt.Errorf("the nodes have %v of %d", spread, all)
		}
		t.Logf("after %v the nodes have %v tunnels", time.Since(began).Round(time.Millisecond), spread)
		return nil
	})
}
