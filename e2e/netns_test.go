//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// remoteCluster is three nodes in network namespaces of their own. Beside each node k is an
// agent that serves the endpoint ek through that node only; those beside n2 and n3 also serve
// "shared". Every endpoint is asked for through every node, ten times a second.
type remoteCluster struct {
	*chaos
	t    *testing.T
	wire *wire
	stop chan struct{}
	wg   sync.WaitGroup
}

const sharedEndpoint = "shared"

var remoteEndpoints = []string{"e1", "e2", "e3", sharedEndpoint}

// startRemoteCluster starts it and waits until every node reaches every endpoint.
func startRemoteCluster(t *testing.T) *remoteCluster {
	t.Helper()
	c := &remoteCluster{t: t, wire: newWire(t, 3), stop: make(chan struct{})}
	c.chaos = &chaos{cluster: &cluster{t: t, ledger: &ledger{}}, t: t, want: map[kind]int{}, limit: map[kind]time.Duration{kindGet: 5 * time.Second}}
	c.load = &traffic{}
	for i, h := range c.wire.hosts {
		c.startRemoteNode(i, h)
	}
	for i, h := range c.wire.hosts {
		c.startRemoteAgent(i, h)
	}
	eventually(t, 30*time.Second, "every node reaches every endpoint", c.reachAll)
	c.load, c.ledger.executions = &traffic{}, nil // what failed until now is not of the run
	for i, h := range c.wire.hosts {
		for _, e := range remoteEndpoints {
			c.wg.Go(func() { c.probe(i, h, e) })
		}
	}
	<-time.After(2 * time.Second)
	return c
}

func (c *remoteCluster) startRemoteNode(i int, h *wireHost) {
	s := &server{proxy: h.at(8000), upstream: h.at(8001), admin: h.at(8002)}
	s.args = []string{"--cluster.node-id", fmt.Sprintf("n%d", i+1), "--cluster.gossip.bind-addr", ":8003"}
	for _, other := range c.wire.hosts {
		s.args = append(s.args, "--cluster.join", other.addr.String()) // itself too, as a DNS name would
	}
	n := &clusterNode{s, fmt.Sprintf("n%d", i+1), h.at(8003)}
	c.nodes = append(c.nodes, n)
	inSpace(h.space, func() error { c.startNode(n); return nil })
}

func (c *remoteCluster) startRemoteAgent(i int, h *wireHost) {
	var file strings.Builder
	file.WriteString("listeners:\n")
	endpoints := []string{fmt.Sprintf("e%d", i+1)}
	if i > 0 {
		endpoints = append(endpoints, sharedEndpoint)
	}
	for _, e := range endpoints {
		inSpace(h.space, func() error {
			l, err := net.Listen("tcp", "127.0.0.1:0")
			if err != nil {
				return err
			}
			s := startService(c.t, l, fmt.Sprintf("a%d-%s", i+1, e), e, c.ledger)
			file.WriteString(fmt.Sprintf("  - {endpoint_id: %s, addr: '%s'}\n", e, s.addr))
			return nil
		})
	}
	a := &clusterAgent{name: fmt.Sprintf("a%d", i+1), file: writeFile(c.t, c.t.TempDir(), "agent.yaml", file.String())}
	a.args = []string{"--connect.url", "http://" + h.at(8001), "--connections", "1"}
	inSpace(h.space, func() error { c.startAgent(a); return nil })
	c.agents = append(c.agents, a)
}

// ask makes one request to a node from beside it.
func (c *remoteCluster) ask(client *plainClient, node int, endpoint, id string) record {
	r := record{ID: id, Kind: kindGet, Endpoint: endpoint, Entry: c.nodes[node].proxy, Start: time.Now()}
	client.do(plan{id: id, kind: kindGet, endpoint: endpoint, size: 100}, &r)
	if r.Failure != "" {
		client.close()
	}
	r.End = time.Now()
	return r
}

