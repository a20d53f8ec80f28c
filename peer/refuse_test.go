package peer

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"
)

// rawHello is a request as text; changed headers replace those of a right one,
// and "" leaves one out.
func rawHello(caller, callee Node, proof string, changed map[string]string) string {
	h := map[string]string{
		"Host": "x", "Connection": "Upgrade", "Upgrade": upgradeToken,
		headerCaller: caller.Epoch, headerCallee: callee.Epoch, headerProof: proof,
		headerNonce: "AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA=",
	}
	maps.Copy(h, changed)
	var b strings.Builder
	b.WriteString(h["line"])
	if h["line"] == "" {
		b.WriteString("GET " + Path + " HTTP/1.1\r\n")
	}
	for _, name := range slices.Sorted(maps.Keys(h)) {
		if h[name] != "" && name != "line" {
			fmt.Fprintf(&b, "%s: %s\r\n", name, h[name])
		}
	}
	return b.String() + "\r\n"
}

func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(10 * time.Second))
	return c.(*net.TCPConn)
}

func TestWhoMayNotCallIsRefused(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a := g.startUnknown(t, "a", secure, nil)
		b := g.start(t, "b", secure, nil)
		proof, other, otherKey := proofMAC, proofTLS, secureKey
		if secure {
			proof, other, otherKey = proofTLS, proofMAC, plainKey
		}
		g.tell(a.node)
		g.tell(Node{ID: "m", Epoch: "mixed-1", Key: make([]byte, otherKey)})
		g.mu.Lock()
		g.nodes["liar-1"] = a.node // a Lookup that gives another node
		g.mu.Unlock()
		for _, c := range []struct {
			name    string
			changed map[string]string
			status  int
			reason  string
		}{
			{"no upgrade", map[string]string{"Upgrade": ""}, 404, ""},
			{"upgrade of another kind", map[string]string{"Upgrade": "websocket"}, 404, ""},
			{"upgrade that Connection does not name", map[string]string{"Connection": "close"}, 404, ""},
			{"another path", map[string]string{"line": "GET " + Path + "/x HTTP/1.1\r\n"}, 404, ""},
			{"POST", map[string]string{"line": "POST " + Path + " HTTP/1.1\r\n"}, 404, ""},
			{"HTTP/1.0", map[string]string{"line": "GET " + Path + " HTTP/1.0\r\n"}, 404, ""},
			{"a body", map[string]string{"Content-Length": "1"}, 404, ""},
			{"a chunked body", map[string]string{"Transfer-Encoding": "chunked"}, 404, ""},
			{"no caller", map[string]string{headerCaller: ""}, 404, ""},
			{"two callers", map[string]string{headerCaller: a.node.Epoch + "\r\n" + headerCaller + ": x"}, 404, ""},
			{"a caller with a space", map[string]string{headerCaller: "a b"}, 404, ""},
			{"a caller of 129 bytes", map[string]string{headerCaller: strings.Repeat("a", 129)}, 404, ""},
			{"no callee", map[string]string{headerCallee: ""}, 404, ""},
			{"no proof", map[string]string{headerProof: ""}, 404, ""},
			{"unknown caller", map[string]string{headerCaller: "stranger-1"}, 403, refusedUnknown},
			{"the node itself", map[string]string{headerCaller: b.node.Epoch}, 403, refusedUnknown},
			{"a caller under another name", map[string]string{headerCaller: "liar-1"}, 403, refusedUnknown},
			{"an earlier life of the callee", map[string]string{headerCallee: "b-0197e0000000"}, 403, refusedNode},
			{"the proof of other clusters", map[string]string{headerProof: other}, 403, refusedProof},
			{"a proof of the future", map[string]string{headerProof: "mac-2"}, 403, refusedProof},
			{"a caller with a key of the other kind", map[string]string{headerCaller: "mixed-1"}, 403, refusedProof},
		} {
			conn := dialTCP(t, b.node.Addr)
			io.WriteString(conn, rawHello(a.node, b.node, proof, c.changed))
			res, err := http.ReadResponse(bufio.NewReader(conn), nil)
			if err != nil {
				t.Errorf("%s: %v", c.name, err)
				continue
			}
			if res.StatusCode != c.status || res.Header.Get(headerRefused) != c.reason {
				t.Errorf("%s: status %d, refused %q; want %d, %q", c.name, res.StatusCode, res.Header.Get(headerRefused), c.status, c.reason)
			}
			if c.status == 404 && res.Header.Get("X-Piko-Error") != "reserved-path" {
				t.Errorf("%s: error %q", c.name, res.Header.Get("X-Piko-Error"))
			}
			conn.Close()
		}
		if !secure {
			for _, nonce := range []string{"", "AAAA", "!", strings.Repeat("A", 100)} {
				conn := dialTCP(t, b.node.Addr)
				io.WriteString(conn, rawHello(a.node, b.node, proof, map[string]string{headerNonce: nonce}))
				if res, err := http.ReadResponse(bufio.NewReader(conn), nil); err != nil || res.StatusCode != 404 {
					t.Errorf("nonce %q: %v, %v", nonce, res, err)
				}
			}
		}
		if n := b.inSessions(); n != 0 {
			t.Errorf("%d sessions were let in", n)
		}
	})
}

