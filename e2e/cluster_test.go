//go:build e2e

package e2e

import (
	"cmp"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// longEnv, set to 1, makes the runs under faults long: streams of 20 s, three rounds of at
// least 4,000 requests for each scenario, partitions longer than memberlist remembers.
const longEnv = "PIKO_E2E_LONG"

// seedEnv replays a run: each prints its seed.
const seedEnv = "PIKO_E2E_SEED"

func long() bool { return os.Getenv(longEnv) == "1" }

// pick is one value for CI and another for long runs.
func pick[T any](short, inLong T) T {
	if long() {
		return inLong
	}
	return short
}

// clusterNode is one node of a cluster, which keeps its name and ports when it is started
// again.
type clusterNode struct {
	*server
	id, gossip string
}

// clusterAgent is one agent with a listener on each endpoint of the cluster, before services
// of its own.
type clusterAgent struct {
	*process
	name, file string
	args       []string
}

// cluster is nodes, agents and a load balancer before the nodes, for clients and agents.
type cluster struct {
	t         testing.TB
	nodes     []*clusterNode
	agents    []*clusterAgent
	lb        *clusterBalancer
	ledger    *ledger
	endpoints []string
	tunnels   int               // per agent and endpoint
	services  map[string]string // addresses by name
	processes []*process
}

// clusterOptions are what differs from three nodes, and two agents with two tunnels each on
// two endpoints.
type clusterOptions struct {
	nodes     int
	agents    int
	endpoints int
	tunnels   int
	server    []string // more flags
	agent     []string
}

// grace is the grace period of nodes and agents: longer than any stream of a run.
const grace = 40 * time.Second

// startCluster starts a cluster and returns when it is whole.
func startCluster(t testing.TB, opt clusterOptions) *cluster {
	t.Helper()
	c := newCluster(t, opt)
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
		c.lb.waitUp(t, n.id)
	}
	for _, a := range c.agents {
		c.startAgent(a)
	}
	c.waitWhole(t, 15*time.Second)
	return c
}

// newCluster prepares a cluster of which only the services and the load balancer run.
func newCluster(t testing.TB, opt clusterOptions) *cluster {
	t.Helper()
	c := &cluster{t: t, ledger: &ledger{}, services: map[string]string{}, tunnels: cmp.Or(opt.tunnels, 2)}
	for i := range cmp.Or(opt.endpoints, 2) {
		c.endpoints = append(c.endpoints, fmt.Sprintf("e%d", i+1))
	}
	for i := range cmp.Or(opt.nodes, 3) {
		s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
		c.nodes = append(c.nodes, &clusterNode{s, fmt.Sprintf("n%d", i+1), freeAddr(t)})
	}
	for _, n := range c.nodes {
		n.args = slices.Concat([]string{
			"--cluster.node-id", n.id, "--cluster.gossip.bind-addr", n.gossip,
			"--shutdown-delay", (6 * checkInterval).String(), "--grace-period", grace.String(),
		}, c.join(n), opt.server)
	}
	c.lb = startClusterBalancer(t, c.nodes)
	c.processes = append(c.processes, c.lb.process)
	for i := range cmp.Or(opt.agents, 2) {
		c.prepareAgent(fmt.Sprintf("a%d", i+1), opt.agent)
	}
	return c
}

// join is how a node finds the others.
func (c *cluster) join(n *clusterNode) (flags []string) {
	for _, other := range c.nodes {
		if other != n {
			flags = append(flags, "--cluster.join", other.gossip)
		}
	}
	return flags
}

// prepareAgent starts the services of an agent and writes its file.
func (c *cluster) prepareAgent(name string, args []string) {
	var file strings.Builder
	file.WriteString("listeners:\n")
	for _, e := range c.endpoints {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			c.t.Fatalf("listen: %v", err)
		}
		s := startService(c.t, l, name+"-"+e, e, c.ledger)
		c.services[s.name] = s.addr
		fmt.Fprintf(&file, "  - {endpoint_id: %s, addr: '%s'}\n", e, s.addr)
	}
	c.agents = append(c.agents, &clusterAgent{name: name, file: writeFile(c.t, c.t.TempDir(), "agent.yaml", file.String()), args: slices.Concat([]string{
		"--connect.url", "http://" + c.lb.upstream, "--connections", strconv.Itoa(c.tunnels), "--grace-period", grace.String(),
	}, args)})
}