func (c *remoteCluster) client(node int) *plainClient {
	return &plainClient{addr: c.nodes[node].proxy, dial: c.wire.hosts[node].dial}
}

// note keeps a record for the checker.
func (c *remoteCluster) note(r record) {
	c.load.mu.Lock()
	defer c.load.mu.Unlock()
	c.load.issued++
	c.load.records = append(c.load.records, r)
}

// probe asks one node for one endpoint until the end.
func (c *remoteCluster) probe(node int, h *wireHost, endpoint string) {
	client := c.client(node)
	defer client.close()
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for n := 0; ; n++ {
		select {
		case <-c.stop:
			return
		case <-tick.C:
			c.note(c.ask(client, node, endpoint, fmt.Sprintf("%s-%s-%d", c.nodes[node].id, endpoint, n)))
		}
	}
}

// reachAll asks every node for every endpoint once, and returns the failures.
func (c *remoteCluster) reachAll() error {
	var failed []string
	for i, n := range c.nodes {
		client := c.client(i)
		for _, e := range remoteEndpoints {
			r := c.ask(client, i, e, fmt.Sprintf("reach-%s-%s-%d", n.id, e, time.Now().UnixNano()))
			if c.note(r); r.Failure != "" {
				failed = append(failed, fmt.Sprintf("%s to %s: %s", n.id, e, r.Failure))
			}
		}
		client.close()
	}
	if len(failed) > 0 {
		return fmt.Errorf("%s", strings.Join(failed, "; "))
	}
	return nil
}

// statuses is what each node says of each.
func (c *remoteCluster) statuses(node int) (map[string]string, error) {
	client := http.Client{Transport: &http.Transport{DialContext: c.wire.hosts[node].dial, DisableKeepAlives: true}, Timeout: 5 * time.Second}
	res, err := client.Get("http://" + c.nodes[node].admin + "/status/cluster/nodes")
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, _ := io.ReadAll(res.Body)
	var list []nodeStatus
	if err := json.Unmarshal(body, &list); err != nil {
		return nil, fmt.Errorf("read nodes: %w", err)
	}
	by := map[string]string{}
	for _, s := range list {
		by[s.ID] = s.Status
	}
	return by, nil
}

// finish ends the probes and judges the run.
func (c *remoteCluster) finish() {
	c.t.Helper()
	close(c.stop)
	c.wg.Wait()
	c.report(history{
		Issued: c.load.issued, Requests: c.load.records, Executions: c.ledger.all(c.t),
		Windows: c.windows, Healed: c.healed, Want: map[kind]int{kindGet: 500}, Limit: c.limit,
	})
}

// allActive wants each of the given nodes to take the others of them for active.
func (c *remoteCluster) allActive(nodes ...int) error {
	for _, i := range nodes {
		by, err := c.statuses(i)
		if err != nil {
			return fmt.Errorf("ask %s for its nodes: %w", c.nodes[i].id, err)
		}
		for _, other := range nodes {
			if id := c.nodes[other].id; by[id] != "active" {
				return fmt.Errorf("%s says that %s is %q", c.nodes[i].id, id, by[id])
			}
		}
	}
	return nil
}

// afterHealing is how soon every node must reach every endpoint.
const afterHealing = 10 * time.Second

// heal mends all links and wants everything to work again by itself.
func (c *remoteCluster) heal() {
	c.t.Helper()
	for i := range c.wire.hosts {
		c.wire.setAll(i, link{})
	}
	c.healed = time.Now()
	eventually(c.t, afterHealing, "every node reaches every endpoint after healing", c.reachAll)
	c.t.Logf("healed at %s, every node reached every endpoint %v later", clock(c.healed), time.Since(c.healed).Round(time.Millisecond))
	<-time.After(time.Until(c.healed.Add(afterHealing + 2*time.Second)))
	eventually(c.t, 10*time.Second, "every node takes every other for active", func() error { return c.allActive(0, 1, 2) })
}

