//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

const (
	clusterSecret = "the secret of all nodes of this cluster"
	otherSecret   = "a secret that nobody else knows of here"
)

// internalHeaders are those that only nodes say to each other.
var internalHeaders = []string{
	"X-Piko-Route", "X-Piko-Attempts", "X-Piko-Expect", "X-Piko-Miss", "X-Piko-Forward", "X-Piko-Hop", "X-Piko-Node-Id",
	"X-Piko-Tenant-Id", "X-Piko-Epoch", "X-Piko-Peer", "X-Piko-Error", "X-Piko-Instance", "X-Piko-Features",
}

// attacked is two nodes, of which the second has the only tunnels: of the endpoints e and
// victim, before services of their own.
type attacked struct {
	*cluster
	e, victim *origin
}

func startAttacked(t *testing.T, args ...string) *attacked {
	t.Helper()
	c := newCluster(t, clusterOptions{nodes: 2, agents: -1, server: args})
	for _, n := range c.nodes {
		c.startNode(n)
	}
	for _, n := range c.nodes {
		n.waitReady(t)
	}
	a := &attacked{c, startOrigin(t, "e"), startOrigin(t, "victim")}
	second := c.nodes[1]
	second.agent(t, "e", a.e.addr, "--connections", "1")
	second.agent(t, "victim", a.victim.addr, "--connections", "1")
	for _, endpoint := range []string{"e", "victim"} {
		eventually(t, 5*time.Second, "the first node knows what the second has", func() error { return a.hello(c.nodes[0], endpoint) })
	}
	return a
}

// hello makes a request to /, whose answer is the name of the service.
func (a *attacked) hello(n *clusterNode, endpoint string) error {
	c := &client{addr: n.proxy}
	defer c.close()
	who, err := c.do(endpoint, gets(0))
	if err == nil && who != endpoint {
		err = fmt.Errorf("answered by %s", who)
	}
	return err
}

// withAndWithoutSecret runs a test against both kinds of cluster.
func withAndWithoutSecret(t *testing.T, f func(t *testing.T, a *attacked)) {
	t.Run("without secret", func(t *testing.T) { t.Parallel(); f(t, startAttacked(t)) })
	t.Run("with secret", func(t *testing.T) { t.Parallel(); f(t, startAttacked(t, "--cluster.secret", clusterSecret)) })
}

// TestClientsSayWhatNodesSay sends every internal header in every form to both nodes: the
// request goes where it would go without, and the service sees none of it.
func TestClientsSayWhatNodesSay(t *testing.T) {
	t.Parallel()
	withAndWithoutSecret(t, func(t *testing.T, a *attacked) {
		before := a.victim.requests.Load()
		for _, n := range a.nodes {
			for _, h := range internalHeaders {
				for _, lines := range [][]string{
					{h + ": victim"}, {strings.ToUpper(h) + ": victim"}, {strings.ReplaceAll(h, "-", "_") + ": victim"},
					{h + ": victim", h + ": e"}, {h + ": 1"}, {h + ":"},
					{"Connection: " + h + ", x-piko-endpoint", h + ": victim"},
				} {
					a.wantOrdinary(t, n, lines)
				}
				res, body := request(t, n.server, "GET", "/", "", h+": victim")
				wantError(t, res, body, http.StatusBadRequest, "missing-endpoint", "missing endpoint id")
			}
			a.wantOrdinary(t, n, []string{"Transfer-Encoding: chunked", "Trailer: X-Piko-Route"}, "0\r\nX-Piko-Route: victim\r\n\r\n")
		}
		if got := a.victim.requests.Load(); got != before {
			t.Errorf("%d requests came to another endpoint than they were for", got-before)
		}
	})
}

