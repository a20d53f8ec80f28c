//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// clusterBalancer is haproxy before the nodes of a cluster. It asks each node's /ready and
// tries connections again, but never a request.
type clusterBalancer struct {
	*process
	all      string   // host:port before the proxy ports of all nodes
	without  []string // the same without one node
	upstream string   // before the upstream ports
	socket   string   // path of its runtime API
}

// checkInterval is how often the load balancer asks a node whether it is ready; after two
// answers of no, or none, the node gets nothing new.
const checkInterval = 250 * time.Millisecond

const balancerDefaults = `
global
	log stdout format raw local0
	stats socket %s mode 600 level operator
defaults
	mode http
	log global
	option httplog
	option dontlog-normal
	retries 3
	option redispatch
	balance roundrobin
	option httpchk GET /ready
	timeout connect 1s
	timeout check 1s
	timeout client 5m
	timeout server 5m
	timeout tunnel 5m
	timeout http-keep-alive 5m
	default-server inter %dms fall 2 rise 1
`

// startClusterBalancer starts haproxy before nodes that may not run yet.
func startClusterBalancer(t testing.TB, nodes []*clusterNode) *clusterBalancer {
	t.Helper()
	path, dir := tool(t, "haproxy"), t.TempDir()
	b := &clusterBalancer{all: freeAddr(t), upstream: freeAddr(t), socket: filepath.Join(dir, "socket")}
	var cfg strings.Builder
	fmt.Fprintf(&cfg, balancerDefaults, b.socket, checkInterval.Milliseconds())
	listen := func(name, addr string) {
		fmt.Fprintf(&cfg, "listen %s\n\tbind %s\n\tcapture request header x-request-id len 40\n", name, addr)
	}
	listen("all", b.all)
	for _, n := range nodes {
		fmt.Fprintf(&cfg, "\tserver %s %s check addr 127.0.0.1 port %s\n", n.id, n.proxy, portOf(n.admin))
	}
	listen("agents", b.upstream)
	for _, n := range nodes {
		fmt.Fprintf(&cfg, "\tserver %s %s track all/%s\n", n.id, n.upstream, n.id)
	}
	for _, out := range nodes {
		b.without = append(b.without, freeAddr(t))
		listen("without-"+out.id, b.without[len(b.without)-1])
		for _, n := range nodes {
			if n != out {
				fmt.Fprintf(&cfg, "\tserver %s %s track all/%s\n", n.id, n.proxy, n.id)
			}
		}
	}
	b.process = start(t, "haproxy", nil, path, "-db", "-f", writeFile(t, dir, "haproxy.cfg", cfg.String()))
	waitListening(t, b.process, b.all)
	return b
}

func portOf(addr string) string {
	_, port, _ := net.SplitHostPort(addr)
	return port
}

// waitUp waits until the load balancer takes a node for ready.
func (b *clusterBalancer) waitUp(t testing.TB, id string) {
	t.Helper()
	eventually(t, 15*time.Second, "the load balancer sees that "+id+" is ready", func() error {
		stat, err := b.ask("show stat")
		if err != nil {
			return err
		}
		for l := range strings.Lines(stat) {
			if f := strings.Split(l, ","); len(f) > 17 && f[0] == "all" && f[1] == id {
				if strings.HasPrefix(f[17], "UP") {
					return nil
				}
				return fmt.Errorf("it is %s", f[17])
			}
		}
		return fmt.Errorf("find server %s: not in %q", id, stat)
	})
}

func (b *clusterBalancer) ask(command string) (string, error) {
	c, err := net.Dial("unix", b.socket)
	if err != nil {
		return "", err
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	fmt.Fprintln(c, command)
	answer, err := io.ReadAll(c)
	return string(answer), err
}