// startNode starts a node, or starts it again, and does not wait for it.
func (c *cluster) startNode(n *clusterNode) {
	c.t.Helper()
	n.startWith(c.t, nil)
	n.name = n.id
	c.processes = append(c.processes, n.process)
}

func (c *cluster) startAgent(a *clusterAgent) {
	c.t.Helper()
	a.process = start(c.t, a.name, nil, pikoBinary, append([]string{"agent", "start", "--config.path", a.file}, a.args...)...)
	c.t.Cleanup(a.process.checkLog)
	c.processes = append(c.processes, a.process)
}

// nodeStatus is what one node says of another in /status/cluster/nodes.
type nodeStatus struct {
	ID, Status string
	ProxyAddr  string `json:"proxy_addr"`
	AdminAddr  string `json:"admin_addr"`
	Endpoints  int
	Upstreams  int
}

// status asks a node which nodes there are.
func (n *clusterNode) status() (map[string]nodeStatus, error) {
	body, err := fetch("http://" + n.admin + "/status/cluster/nodes")
	if err != nil {
		return nil, err
	}
	var list []nodeStatus
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	nodes := map[string]nodeStatus{}
	for _, s := range list {
		if _, twice := nodes[s.ID]; twice {
			return nil, fmt.Errorf("node %s is there twice: %+v", s.ID, list)
		}
		nodes[s.ID] = s
	}
	return nodes, nil
}

// waitWhole waits until every node that runs knows the others as active, and every agent has
// all its tunnels.
func (c *cluster) waitWhole(t testing.TB, within time.Duration) {
	t.Helper()
	eventually(t, within, "the cluster is whole", c.whole)
}

func (c *cluster) whole() error {
	tunnels, running := map[string]int{}, 0
	for _, n := range c.nodes {
		if n.process == nil || !n.running() {
			continue
		}
		running++
		counts, err := n.endpoints()
		if err != nil {
			return err
		}
		for e, count := range counts {
			tunnels[e] += count
		}
		if err := c.seesOthers(n); err != nil {
			return err
		}
	}
	for _, e := range c.endpoints {
		if want := len(c.agents) * min(c.tunnels, running); tunnels[e] != want {
			return fmt.Errorf("endpoint %s has %d tunnels, want %d", e, tunnels[e], want)
		}
	}
	return nil
}

// seesOthers wants a node to know every node that runs, and no other, as active.
func (c *cluster) seesOthers(n *clusterNode) error {
	nodes, err := n.status()
	if err != nil {
		return err
	}
	for _, other := range c.nodes {
		runs, active := other.process != nil && other.running(), nodes[other.id].Status == "active"
		if runs != active {
			return fmt.Errorf("%s says that %s is %q", n.id, other.id, nodes[other.id].Status)
		}
	}
	return nil
}

// newSeed is the seed of a run; it is printed, and taken from the environment for a replay.
func newSeed(t testing.TB) uint64 {
	t.Helper()
	seed := rand.Uint64()
	if s := os.Getenv(seedEnv); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			t.Fatalf("%s: %v", seedEnv, err)
		}
	}
	t.Logf("the seed is %s=%d", seedEnv, seed)
	return seed
}

// end tells a process to end and wants it to do so by itself, soon after its last stream;
// meanwhile is what happens until then.
func (c *cluster) end(t testing.TB, p *process, meanwhile ...func()) {
	t.Helper()
	began := time.Now()
	p.signal(t, syscall.SIGTERM)
	for _, f := range meanwhile {
		f()
	}
	if code := p.wait(t, grace+15*time.Second); code != 0 {
		t.Errorf("%s ended with status %d after SIGTERM, want 0", p.name, code)
	}
	t.Logf("%s got SIGTERM at %s and ended after %v", p.name, clock(began), p.exitedAt.Sub(began).Round(time.Millisecond))
}