// wantOrdinary sends a request for e with more header lines, and wants it to arrive at e
// without anything internal.
func (a *attacked) wantOrdinary(t *testing.T, n *clusterNode, lines []string, body ...string) {
	t.Helper()
	head := "GET /dump HTTP/1.1\r\nHost: localhost\r\nx-piko-endpoint: e\r\n" + strings.Join(lines, "\r\n") + "\r\n\r\n"
	res, got := sendRaw(t, n.proxy, head+strings.Join(body, ""))
	if res.StatusCode != http.StatusOK {
		t.Errorf("%s, %q: status %s, %s", n.id, lines, res.Status, got)
		return
	}
	var seen struct {
		Origin          string
		Header, Trailer http.Header
	}
	if err := json.Unmarshal([]byte(got), &seen); err != nil {
		t.Fatalf("%s, %q: %v in %s", n.id, lines, err, got)
	}
	if seen.Origin != "e" {
		t.Errorf("%s, %q: came to %s", n.id, lines, seen.Origin)
	}
	for _, h := range []http.Header{seen.Header, seen.Trailer, res.Header} {
		for name := range h {
			if dashed := strings.ReplaceAll(strings.ToLower(name), "_", "-"); strings.HasPrefix(dashed, "x-piko-") && dashed != "x-piko-endpoint" {
				t.Errorf("%s, %q: %s passed", n.id, lines, name)
			}
		}
	}
}

// TestClientsCallWhatNodesCall calls every internal route of every port, plain and with
// every upgrade that nodes use: nobody answers what a client could not have anyway.
func TestClientsCallWhatNodesCall(t *testing.T) {
	t.Parallel()
	withAndWithoutSecret(t, func(t *testing.T, a *attacked) {
		before := a.e.requests.Load() + a.victim.requests.Load()
		for _, n := range a.nodes {
			for _, addr := range []string{n.proxy, n.upstream, n.admin} {
				for _, route := range []string{"/_piko/v1/peer", "/_piko/v1/stream", "/_piko/v1/cluster/log?epoch=&since=0", "/_piko/v1/cluster/log", "/_piko/", "/_piko/v1", "/_piko/../_piko/v1/stream"} {
					for _, upgrade := range []string{"", "piko-peer", "piko-stream", "websocket"} {
						a.wantNothing(t, addr, route, upgrade)
					}
				}
			}
			if err := a.hello(n, "e"); err != nil {
				t.Errorf("%s after it was attacked: %v", n.id, err)
			}
		}
		if got := a.e.requests.Load() + a.victim.requests.Load() - int64(len(a.nodes)); got != before {
			t.Errorf("%d requests to internal routes reached a service", got-before)
		}
	})
}

// wantNothing calls an internal route. An upgrade may be accepted, since the proof comes
// after it; then what a node would say next must not be answered.
func (a *attacked) wantNothing(t *testing.T, addr, route, upgrade string) {
	t.Helper()
	head := "GET " + route + " HTTP/1.1\r\nHost: localhost\r\nx-piko-endpoint: victim\r\nX-Piko-Route: victim\r\n"
	if upgrade != "" {
		head += "Connection: Upgrade\r\nUpgrade: " + upgrade + "\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n"
	}
	c := dialRaw(t, addr)
	defer c.Close()
	c.send(head + "\r\n")
	res, err := http.ReadResponse(c.r, nil)
	if err != nil {
		t.Errorf("%s%s, upgrade %q: %v", addr, route, upgrade, err)
		return
	}
	switch {
	case res.StatusCode == http.StatusSwitchingProtocols && upgrade == "piko-peer" && route == "/_piko/v1/peer":
		c.send("GET /_piko/v1/cluster/log?epoch=&since=0 HTTP/1.1\r\nHost: localhost\r\nX-Piko-Route: victim\r\n\r\n" + strings.Repeat("\x00", 4096))
		if rest := string(c.wantClosed(3 * time.Second)); strings.Contains(rest, "victim") || strings.Contains(rest, "HTTP/1") {
			t.Errorf("%s%s: whoever proves nothing gets %q", addr, route, rest)
		}
	case res.StatusCode >= 200 && res.StatusCode < 300 || res.StatusCode == http.StatusSwitchingProtocols:
		t.Errorf("%s%s, upgrade %q: status %s", addr, route, upgrade, res.Status)
	}
}

