package main

import (
	"fmt"
	"strings"
	"testing"
)

// TestStatusOfACluster: every node, asked for itself or through another, says
// who is there and who serves what.
func TestStatusOfACluster(t *testing.T) {
	t.Parallel()
	nodes := startCluster(t, 2, nil)
	startAgent(t, nodes[1], "my-endpoint", testService(t).URL)
	url := "http://" + nodes[0].AdminAddr().String()
	ask := func(args string) string {
		status, stdout, stderr := runPiko(t, append([]string{"server", "status", "--server.url", url}, strings.Fields(args)...)...)
		if status != exitOK {
			t.Fatalf("status %s: exit status %d: %s", args, status, stderr)
		}
		return stdout
	}
	for args, want := range map[string]string{
		"cluster nodes":                          "- id: n2\n  status: active\n  proxy_addr: " + nodes[1].ProxyAddr().String() + "\n  admin_addr: " + nodes[1].AdminAddr().String() + "\n  endpoints: 1\n  upstreams: 1\n",
		"cluster node n2":                        "endpoints:\n  my-endpoint: 1\n",
		"cluster node local --forward n2":        "id: n2\n",
		"cluster nodes --forward n2":             "- id: n1\n  status: active\n",
		"gossip nodes":                           "- id: n2\n  addr: " + nodes[1].GossipAddr() + "\n",
		"gossip node n2":                         "key: endpoint:my-endpoint\n  value: \"1\"\n",
		"gossip node n1 --forward n2":            "id: n1\n",
		"upstream endpoints --forward n2":        "my-endpoint: 1\n",
		"cluster nodes --status draining":        "nodes: []\n",
		"upstream endpoints --forward n1":        "{}\n",
		"cluster node local --forward=n1":        "endpoints: {}\n",
		"cluster nodes -o table --status=active": "n1    active",
	} {
		eventually(t, func() error {
			if got := ask(args); !strings.Contains(got, want) {
				return fmt.Errorf("%s: got\n%s\nwhich lacks\n%s", args, got, want)
			}
			return nil
		})
	}
}
