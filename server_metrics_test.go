package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestMetricsTellOfTheNode: which it is, whether it is ready, what has happened, and what its drain waits for.
func TestMetricsTellOfTheNode(t *testing.T) {
	n := startNode(t, func(cfg *serverConfig) { cfg.Cluster.NodeID = "n1" })
	startAgent(t, n, "my-endpoint", testService(t).URL)
	c := newClient(t)
	want := func(lines ...string) {
		t.Helper()
		eventually(t, func() error {
			_, body, _ := get(t, c, "http://"+n.AdminAddr().String()+"/metrics")
			for _, line := range lines {
				if !strings.Contains(body, "\n"+line+"\n") {
					return fmt.Errorf("no %s", line)
				}
			}
			return nil
		})
	}
	want(`piko_node_info{node_id="n1",version="`+version()+`"} 1`, `piko_node_ready 1`, `piko_node_draining 0`,
		`piko_node_drain_left{kind="tunnels"} 0`, `piko_node_drain_deadline_timestamp_seconds 0`, `piko_node_requests_cut_total 0`,
		`piko_upstreams_tunnels{state="active"} 1`, `piko_events_total{type="upstream-connected"} 1`, `piko_events_lost_total 0`)
	n.drainAsked()
	want(`piko_node_ready 0`, `piko_node_draining 1`, `piko_node_drain_left{kind="tunnels"} 1`, `piko_node_drain_left{kind="requests"} 0`,
		`piko_node_drain_deadline_timestamp_seconds 0`)
}

func TestEndpointMetricsAreBounded(t *testing.T) {
	for _, value := range []string{"-1", "10001"} {
		status, _, stderr := runPiko(t, "server", "--admin.endpoint-metrics", value)
		if status != exitUsage || !strings.Contains(stderr, "--admin.endpoint-metrics: "+value+" endpoints; use 0 to 10000") {
			t.Errorf("%s: exit status %d, %s", value, status, stderr)
		}
	}
	n := startNode(t, func(cfg *serverConfig) { cfg.Admin.EndpointMetrics = 1 })
	c := newClient(t)
	for _, endpoint := range []string{"one", "two", "three"} {
		startAgent(t, n, endpoint, testService(t).URL)
		eventually(t, func() error {
			if status, _, _ := get(t, c, "http://"+n.ProxyAddr().String()+"/", "x-piko-endpoint", endpoint); status != 200 {
				return fmt.Errorf("%s: %d", endpoint, status)
			}
			return nil
		})
	}
	eventually(t, func() error { // a request is counted a moment after its answer
		_, body, _ := get(t, c, "http://"+n.AdminAddr().String()+"/metrics")
		if strings.Count(body, "\npiko_endpoint_requests_total{") != 2 || !strings.Contains(body, "\n"+`piko_endpoint_requests_total{endpoint="one",tenant=""} 1`+"\n") {
			return fmt.Errorf("want one endpoint and the others:\n%s", body)
		}
		return nil
	})
}
