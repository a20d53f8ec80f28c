//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// wayOut is where the proxies of these tests come from when they connect on: loopback has
// many addresses, and this one is nobody else's.
var wayOut = net.IPv4(127, 0, 0, 7)

// wayOutProxy speaks HTTP's CONNECT and SOCKS5 to clients that know its password, and counts
// the connections that it made.
func wayOutProxy(t testing.TB) (addr string, made *atomic.Int32) {
	t.Helper()
	made = new(atomic.Int32)
	addr = tcpService(t, func(c *net.TCPConn) {
		c.SetDeadline(time.Now().Add(60 * time.Second))
		r := bufio.NewReader(c)
		first, err := r.Peek(1)
		if err != nil {
			return
		}
		connect := proxyCONNECT
		if first[0] == 5 {
			connect = proxySOCKS
		}
		to, done, err := connect(r, c)
		if err != nil {
			t.Log("proxy:", err)
			return
		}
		out, err := (&net.Dialer{LocalAddr: &net.TCPAddr{IP: wayOut}}).Dial("tcp", to)
		if err != nil {
			t.Log("proxy:", err)
			return
		}
		defer out.Close()
		made.Add(1)
		io.WriteString(c, done)
		go func() {
			io.Copy(out, r)
			out.(*net.TCPConn).CloseWrite()
		}()
		io.Copy(c, out)
	})
	return addr, made
}

// proxyCONNECT reads a request of HTTP's, and returns what says that it is done.
func proxyCONNECT(r *bufio.Reader, c net.Conn) (to, done string, err error) {
	req, err := http.ReadRequest(r)
	if err != nil {
		return "", "", err
	}
	if got := req.Header.Get("Proxy-Authorization"); req.Method != http.MethodConnect || got != "Basic dXNlcjpwYXNz" {
		io.WriteString(c, "HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
		return "", "", fmt.Errorf("%s with the credentials %q", req.Method, got)
	}
	return req.Host, "HTTP/1.1 200 OK\r\n\r\n", nil
}

// proxySOCKS is the same for SOCKS5 (RFC 1928, RFC 1929) and IPv4 addresses.
func proxySOCKS(r *bufio.Reader, c net.Conn) (to, done string, err error) {
	read := func(n byte) []byte {
		b := make([]byte, n)
		if err == nil {
			_, err = io.ReadFull(r, b)
		}
		return b
	}
	read(read(2)[1])
	c.Write([]byte{5, 2})
	user := read(read(2)[1])
	password := read(read(1)[0])
	c.Write([]byte{1, 0})
	head := read(4)
	b := read(6)
	if err == nil && (string(user) != "user" || string(password) != "pass" || head[1] != 1 || head[3] != 1) {
		err = fmt.Errorf("user %q, password %q, request % x", user, password, head)
	}
	addr := net.TCPAddr{IP: b[:4], Port: int(b[4])<<8 | int(b[5])}
	return addr.String(), "\x05\x00\x00\x01\x00\x00\x00\x00\x00\x00", err
}

// TestTCPThroughProxies has forward and agent each behind a proxy, and a service that wants to
// know by the PROXY protocol who its client is: for the node that is who connects to it.
func TestTCPThroughProxies(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		for _, scheme := range []string{"http", "socks5"} {
			for _, version := range []string{"v1", "v2"} {
				endpoint := scheme + "-" + version
				service := freeAddr(t)
				nginx(t, freeAddr(t), fmt.Sprintf(`
					listen %s proxy_protocol;
					location / { return 200 "$proxy_protocol_addr\n"; }`, service))
				proxy, made := wayOutProxy(t)
				url := scheme + "://user:pass@" + proxy
				w.agentTCP(t, endpoint, service, "--proxy-protocol", version, "--connect.proxy-url", url)
				if made.Load() == 0 {
					t.Errorf("%s: the agent did not connect through its proxy", endpoint)
				}
				before := made.Load()
				addr, p := w.forwarding(t, endpoint, "--connect.proxy-url", url)
				if body, err := fetch("http://" + addr); err != nil || strings.TrimSpace(string(body)) != wayOut.String() {
					t.Errorf("%s: the service took its client for %q (%v), want %v", endpoint, body, err, wayOut)
				}
				if made.Load() == before {
					t.Errorf("%s: forward did not connect through its proxy", endpoint)
				}
				if strings.Contains(p.readOutput(), "pass@") {
					t.Errorf("%s: the proxy's password is in the log", endpoint)
				}
			}
		}
	})
}