// excuseBetween declares that requests through the entries for endpoints that are behind
// the cut fail, with an answer that says so.
func (c *remoteCluster) excuseBetween(from time.Time, entries []int, endpoints ...string) {
	var addrs []string
	for _, i := range entries {
		addrs = append(addrs, c.nodes[i].proxy)
	}
	c.windows = append(c.windows, window{
		Name: "cut", From: from, To: c.healed.Add(afterHealing), Kinds: []kind{kindGet}, Failures: []failure{fail502},
		Entries: addrs, Endpoints: endpoints,
	})
}

// TestPartition cuts one node off. Both sides go on with what they have, at once; what they
// do not have they say so; and after healing all is as before, without a restart. 90 s are
// longer than memberlist remembers a dead node.
func TestPartition(t *testing.T) {
	for _, lasts := range pick([]time.Duration{10 * time.Second}, []time.Duration{10 * time.Second, 90 * time.Second}) {
		t.Run(lasts.String(), func(t *testing.T) {
			t.Parallel()
			c := startRemoteCluster(t)
			cut := time.Now()
			c.wire.setAll(0, link{cut: true})
			t.Logf("n1 was cut off at %s", clock(cut))
			<-time.After(lasts)
			if err := c.allActive(1, 2); err != nil {
				t.Errorf("on the other side of the cut: %v", err)
			}
			c.heal()
			c.excuseBetween(cut, []int{0}, "e2", "e3", sharedEndpoint)
			c.excuseBetween(cut, []int{1, 2}, "e1")
			c.finish()
		})
	}
}

// TestOneWayLoss loses everything from n1 to n3 and nothing else. Gossip goes round by n2 and
// takes all for well, so the connections have to find out; what n2 has too stays reachable.
func TestOneWayLoss(t *testing.T) {
	t.Parallel()
	c := startRemoteCluster(t)
	cut := time.Now()
	c.wire.set(0, 2, link{cut: true})
	t.Logf("from n1 to n3 nothing came from %s on", clock(cut))
	<-time.After(pick(15*time.Second, 60*time.Second))
	c.heal()
	c.excuseBetween(cut, []int{0}, "e3")
	c.excuseBetween(cut, []int{2}, "e1")
	c.finish()
}

// TestLossAndDelay has every packet between nodes take 50 ms, and one in twenty not come at
// all. Nobody may be taken for dead. Where three transmissions of a segment in a row are lost,
// a connection is silent for as long as one to a frozen node, and is given up: what was under
// way on it is lost if there is nobody else to ask, as when a node dies, but hardly ever.
func TestLossAndDelay(t *testing.T) {
	t.Parallel()
	c := startRemoteCluster(t)
	c.limit[kindGet] = 10 * time.Second // a segment may be lost several times
	lossy := time.Now()
	for i := range c.wire.hosts {
		c.wire.setAll(i, link{loss: 0.05, delay: 50 * time.Millisecond})
	}
	for time.Since(lossy) < pick(20*time.Second, 2*time.Minute) {
		// A link may go two seconds without a byte when a machine is busy and segments are lost twice; it is made anew.
		eventually(t, 8*time.Second, "nobody is taken for dead", func() error { return c.allActive(0, 1, 2) })
		<-time.After(time.Second)
	}
	c.heal()
	for i := range c.nodes {
		for other := range c.nodes {
			if i != other {
				c.excuseBetween(lossy, []int{i}, fmt.Sprintf("e%d", other+1))
			}
		}
		c.excuseBetween(lossy, []int{i}, "shared") // both links of a node may be made anew at the same time
	}
	c.finish()
	lost := 0
	for _, r := range c.load.records {
		if r.Failure != "" {
			lost++
		}
	}
	if lost > len(c.load.records)/200 {
		t.Errorf("%d of %d requests were lost, at most 0.5 %% may be", lost, len(c.load.records))
	}
}
