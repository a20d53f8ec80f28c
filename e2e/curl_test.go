//go:build e2e

package e2e

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/gorilla/websocket"
)

// TestNoFlags is the README's promise: a server and an agent without any flag, and curl with
// the endpoint in a header or in the host.
func TestNoFlags(t *testing.T) {
	for _, port := range []string{":8000", ":8001", ":8002"} {
		l, err := net.Listen("tcp", port)
		if err != nil {
			t.Skipf("a default port is in use: %v", err)
		}
		l.Close()
	}
	o := startOrigin(t, "origin")
	_, port, _ := net.SplitHostPort(o.addr)

	s := &server{proxy: "localhost:8000", upstream: "localhost:8001", admin: "localhost:8002"}
	s.process = start(t, "server", nil, pikoBinary, "server")
	s.waitReady(t)
	a := start(t, "agent", nil, pikoBinary, "agent", "http", "my-endpoint", port)
	s.waitUpstreams(t, "my-endpoint", 1, 5*time.Second)

	wantCurl(t, "origin", "-H", "x-piko-endpoint: my-endpoint", "http://localhost:8000/")
	wantCurl(t, "origin", "-H", "Host: my-endpoint.example.com", "http://localhost:8000/")
	a.checkLog()
	s.checkLog()
}

func TestCurlForms(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "my-endpoint", o.addr)
	for _, header := range []string{
		"x-piko-endpoint: my-endpoint", "X-Piko-Endpoint: My-Endpoint", "Host: my-endpoint.example.com",
		"Host: my-endpoint.example.com:8000", "Host: MY-ENDPOINT.example.com",
	} {
		wantCurl(t, "origin", "-H", header, s.url("/"))
	}
}

// seen is a request as the service saw it.
type seen struct {
	Method, Target, Host, Body, Head, Origin string
	Header, Trailer                          http.Header
}

func dump(t testing.TB, args ...string) seen {
	t.Helper()
	r := curl(t, args...)
	var got seen
	if err := json.Unmarshal([]byte(r.stdout), &got); err != nil {
		t.Fatalf("curl %q: status %d, %v: %s%s", args, r.code, err, r.stdout, r.stderr)
	}
	return got
}

func TestRequestArrivesAsSent(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)

	for _, method := range []string{"GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND", "X-ODD"} {
		if got := dump(t, "-X", method, "-H", to("e"), "-d", "body of "+method, s.url("/dump")); got.Method != method || got.Body != "body of "+method {
			t.Errorf("%s arrived as %s with body %q", method, got.Method, got.Body)
		}
	}
	// The target goes through byte for byte: no cleaning, no decoding, no sorting.
	for _, target := range []string{"/dump?a=1;b=2&c=%zz&d=%&e=+", "/dump?%2F%00=//&&x", "/dump?"} {
		if got := dump(t, "-H", to("e"), "--path-as-is", s.url(target)); got.Target != target {
			t.Errorf("target %q arrived as %q", target, got.Target)
		}
	}
	got := dump(t, "-H", to("e"), "-H", "Host: some.host.example", "-H", "x-forwarded-for: 6.6.6.6", "-H", "x-piko-secret: x",
		"-H", "X-Own: 1", "-H", "Proxy: evil", "-H", "Connection: x-hop", "-H", "x-hop: 1", "-A", "", s.url("/dump"))
	if got.Host != "some.host.example" || got.Header.Get("X-Own") != "1" || got.Header.Get("X-Piko-Endpoint") != "e" {
		t.Errorf("the client's own headers did not arrive: %+v", got)
	}
	for _, name := range []string{"X-Piko-Secret", "Proxy", "X-Hop", "User-Agent", "Accept-Encoding"} {
		if v, ok := got.Header[name]; ok {
			t.Errorf("%s arrived as %q", name, v)
		}
	}
	if v := got.Header["X-Forwarded-For"]; len(v) != 1 || v[0] != "127.0.0.1" {
		t.Errorf("X-Forwarded-For arrived as %q, want the client's address alone", v)
	}
}