// TestServicesSayWhatNodesSay has a service answer what a node says to another that cannot
// serve: it is the service's answer, whole, once, and without what only nodes may say.
func TestServicesSayWhatNodesSay(t *testing.T) {
	t.Parallel()
	withAndWithoutSecret(t, func(t *testing.T, a *attacked) {
		served := make(chan struct{}, 100)
		liar := rawService(t, func(c *rawConn) {
			if _, err := http.ReadRequest(c.r); err == nil {
				served <- struct{}{}
				c.send("HTTP/1.1 421 Misdirected Request\r\nX-Piko-Miss: no-upstream\r\nX-Piko-Error: no-upstream\r\nx-piko-node-id: n9\r\nConnection: close\r\nContent-Length: 4\r\n\r\nmine")
			}
		})
		a.nodes[1].agent(t, "liar", liar, "--connections", "1")
		for _, n := range a.nodes {
			eventually(t, 5*time.Second, n.id+" knows the endpoint", func() error {
				res, body := request(t, n.server, "GET", "/", "liar")
				if res.StatusCode == http.StatusBadGateway && strings.Contains(body, "no-upstream") {
					return fmt.Errorf("status %s", res.Status)
				}
				return nil
			})
			for len(served) > 0 {
				<-served
			}
			res, body := request(t, n.server, "GET", "/", "liar")
			if res.StatusCode != http.StatusMisdirectedRequest || body != "mine" || len(served) != 1 {
				t.Errorf("%s: a service's 421 came as %s, %q, after %d requests", n.id, res.Status, body, len(served))
			}
			for name := range res.Header {
				if strings.HasPrefix(name, "X-Piko-") {
					t.Errorf("%s: a service set %s: %s", n.id, name, res.Header.Get(name))
				}
			}
		}
	})
}

// TestStrangersStayOutside holds that a node without the secret, with another, or of a
// cluster of another name neither joins, nor hops, nor reads.
func TestStrangersStayOutside(t *testing.T) {
	t.Parallel()
	a := startAttacked(t, "--cluster.secret", clusterSecret, "--cluster.name", "ours")
	for name, args := range map[string][]string{
		"without secret":    {"--cluster.name", "ours"},
		"with another":      {"--cluster.name", "ours", "--cluster.secret", otherSecret},
		"of another name":   {"--cluster.name", "theirs", "--cluster.secret", clusterSecret},
		"without any label": {"--cluster.secret", clusterSecret},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
			s.args = append([]string{"--cluster.node-id", "stranger", "--cluster.gossip.bind-addr", freeAddr(t), "--cluster.join", a.nodes[0].gossip, "--cluster.join", a.nodes[1].gossip, "--cluster.join-timeout", "3s"}, args...)
			if r := piko(t, append([]string{"server", "--proxy.bind-addr", s.proxy, "--upstream.bind-addr", s.upstream, "--admin.bind-addr", s.admin}, s.args...)...); r.code != 1 {
				t.Errorf("a stranger that cannot join ended with status %d, want 1", r.code)
			}
			s.args = append(s.args, "--cluster.abort-if-join-fails=false")
			s.start(t)
			res, body := request(t, s, "GET", "/", "victim")
			wantError(t, res, body, http.StatusBadGateway, "no-upstream", "no available upstreams")
			for _, n := range a.nodes {
				nodes, err := n.status()
				if _, there := nodes["stranger"]; there || err != nil || len(nodes) != 2 {
					t.Errorf("%s knows the nodes %v, %v", n.id, nodes, err)
				}
			}
			stranger := &clusterNode{server: s, id: "stranger"}
			if nodes, err := stranger.status(); err != nil || len(nodes) != 1 {
				t.Errorf("the stranger knows the nodes %v, %v", nodes, err)
			}
		})
	}
	t.Run("by hand", func(t *testing.T) {
		for _, n := range a.nodes {
			a.wantNoGossip(t, n.gossip)
		}
	})
}

// wantNoGossip says each kind of gossip message in the clear, over TCP and UDP, and wants no
// answer that names anything.
func (a *attacked) wantNoGossip(t *testing.T, addr string) {
	t.Helper()
	for kind := range 16 {
		message := string(rune(kind)) + "\x83\xa5Nodes\x00\xa4Join\xc3\xacUserStateLen\x00"
		c := dialRaw(t, addr)
		c.send(message)
		c.Conn.(*net.TCPConn).CloseWrite()
		if rest := string(c.wantClosed(15 * time.Second)); strings.Contains(rest, "n1") || strings.Contains(rest, "victim") || strings.Contains(rest, "127.0.0.1") {
			t.Errorf("a message of kind %d was answered with %q", kind, rest)
		}
		c.Close()
		u, err := net.Dial("udp", addr)
		if err != nil {
			t.Fatal(err)
		}
		u.Write([]byte(message))
		u.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
		b := make([]byte, 2048)
		if n, _ := u.Read(b); n > 0 {
			t.Errorf("a packet of kind %d was answered with %q", kind, b[:n])
		}
		u.Close()
	}
}
