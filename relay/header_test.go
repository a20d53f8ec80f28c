package relay

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
)

func TestUpgradeType(t *testing.T) {
	for _, tt := range []struct {
		connection, upgrade []string
		want                string
		bad                 bool
	}{
		{[]string{"Upgrade"}, []string{"websocket"}, "websocket", false},
		{[]string{"keep-alive, UPGRADE"}, []string{"WebSocket"}, "WebSocket", false},
		{[]string{"keep-alive", "upgrade"}, []string{"tcp"}, "tcp", false},
		{[]string{"Upgrade"}, []string{"a/1", "b , c/2.0"}, "a/1, b, c/2.0", false},
		{nil, []string{"websocket"}, "", false},
		{[]string{"keep-alive"}, []string{"websocket"}, "", false},
		{[]string{"Upgrade"}, nil, "", false},
		{[]string{"Upgrade"}, []string{""}, "", false},
		{[]string{"Upgrade"}, []string{"h2c"}, "", false},
		{[]string{"Upgrade"}, []string{"H2C, HTTP/2.0, TLS/1.0, http, tls/1.3"}, "", false},
		{[]string{"Upgrade"}, []string{"h2c, websocket"}, "websocket", false},
		{[]string{"Upgrade"}, []string{"web socket"}, "", true},
		{[]string{"Upgrade"}, []string{"wéb"}, "", true},
		{[]string{"Upgrade"}, []string{"a/b/c"}, "", true},
		{[]string{"Upgrade"}, []string{"/1"}, "", true},
		{[]string{"Upgrade"}, []string{"a/"}, "", true},
	} {
		got, err := UpgradeType(http.Header{"Connection": tt.connection, "Upgrade": tt.upgrade})
		if got != tt.want || (err != nil) != tt.bad {
			t.Errorf("%q %q: got %q, %v; want %q", tt.connection, tt.upgrade, got, err, tt.want)
		}
	}
}

func TestOutHeader(t *testing.T) {
	in := http.Header{
		"Accept": {"a", "b"}, "Connection": {"X-Named, close", "Upgrade"}, "X-Named": {"1"}, "X-Dropped": {"1"},
		"Te": {"deflate, Trailers"}, "Upgrade": {"websocket"}, "Keep-Alive": {"1"}, "Proxy-Authorization": {"1"},
		"Proxy": {"1"}, "Http2-Settings": {"1"}, "Transfer-Encoding": {"x"}, "Trailer": {"x"},
	}
	out := OutHeader(in, func(name string) bool { return name == "X-Dropped" })
	if got, want := fmt.Sprint(out), "map[Accept:[a b] Connection:[Upgrade] Te:[trailers] Upgrade:[websocket]]"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
	if len(in) != 12 {
		t.Errorf("the header that came in has changed: %v", in)
	}
	if out := OutHeader(http.Header{"Te": {"gzip"}, "Upgrade": {"websocket"}}, nil); len(out) != 0 {
		t.Errorf("got %v, want nothing", out)
	}
}

// Whatever two bytes stand in a header, the request either does not leave or says the same to the service.
func FuzzRequestHead(f *testing.F) {
	f.Add("GET", "/", "a.example.com", "Name", "value")
	f.Add("P\r\nX", "/ HTTP/1.1\r\nX: y", "a\r\nb", "A:\r\nB", "c\r\n\r\nGET / HTTP/1.1")
	f.Fuzz(func(t *testing.T, method, target, host, name, value string) {
		req := &http.Request{Method: method, URL: parseless(target), Host: host, Header: http.Header{name: {value}}}
		if checkRequest(req) != nil || target == "" || host == "" {
			return
		}
		head, err := appendHead(nil, req)
		if err != nil {
			return
		}
		if n := strings.Count(string(head), "\n"); n > 5 || strings.Count(string(head), "\r") != n || strings.Count(string(head), "\r\n\r\n") != 1 {
			t.Errorf("%q %q %q %q %q: got %q", method, target, host, name, value, head)
		}
	})
}

func TestNoTrailer(t *testing.T) {
	for _, name := range []string{
		"Content-Length", "Content-Encoding", "Content-Type", "Content-Range", "Host", "Expect", "Max-Forwards",
		"Authorization", "Cookie", "Set-Cookie", "Cache-Control", "Forwarded", "X-Real-Ip", "X-Request-Id",
		"Transfer-Encoding", "Connection", "Te", "Trailer", "Upgrade", "Proxy-Authorization",
		"X-Piko-Endpoint", "X-Forwarded-For", "X_piko_endpoint", "X_forwarded_for", "Content_length", "", "a b",
	} {
		if !noTrailer(name) {
			t.Errorf("%q may be a trailer", name)
		}
	}
	for _, name := range []string{"Grpc-Status", "Server-Timing", "Digest", "X-Checksum", "X-Pikolo"} {
		if noTrailer(name) {
			t.Errorf("%q may not be a trailer", name)
		}
	}
}