func TestCurlBodiesAndInterim(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)

	// A megabyte makes curl ask first, with Expect: 100-continue.
	body := filepath.Join(t.TempDir(), "body")
	if err := os.WriteFile(body, randomBytes(3<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, args := range [][]string{
		{"--data-binary", "@" + body}, {"-T", body},
		{"-H", "Transfer-Encoding: chunked", "--data-binary", "@" + body}, {"-0", "--data-binary", "@" + body},
	} {
		out := filepath.Join(t.TempDir(), "out")
		r := curl(t, append(args, "-H", to("e"), "-o", out, s.url("/echo"))...)
		if r.code != 0 || !sameFile(t, body, out) {
			t.Errorf("curl %q: status %d, the echo differs\n%s", args, r.code, r.stderr)
		}
	}
	if r := curl(t, "-I", "-H", to("e"), s.url("/bytes?n=12345")); r.code != 0 || !strings.Contains(strings.ToLower(r.stdout), "content-length: 12345\r") {
		t.Errorf("HEAD: status %d, %q", r.code, r.stdout)
	}
	if r := curl(t, "-i", "-H", to("e"), s.url("/early-hints")); !strings.HasPrefix(r.stdout, "HTTP/1.1 103 ") || !strings.HasSuffix(r.stdout, "origin") {
		t.Errorf("the early hints are not there: %q", r.stdout)
	}
}

func sameFile(t testing.TB, a, b string) bool {
	t.Helper()
	x, errX := os.ReadFile(a)
	y, errY := os.ReadFile(b)
	return errX == nil && errY == nil && string(x) == string(y)
}

func TestTrailersBothWays(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	c := dialRaw(t, s.proxy)
	c.send("POST /echo HTTP/1.1\r\nHost: h\r\nTE: trailers\r\nTrailer: X-Sum\r\n" + to("e") +
		"\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\nX-Sum: 42\r\n\r\n")
	res, body := c.response("POST")
	if body != "hello" || res.Trailer.Get("X-Sum") != "42" {
		t.Errorf("body %q, trailer %v, want hello and X-Sum: 42", body, res.Trailer)
	}
}

// TestFirstBytesComeAtOnce wants what a service has said to be with the client, also when it
// will say more, and also when it has said how much.
func TestFirstBytesComeAtOnce(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	for target, want := range map[string]string{"/sse?n=2&every=15s": "id: 0\n", "/slow-body?d=15s": "first half"} {
		c := dialRaw(t, s.proxy)
		c.send("GET " + target + " HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n")
		c.SetReadDeadline(time.Now().Add(5 * time.Second)) // what comes later is not waited for
		res, err := http.ReadResponse(c.r, nil)
		if err != nil {
			t.Errorf("%s: read response: %v", target, err)
			continue
		}
		got := make([]byte, len(want))
		if _, err := io.ReadFull(res.Body, got); string(got) != want {
			t.Errorf("%s begins with %q, %v, want %q", target, got, err, want)
		}
		c.Close()
	}
}

func TestWebSocket(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	c := dialWebSocket(t, s, "e", "/ws")
	for _, n := range []int{0, 1, 125, 126, 1 << 16, 1 << 20} {
		wantEcho(t, c, strings.Repeat("x", n))
	}
	c.WriteControl(websocket.CloseMessage, websocket.FormatCloseMessage(4321, "bye"), time.Now().Add(time.Second))
	if _, _, err := c.ReadMessage(); !websocket.IsCloseError(err, 4321) {
		t.Errorf("the close frame came back as %v, want 4321", err)
	}
}

// TestUpgradeHalfClose holds that an upgraded connection keeps its other direction when one
// side has ended its own.
func TestUpgradeHalfClose(t *testing.T) {
	t.Parallel()
	service := rawService(t, func(c *rawConn) {
		http.ReadRequest(c.r)
		c.send("HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: odd\r\n\r\n")
		got := c.wantClosed(10 * time.Second)
		c.send(fmt.Sprintf("got %q and then the end", got))
	})
	s := startServer(t)
	s.agent(t, "e", service)
	c := dialRaw(t, s.proxy)
	c.send("GET / HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\nConnection: upgrade\r\nUpgrade: odd\r\n\r\n")
	if res, err := http.ReadResponse(c.r, nil); err != nil || res.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("upgrade: %v %v", res, err)
	}
	c.send("ping")
	c.Conn.(*net.TCPConn).CloseWrite()
	if got := string(c.wantClosed(10 * time.Second)); got != `got "ping" and then the end` {
		t.Errorf("after our half-close came %q", got)
	}
}
