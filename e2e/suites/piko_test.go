package suites

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"piko/client"
)

// domain is that of the hosts which name endpoints.
const domain = "piko.test"

// hostOf is what a client asks for to reach an endpoint.
func hostOf(endpoint string) string { return endpoint + "." + domain }

// node is a running `piko server`.
type node struct {
	*process
	id                             string
	proxy, upstream, admin, gossip string // host:port
	args                           []string
}

// path is how requests go: in at one node, out at the node that has the upstream, which may
// be the same. Its endpoints have a suffix, so that tests may share the nodes.
type path struct {
	entry, owner *node
	suffix       string

	// Without nodes clients connect to services, by their endpoints.
	services map[string]string
}

// addr is where clients of an endpoint connect to.
func (p *path) addr(endpoint string) string {
	if p.services != nil {
		return p.services[endpoint]
	}
	return p.entry.proxy
}

// paths are those that every case takes.
var paths = map[string]func(t testing.TB, args ...string) *path{"one node": oneNode, "across two": acrossTwo}

func oneNode(t testing.TB, args ...string) *path {
	t.Helper()
	n := newNode(t, "owner", args)
	n.start(t)
	n.waitReady(t)
	return &path{entry: n, owner: n}
}

func acrossTwo(t testing.TB, args ...string) *path {
	t.Helper()
	owner, entry := newNode(t, "owner", args), newNode(t, "entry", args)
	owner.args = append(owner.args, "--cluster.join", entry.gossip)
	entry.args = append(entry.args, "--cluster.join", owner.gossip)
	for _, n := range []*node{owner, entry} {
		n.start(t)
	}
	for _, n := range []*node{owner, entry} {
		n.waitReady(t)
	}
	return &path{entry: entry, owner: owner}
}

func newNode(t testing.TB, id string, args []string) *node {
	t.Helper()
	n := &node{id: id, proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t), gossip: freeAddr(t)}
	n.args = append([]string{
		"server", "--cluster.node-id", id, "--cluster.gossip.bind-addr", n.gossip,
		"--proxy.bind-addr", n.proxy, "--upstream.bind-addr", n.upstream, "--admin.bind-addr", n.admin,
	}, args...)
	return n
}

func (n *node) start(t testing.TB) {
	t.Helper()
	n.process = start(t, n.id, pikoBinary, n.args...)
}

func (n *node) waitReady(t testing.TB) {
	t.Helper()
	eventually(t, 20*time.Second, n.id+" is ready", func() error {
		_, err := fetch("http://" + n.admin + "/ready")
		return err
	})
}

// agent starts `piko agent http` at the owner and returns when the entry knows its endpoint.
func (p *path) agent(t testing.TB, endpoint, service string, args ...string) *process {
	t.Helper()
	a := start(t, "agent", pikoBinary, agentArgs("http://"+p.owner.upstream, endpoint+p.suffix, service, args...)...)
	p.waitEndpoint(t, endpoint)
	return a
}

func agentArgs(upstream, endpoint, service string, args ...string) []string {
	return append([]string{"agent", "http", endpoint, service, "--connect.url", upstream, "--connections", "1"}, args...)
}

// listen is a listener of the SDK at the owner, for a server that speaks HTTP/2.
func (p *path) listen(t testing.TB, endpoint string) *client.Listener {
	t.Helper()
	ln, err := listenSDK(t.Context(), "http://"+p.owner.upstream, endpoint+p.suffix, true)
	if err != nil {
		t.Fatalf("listen on %s: %v", endpoint, err)
	}
	t.Cleanup(func() { ln.Close() })
	p.waitEndpoint(t, endpoint)
	return ln
}

func (p *path) waitEndpoint(t testing.TB, endpoint string) {
	t.Helper()
	eventually(t, 20*time.Second, fmt.Sprintf("%s knows that %s has %s", p.entry.id, p.owner.id, endpoint), func() error {
		return knows(p.entry.admin, p.owner.id, endpoint+p.suffix)
	})
}

// knows returns why a node does not know that an owner has an endpoint.
func knows(admin, owner, endpoint string) error {
	body, err := fetch("http://" + admin + "/status/cluster/nodes/" + url.PathEscape(owner))
	if err != nil {
		return err
	}
	var status struct{ Endpoints map[string]int }
	if err := json.Unmarshal(body, &status); err != nil {
		return fmt.Errorf("read status: %w", err)
	}
	if status.Endpoints[endpoint] == 0 {
		return fmt.Errorf("%s has %v", owner, status.Endpoints)
	}
	return nil
}

// fetch reads a URL with a new connection and wants status 200.
func fetch(url string) ([]byte, error) {
	c := http.Client{Timeout: 5 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(url)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", res.Status, body)
	}
	return body, err
}

// memory is how much memory a process has now, or has had at most (VmHWM), in bytes.
func (p *process) memory(t testing.TB, key string) int64 {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("/proc", fmt.Sprint(p.cmd.Process.Pid), "status"))
	if err != nil {
		t.Fatalf("read memory of %s: %v", p.name, err)
	}
	_, rest, _ := strings.Cut(string(b), "\n"+key+":")
	var kib int64
	if _, err := fmt.Sscan(rest, &kib); err != nil {
		t.Fatalf("read memory of %s: %v", p.name, err)
	}
	return kib << 10
}

// nextPort is the last port that freeAddr looked at.
var nextPort atomic.Uint32

// freeAddr returns a local address that nothing listens on, below the range that the kernel
// takes for outgoing connections, so that none of them can take it before the program does.
func freeAddr(t testing.TB) string {
	t.Helper()
	nextPort.CompareAndSwap(0, 20000+uint32(time.Now().UnixNano()/1000%8000))
	for range 2000 {
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("find a free port: none")
	return ""
}
