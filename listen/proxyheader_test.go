package listen

import (
	"crypto/tls"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"piko/proxyproto"
)

var (
	throughProxy = Options{ProxyProtocolFrom: prefixes("10.0.0.0/8")}
	clientPort   = netip.MustParseAddrPort("198.51.100.7:5000")
	servicePort  = netip.MustParseAddrPort("192.0.2.80:80")
)

func header(version string) string {
	return string(proxyproto.Header(version, clientPort, servicePort))
}

func TestProxyHeaderSaysWhoTheClientIs(t *testing.T) {
	for _, tt := range []struct{ name, header, want string }{
		{"v1", header("v1"), "198.51.100.7:5000"},
		{"v2", header("v2"), "198.51.100.7:5000"},
		{"v1, unknown", "PROXY UNKNOWN\r\n", "10.0.0.1:4000"},
		{"v2, a health check", string(proxyproto.Header("v2", netip.AddrPort{}, servicePort)), "10.0.0.1:4000"},
	} {
		for _, secure := range []bool{false, true} {
			t.Run(tt.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opt := throughProxy
					if secure {
						opt.TLS = serverTLS(t)
					}
					p := open(t, opt)
					proxy := p.mem.dial("10.0.0.1")
					go func() {
						proxy.Write([]byte(tt.header))
						if secure {
							proxy = tls.Client(proxy, clientTLS("http/1.1"))
						}
						proxy.Write([]byte("hello"))
					}()
					nc := p.next(t)
					if got := nc.RemoteAddr().String(); got != tt.want {
						t.Errorf("the client is %s, want %s", got, tt.want)
					}
					if got, err := read(nc, 5); got != "hello" {
						t.Errorf("read %q behind the header, %v", got, err)
					}
				})
			})
		}
	}
}

// What strangers send is never a PROXY header: they could be anybody then.
func TestProxyHeaderOfStrangersIsData(t *testing.T) {
	for _, version := range []string{"v1", "v2"} {
		synctest.Test(t, func(t *testing.T) {
			p := open(t, throughProxy)
			say(p.mem.dial("192.0.2.1"), header(version))
			nc := p.next(t)
			if got := nc.RemoteAddr().String(); got != "192.0.2.1:4000" {
				t.Errorf("%s: the client is %s", version, got)
			}
			if got, err := read(nc, len(header(version))); got != header(version) {
				t.Errorf("%s: read %q, %v", version, got, err)
			}
		})
	}
}

func TestProxyHeaderIsRequired(t *testing.T) {
	for name, bytes := range map[string]string{
		"request":              "GET / HTTP/1.1\r\nHost: e.test\r\n\r\n",
		"request that can be":  "PUT / HTTP/1.1\r\nHost: e.test\r\n\r\n",
		"TLS":                  "\x16\x03\x01\x02\x00",
		"header with no CR":    "PROXY TCP4 198.51.100.7 192.0.2.80 5000 80\n",
		"address that is none": "PROXY TCP4 198.51.100.777 192.0.2.80 5000 80\r\n",
		"endless line":         "PROXY UNKNOWN " + strings.Repeat("x", 200),
		"version 3":            "\r\n\r\n\x00\r\nQUIT\n\x31\x11\x00\x0c",
		"long version 2":       "\r\n\r\n\x00\r\nQUIT\n\x21\x11\xff\xff",
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := open(t, throughProxy)
				nc := p.mem.dial("10.0.0.1")
				say(nc, bytes)
				if took := ended(t, nc); took != 0 {
					t.Errorf("ended after %v", took)
				}
				synctest.Wait()
				if len(p.accepted) > 0 || p.refusedAs(t, "proxy-header") != 1 {
					t.Errorf("%d accepted, %d refused", len(p.accepted), p.refusedAs(t, "proxy-header"))
				}
			})
		})
	}
}

// A header that stalls, at whichever byte, costs 5 s and holds up nobody.
func TestProxyHeadersThatStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := open(t, throughProxy)
		began := time.Now()
		var stalled []net.Conn
		for _, h := range []string{header("v1"), header("v2")} {
			for n := range len(h) {
				nc := p.mem.dial("10.0.0.1")
				say(nc, h[:n])
				stalled = append(stalled, nc)
			}
		}
		say(p.mem.dial("10.0.0.2"), header("v2"))
		p.next(t)
		if took := time.Since(began); took > 0 {
			t.Errorf("another connection took %v", took)
		}
		for n, nc := range stalled {
			ended(t, nc)
			if took := time.Since(began); took != proxyHeaderTimeout {
				t.Fatalf("header %d ends after %v", n, took)
			}
		}
	})
}

// Lists and limits mean the client, not the load balancer.
func TestListsAndLimitsBehindAProxy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := throughProxy
		opt.Allow, opt.Deny = prefixes("198.51.100.0/24", "192.0.2.0/24"), prefixes("192.0.2.0/24")
		opt.MaxPerSource, opt.Peers = 1, true
		p := open(t, opt)
		through := func(client string) net.Conn {
			nc := p.mem.dial("10.0.0.1")
			say(nc, string(proxyproto.Header("v2", netip.AddrPortFrom(netip.MustParseAddr(client), 1), servicePort)))
			return nc
		}
		through("198.51.100.1")
		first := p.next(t)
		through("198.51.100.2")
		p.next(t)
		for _, refused := range []string{"198.51.100.1", "192.0.2.1", "203.0.113.1"} {
			if took := ended(t, through(refused)); took != 0 {
				t.Errorf("%s ends after %v", refused, took)
			}
		}
		if s, d := p.refusedAs(t, "source"), p.refusedAs(t, "denied"); s != 1 || d != 2 {
			t.Errorf("%d and %d are refused, want 1 and 2", s, d)
		}
		first.Close()
		through("198.51.100.1")
		p.next(t)
		p.SetLists(nil, prefixes("198.51.100.2/32"))
		if n := p.Open(); n != 1 {
			t.Errorf("%d connections are open, want the one that is not denied", n)
		}
	})
}

// Nodes may be in the same network as the load balancers, and dial each other
// without a header.
func TestNodesNeedNoProxyHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opt := throughProxy
		opt.Peers = true
		p := open(t, opt)
		node, stranger := p.mem.dial("10.0.0.2"), p.mem.dial("10.0.0.3")
		say(node, "GET /_piko/v1/peer HTTP/1.1\r\n")
		say(stranger, "GET / HTTP/1.1\r\n")
		for range 2 {
			nc := p.next(t)
			if !under(nc).Restricted() {
				t.Error("a connection without header is not restricted")
			}
			if line, err := read(nc, 16); !strings.HasPrefix(line, "GET /") || err != nil {
				t.Errorf("read %q, %v", line, err)
			} else if strings.HasPrefix(line, "GET /_piko") {
				under(nc).Trust()
			}
			go read(nc, 100)
		}
		if took := ended(t, stranger); took != restrictedTime {
			t.Errorf("a stranger's connection ends after %v", took)
		}
		goesOn(t, node)
		if n := p.refusedAs(t, "no-header"); n != 1 {
			t.Errorf("%d were refused, want the stranger", n)
		}
	})
}