// refusedLink says why a link does not come up.
func refusedLink(t *testing.T, a *testNode, to Node) {
	t.Helper()
	conn, err := a.dial(t.Context(), &to)
	if err == nil {
		conn.Close()
		t.Error("the connection was made")
		return
	}
	t.Logf("refused: %v", err)
}

func TestEitherSideMustBeWhoGossipKnows(t *testing.T) {
	both(t, func(t *testing.T, secure bool) {
		var g gossip
		a, b, c := g.start(t, "a", secure, nil), g.start(t, "b", secure, nil), g.start(t, "c", secure, nil)
		with := func(n Node, change func(*Node)) Node {
			n.Key = slices.Clone(n.Key)
			change(&n)
			return n
		}
		t.Run("callee with another key", func(t *testing.T) {
			refusedLink(t, a, with(b.node, func(n *Node) { n.Key[0] ^= 1 }))
		})
		t.Run("callee with the address of another node", func(t *testing.T) {
			refusedLink(t, a, with(b.node, func(n *Node) { n.Addr = c.node.Addr }))
		})
		t.Run("callee of another epoch", func(t *testing.T) {
			refusedLink(t, a, with(b.node, func(n *Node) { n.Epoch = "b-2" }))
		})
		t.Run("the node itself", func(t *testing.T) { refusedLink(t, a, a.node) })
		t.Run("an epoch that would be headers", func(t *testing.T) {
			refusedLink(t, a, with(b.node, func(n *Node) { n.Epoch = "b\r\nX-Evil: 1" }))
		})
		t.Run("another caller's key", func(t *testing.T) {
			g.tell(with(a.node, func(n *Node) { n.Key = c.node.Key }))
			refusedLink(t, a, b.node)
			g.tell(a.node)
		})
		t.Run("a caller that was forgotten", func(t *testing.T) {
			g.forget(a.node.Epoch)
			refusedLink(t, a, b.node)
			g.tell(a.node)
		})
		if conn, err := a.dial(t.Context(), &b.node); err != nil {
			t.Errorf("and the right one: %v", err)
		} else {
			conn.Close()
		}
	})
}

func TestNodesWithAndWithoutASecretNeverMeet(t *testing.T) {
	var g gossip
	plain, secure := g.start(t, "plain", false, nil), g.start(t, "secure", true, nil)
	refusedLink(t, plain, secure.node)
	refusedLink(t, secure, plain.node)
	// And not if gossip lies about the kind of key either.
	lie := plain.node
	lie.Key = make([]byte, secureKey)
	refusedLink(t, secure, lie)
	lie = secure.node
	lie.Key = make([]byte, plainKey)
	refusedLink(t, plain, lie)
}
