//go:build e2e

package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"
)

// overview is what the tests read of /status/overview.
type overview struct {
	Nodes []struct {
		ID, State string
		Tunnels   int
		Drain     *struct {
			TunnelsLeft int `json:"tunnels_left"`
		}
	}
	Partial []any
}

// TestDrainByRequestLosesNothing: a node that an operator drains, with 200 requests a second
// that come in at it, loses none of them, moves its agents and goes on serving; and it stops
// at once when it is told to.
func TestDrainByRequestLosesNothing(t *testing.T) {
	t.Parallel()
	c := startCluster(t, clusterOptions{nodes: 3, agents: 2, endpoints: 1})
	drained, other := c.nodes[0], c.nodes[1]
	client := &http.Client{Timeout: 20 * time.Second, Transport: &http.Transport{MaxIdleConnsPerHost: 64}}
	defer client.CloseIdleConnections()
	ask := func() error {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, drained.url("/"+string(kindGet)), nil)
		if err != nil {
			return err
		}
		req.Header.Set("x-piko-endpoint", c.endpoints[0])
		res, err := client.Do(req)
		if err != nil {
			return err
		}
		defer res.Body.Close()
		if body, err := io.ReadAll(res.Body); err != nil || res.StatusCode != http.StatusOK {
			return fmt.Errorf("%d %.200s, %v", res.StatusCode, body, err)
		}
		return nil
	}
	var requests sync.WaitGroup
	stop, errs := make(chan struct{}), make(chan error, 10_000)
	sent := 0
	requests.Go(func() {
		tick := time.NewTicker(5 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				sent++
				requests.Go(func() {
					if err := ask(); err != nil {
						errs <- err
					}
				})
			case <-stop:
				return
			}
		}
	})
	res := piko(t, "server", "status", "drain", "--watch", "-o", "table", "--forward", drained.id, "--server.url", "http://"+other.admin)
	if res.code != 0 || !strings.Contains(res.stdout, "TUNNELS LEFT") {
		t.Errorf("piko server status drain: %d %s %s", res.code, res.stdout, res.stderr)
	}
	eventually(t, 20*time.Second, "the drained node has no tunnel left, and every node says so", func() error {
		for _, n := range c.nodes {
			if err := sayDrained(n, drained.id); err != nil {
				return err
			}
		}
		return nil
	})
	close(stop)
	requests.Wait()
	close(errs)
	for err := range errs {
		t.Errorf("a request failed: %v", err)
	}
	if sent < 100 {
		t.Errorf("only %d requests were sent", sent)
	}
	t.Logf("%d requests", sent)
	if !drained.running() {
		t.Error("the node has stopped by itself")
	}
	drained.stop(t, 15*time.Second)
}

// sayDrained asks a node for the overview of all.
func sayDrained(n *clusterNode, id string) error {
	body, err := fetch("http://" + n.admin + "/status/overview?cluster=true")
	if err != nil {
		return err
	}
	var o overview
	if err := json.Unmarshal(body, &o); err != nil {
		return err
	}
	if len(o.Nodes) != 3 || len(o.Partial) > 0 {
		return fmt.Errorf("%s shows %s", n.id, body)
	}
	for _, node := range o.Nodes {
		if node.ID != id {
			continue
		}
		if node.State != "draining" || node.Drain == nil || node.Drain.TunnelsLeft > 0 || node.Tunnels > 0 {
			return fmt.Errorf("%s shows %+v", n.id, node)
		}
		return nil
	}
	return errors.New("no such node")
}
