package proxy

import (
	"io"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
)

// What HTTP/2 can say and HTTP/1 cannot: the stream ends with 400 or a reset, nothing reaches a service, no upstream is
// blamed, and other streams of the connection go on.
func TestMalformedHTTP2Requests(t *testing.T) { parsedWays(t, testMalformedHTTP2Requests) }

func testMalformedHTTP2Requests(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	var reached atomic.Int32
	for _, e := range []string{"e", "e1", "e2"} {
		w.serve(e, func(_ http.ResponseWriter, r *http.Request) {
			if _, err := io.Copy(io.Discard, r.Body); err == nil {
				reached.Add(1)
			}
		})
	}
	const ep = "x-piko-endpoint"
	// head is a request's head in order, but for what is set or, with the value "-", left out.
	head := func(change ...string) []string {
		all := []string{":method", "GET", ":scheme", "http", ":authority", "e1.example.com", ":path", "/"}
		for i := 0; i < len(change); i += 2 {
			if at := indexOfName(all, change[i]); at >= 0 && change[i+1] == "-" {
				all = append(all[:at:at], all[at+2:]...)
			} else if at >= 0 && change[i][0] == ':' {
				all[at+1] = change[i+1]
			} else {
				all = append(all, change[i], change[i+1])
			}
		}
		return all
	}
	for _, tt := range []struct {
		name string
		head []string
		body string // sent behind the head; "" ends the stream with the head
		want string
	}{
		{"space in :authority", head(":authority", "e1.example.com evil"), "", "400 malformed-request"},
		{"slash in :authority", head(":authority", "e1.example.com/evil"), "", "400 malformed-request"},
		{"two hosts in :authority", head(":authority", "e1.example.com,e2.example.com"), "", "400 malformed-request"},
		{"line end in :authority", head(":authority", "e1.example.com\r\nx: y"), "", "PROTOCOL_ERROR"},
		{"userinfo in :authority", head(":authority", "u@e1.example.com"), "", "PROTOCOL_ERROR"},
		{"bad port in :authority", head(":authority", "e1.example.com:abc", ep, "e"), "", "400 malformed-request"},
		{"no :authority and no host", head(":authority", "-", ep, "e"), "", "400 malformed-request"},
		{"empty :authority", head(":authority", "", ep, "e"), "", "400 malformed-request"},
		{"no :path", head(":path", "-"), "", "PROTOCOL_ERROR"},
		{"empty :path", head(":path", ""), "", "PROTOCOL_ERROR"},
		{"absolute :path", head(":path", "http://e2.example.com/x"), "", "400 malformed-request"},
		{":path with another scheme", head(":path", "ftp://e2.example.com/x"), "", "400 malformed-request"},
		{":path without a slash", head(":path", "a/b"), "", "PROTOCOL_ERROR"},
		{":path without a slash, of gRPC", head(":method", "POST", ":path", "a.B/C", "content-type", "application/grpc"), "abc", "PROTOCOL_ERROR"},
		{"fragment in :path", head(":path", "/a#b"), "", "400 malformed-request"},
		{"space in :path", head(":path", "/a b"), "", "400 malformed-request"},
		{"line end in :path", head(":path", "/ HTTP/1.1\r\nx: y"), "", "PROTOCOL_ERROR"},
		{"asterisk with GET", head(":path", "*"), "", "400 malformed-request"},
		{"host beside another :authority", head("host", "e2.example.com"), "", "400 malformed-request"},
		{"two hosts", head(":authority", "-", "host", "e1.example.com", "host", "e2.example.com"), "", "400 malformed-request"},
		{"two lengths", head(":method", "POST", "content-length", "5", "content-length", "3"), "12345", "400 malformed-request"},
		{"equal lengths", head(":method", "POST", "content-length", "5", "content-length", "5"), "12345", "400 malformed-request"},
		{"list of lengths", head(":method", "POST", "content-length", "5, 5"), "12345", "400 malformed-request, or PROTOCOL_ERROR"},
		{"negative length", head(":method", "POST", "content-length", "-1"), "1", "400 malformed-request, or PROTOCOL_ERROR"},
		{"length and no body", head(":method", "POST", "content-length", "5"), "", "400 malformed-request"},
		{"length and a shorter body", head(":method", "POST", "content-length", "50"), "12345", "400 malformed-request"},
		{"length and a longer body", head(":method", "POST", "content-length", "3"), "12345", "PROTOCOL_ERROR"},
		{"CONNECT", []string{":method", "CONNECT", ":authority", "e1.example.com:80"}, "", "405 method-not-allowed"},
		{"CONNECT with a path", head(":method", "CONNECT"), "", "PROTOCOL_ERROR"},
		{"extended CONNECT", head(":method", "CONNECT", ":protocol", "websocket"), "", "PROTOCOL_ERROR"},
		{"space in :method", head(":method", "GE T"), "", "400 malformed-request"},
		{"long :method", head(":method", strings.Repeat("G", 33)), "", "400 malformed-request"},
		{"no :method", head(":method", "-"), "", "PROTOCOL_ERROR"},
		{"two methods", append([]string{":method", "GET"}, head()...), "", "PROTOCOL_ERROR"},
		{"another :scheme", head(":scheme", "ftp"), "", "PROTOCOL_ERROR"},
		{"unknown pseudo header", head(":x", "y"), "", "PROTOCOL_ERROR"},
		{"pseudo header behind others", append([]string{"a", "b"}, head()...), "", "PROTOCOL_ERROR"},
		{"upper case", head("X-A", "b"), "", "PROTOCOL_ERROR"},
		{"space in a name", head("x a", "b"), "", "PROTOCOL_ERROR"},
		{"colon in a name", head("x:a", "b"), "", "PROTOCOL_ERROR"},
		{"line end in a name", head("x\r\na", "b"), "", "PROTOCOL_ERROR"},
		{"line end in a value", head("x-a", "b\r\nc: d"), "", "PROTOCOL_ERROR"},
		{"NUL in a value", head("x-a", "b\x00"), "", "PROTOCOL_ERROR"},
		{"Connection", head("connection", "x-a"), "", "400"},
		{"Keep-Alive", head("keep-alive", "timeout=5"), "", "400"},
		{"Transfer-Encoding", head("transfer-encoding", "chunked"), "", "400"},
		{"Upgrade", head("upgrade", "websocket"), "", "400"},
		{"TE", head("te", "gzip"), "", "400"},
		{"two endpoints", head(ep, "e", ep, "e"), "", "400 invalid-endpoint"},
		{"no endpoint", head(":authority", "localhost:8000"), "", "400 missing-endpoint"},
		{"nobody", head(ep, "nobody"), "", "502 no-upstream"},
		{"reserved path", head(":path", "/_piko/v1/cluster/log"), "", "404 reserved-path"},
		{"where nodes come in", head(":path", "/_piko/v1/peer"), "", "404 reserved-path"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			reached.Store(0)
			c := w.dialHTTP2()
			c.request(1, tt.body == "", tt.head...)
			if tt.body != "" {
				c.fr.WriteData(1, true, []byte(tt.body))
			}
			a := c.read(1)
			got := a.reset
			if a.status != "" {
				got = strings.TrimSpace(a.status + " " + a.header.Get("X-Piko-Error"))
			}
			if got == "" || !slices.Contains(strings.Split(tt.want, ", or "), got) {
				t.Errorf("got %q, want %q; %+v", got, tt.want, a)
			}
			if n := reached.Load(); n != 0 {
				t.Errorf("%d requests reached a service", n)
			}
			c.request(3, true, head()...)
			if a := c.read(3); a.status != "200" || c.gone != "" {
				t.Errorf("the next request got %+v %s", a, c.gone)
			}
		})
	}
}

func indexOfName(fields []string, name string) int {
	for i := 0; i < len(fields); i += 2 {
		if fields[i] == name {
			return i
		}
	}
	return -1
}
