package main

import (
	"bufio"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"time"

	"piko/proxyproto"
)

func cidr(s string) ipPrefix { return ipPrefix{netip.MustParsePrefix(s)} }

// Who is denied on the proxy port may be another node, and nothing else.
func TestNodesReachEachOtherWhereClientsAreDenied(t *testing.T) {
	t.Parallel()
	secure, trust := withTLS(t)
	for name, change := range map[string]func(*serverConfig){
		"address lists": func(cfg *serverConfig) { cfg.Proxy.Deny = []ipPrefix{cidr("127.0.0.0/8")} },
		"address lists and TLS": func(cfg *serverConfig) {
			secure(cfg)
			cfg.Proxy.Allow = []ipPrefix{cidr("192.0.2.0/24")}
		},
		"PROXY protocol": func(cfg *serverConfig) { cfg.Proxy.ProxyProtocolFrom = []ipPrefix{cidr("127.0.0.0/8")} },
	} {
		t.Run(name, func(t *testing.T) {
			owner := startMember(t, "owner", change)
			entry := startMember(t, "entry", nil, owner)
			startAgent(t, owner, "my-endpoint", testService(t).URL)
			c := newClient(t)
			eventually(t, func() error {
				status, body, _ := get(t, c, "http://"+entry.ProxyAddr().String()+"/", "x-piko-endpoint", "my-endpoint")
				if status != http.StatusOK {
					return fmt.Errorf("got %d %q", status, body)
				}
				return nil
			})
			scheme, direct := "http", newClient(t)
			if owner.proxyTLS != nil {
				scheme, direct = "https", newTLSClient(t, trust)
			}
			for _, path := range []string{"/", "/_piko/v1/tcp/my-endpoint", "/_piko/v1/peer/x"} {
				status, body, _ := get(t, direct, scheme+"://"+owner.ProxyAddr().String()+path, "x-piko-endpoint", "my-endpoint")
				if status != http.StatusForbidden || !strings.Contains(body, `"forbidden"`) {
					t.Errorf("%s: got %d %q", path, status, body)
				}
			}
		})
	}
}

// A PROXY header says who the client is to everybody who asks: the service, the
// access log, and what trusts proxies.
func TestProxyProtocolOnTheProxyPort(t *testing.T) {
	t.Parallel()
	secure, trust := withTLS(t)
	for name, change := range map[string]func(*serverConfig){"plain": nil, "TLS": secure} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, func(cfg *serverConfig) {
				if change != nil {
					change(cfg)
				}
				cfg.Proxy.ProxyProtocolFrom = []ipPrefix{cidr("127.0.0.0/8")}
			})
			service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				io.WriteString(w, r.Header.Get("X-Forwarded-For")+" "+r.Header.Get("X-Forwarded-Proto"))
			}))
			defer service.Close()
			startAgent(t, n, "my-endpoint", service.URL)
			for version, want := range map[string]string{"v1": "198.51.100.7", "v2": "198.51.100.7"} {
				nc := dialThrough(t, n.ProxyAddr(), version)
				if change != nil {
					nc, want = tls.Client(nc, trust), want+" https"
				} else {
					want += " http"
				}
				io.WriteString(nc, "GET / HTTP/1.1\r\nHost: my-endpoint.test\r\nX-Forwarded-For: 203.0.113.1\r\n\r\n")
				res, err := http.ReadResponse(bufio.NewReader(nc), nil)
				if err != nil {
					t.Fatal(err)
				}
				if body, err := io.ReadAll(res.Body); string(body) != want {
					t.Errorf("%s: the service is told %q, %v, want %q", version, body, err, want)
				}
			}
			eventually(t, func() error {
				if n := strings.Count(n.log.String(), `"198.51.100.7:5000"`); n < 2 {
					return fmt.Errorf("the access log has the client %d times", n)
				}
				return nil
			})
		})
	}
}

// dialThrough connects as a load balancer does for 198.51.100.7:5000.
func dialThrough(t *testing.T, addr net.Addr, version string) net.Conn {
	t.Helper()
	nc, err := net.Dial("tcp", addr.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	nc.SetDeadline(time.Now().Add(20 * time.Second))
	nc.Write(proxyproto.Header(version, netip.MustParseAddrPort("198.51.100.7:5000"), netip.MustParseAddrPort("192.0.2.1:80")))
	return nc
}

// Agents behind a load balancer for TCP.
func TestProxyProtocolOnTheUpstreamPort(t *testing.T) {
	t.Parallel()
	n := startNode(t, func(cfg *serverConfig) {
		cfg.Upstream.ProxyProtocolFrom = []ipPrefix{cidr("127.0.0.0/8")}
	})
	nc := dialThrough(t, n.UpstreamAddr(), "v2")
	io.WriteString(nc, "GET /piko/v1/upstream/e HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n")
	if res, err := http.ReadResponse(bufio.NewReader(nc), nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("the handshake ends with %v, %v", res, err)
	}
	eventually(t, func() error {
		if !strings.Contains(n.log.String(), "198.51.100.7:5000") {
			return fmt.Errorf("the log does not name the agent's address: %s", n.log)
		}
		return nil
	})
}

// Every port has lists of its own, and a reload replaces them.
func TestAddressListsAreReloaded(t *testing.T) {
	t.Parallel()
	n := startNode(t, nil)
	c := newClient(t)
	c.Transport.(*http.Transport).DisableKeepAlives = true
	ask := func(addr net.Addr) error {
		res, err := c.Get("http://" + addr.String() + "/")
		if err == nil {
			res.Body.Close()
		}
		return err
	}
	next := n.cfg
	next.Upstream.Deny, next.Admin.Allow = []ipPrefix{cidr("127.0.0.1/32")}, []ipPrefix{cidr("192.0.2.0/24")}
	for range 2 { // once more, with nothing new
		commit, applied, err := n.prepare(next)
		if err != nil {
			t.Fatal(err)
		}
		commit()
		for _, addr := range []net.Addr{n.UpstreamAddr(), n.AdminAddr()} {
			if err := ask(addr); err == nil {
				t.Errorf("%s answers who is denied", addr)
			}
		}
		if err := ask(n.ProxyAddr()); err != nil {
			t.Errorf("the proxy port has the others' lists: %v", err)
		}
		if got := strings.Join(applied, " "); got != "upstream.deny admin.allow" && got != "" {
			t.Errorf("applied %s", got)
		}
	}
	commit, _, err := n.prepare(n.cfg)
	if err != nil {
		t.Fatal(err)
	}
	commit()
	for _, addr := range []net.Addr{n.UpstreamAddr(), n.AdminAddr()} {
		if err := ask(addr); err != nil {
			t.Errorf("%s refuses who is not denied any more: %v", addr, err)
		}
	}
}
