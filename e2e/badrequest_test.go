//go:build e2e

package e2e

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// bystander is a client of another endpoint, whose requests must all succeed while a test
// does harm to its own.
func bystander(t testing.TB, s *server) {
	t.Helper()
	o := startOrigin(t, "bystander")
	s.agent(t, "bystander", o.addr)
	l := startLoad(s, "bystander", 2, func(i int) exchange {
		<-time.After(2 * time.Millisecond)
		return mixed(i)
	})
	t.Cleanup(func() { l.end(t) })
}

// TestBadEndpoints sends requests that name no upstream: each gets its error, the log says
// who asked and what is wrong, and nobody else notices.
func TestBadEndpoints(t *testing.T) {
	t.Parallel()
	s := startServer(t)
	bystander(t, s)
	const missing, invalid = "missing endpoint id", "invalid endpoint id"
	for _, c := range []struct {
		name       string
		header     string
		status     int
		code, text string
	}{
		{"unknown", "x-piko-endpoint: nobody", 502, "no-upstream", "no available upstreams"},
		{"unknown host", "Host: nobody.example.com", 502, "no-upstream", "no available upstreams"},
		{"no endpoint", "Host: localhost", 400, "missing-endpoint", missing},
		{"address as host", "Host: 127.0.0.1:8000", 400, "missing-endpoint", missing},
		{"address of six as host", "Host: [::1]:8000", 400, "missing-endpoint", missing},
		{"slash", "x-piko-endpoint: a/b", 400, "invalid-endpoint", invalid},
		{"dots and slash", "x-piko-endpoint: ../x", 400, "invalid-endpoint", invalid},
		{"space", "x-piko-endpoint: a b", 400, "invalid-endpoint", invalid},
		{"percent", "x-piko-endpoint: a%00b", 400, "invalid-endpoint", invalid},
		{"beyond ASCII", "x-piko-endpoint: \u00e9", 400, "invalid-endpoint", invalid},
		{"two names", "x-piko-endpoint: bystander\r\nx-piko-endpoint: other", 400, "invalid-endpoint", invalid},
		{"300 long", "x-piko-endpoint: " + strings.Repeat("a", 300), 400, "invalid-endpoint", invalid},
		{"forbidden byte in host", "Host: a!b.example.com", 400, "malformed-request", "malformed request"},
	} {
		t.Run(c.name, func(t *testing.T) {
			host := "Host: localhost\r\n"
			if strings.HasPrefix(c.header, "Host:") {
				host = ""
			}
			conn := dialRaw(t, s.proxy)
			conn.send("GET /the/path HTTP/1.1\r\n" + host + c.header + "\r\n\r\n")
			res, body := conn.response("GET")
			wantError(t, res, body, c.status, c.code, c.text)
			s.wantLoggedOnce(t, conn.addr(), "/the/path", c.text)
		})
	}
}

// TestMalformedRequests sends what is no proper HTTP: it is refused as the client's fault,
// the connection is closed, the service sees nothing, and the upstream is not blamed.
func TestMalformedRequests(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	bystander(t, s)
	const e = "x-piko-endpoint: e\r\n"
	for name, raw := range map[string]string{
		"no HTTP":                   "rubbish\r\n\r\n",
		"TLS":                       "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
		"CONNECT":                   "CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n" + e + "\r\n",
		"authority as target":       "GET e.example.com:80 HTTP/1.1\r\nHost: h\r\n" + e + "\r\n",
		"fragment in target":        "GET /a#b HTTP/1.1\r\nHost: h\r\n" + e + "\r\n",
		"no host":                   "GET / HTTP/1.1\r\n" + e + "\r\n",
		"empty host":                "GET / HTTP/1.1\r\nHost:\r\n" + e + "\r\n",
		"two hosts":                 "GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n" + e + "\r\n",
		"list of hosts":             "GET / HTTP/1.1\r\nHost: a.example.com,b.example.com\r\n" + e + "\r\n",
		"escaped host":              "GET / HTTP/1.1\r\nHost: e1%2e\r\n" + e + "\r\n",
		"port out of range":         "GET / HTTP/1.1\r\nHost: h:99999999\r\n" + e + "\r\n",
		"port no number":            "GET / HTTP/1.1\r\nHost: h:abc\r\n" + e + "\r\n",
		"upgrade beyond ASCII":      "GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade\r\nUpgrade: w\u00e9b\r\n" + e + "\r\n",
		"bare CR in a value":        "GET / HTTP/1.1\r\nHost: h\r\nA: b\rc\r\n" + e + "\r\n",
		"NUL in a value":            "GET / HTTP/1.1\r\nHost: h\r\nA: b\x00c\r\n" + e + "\r\n",
		"space before the colon":    "GET / HTTP/1.1\r\nHost: h\r\nA : b\r\n" + e + "\r\n",
		"signed length":             "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: +5\r\n" + e + "\r\nhello",
		"two lengths":               "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 5\r\nContent-Length: 6\r\n" + e + "\r\nhello",
		"HTTP/1.1 with odd coding":  "POST /echo HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: gzip, chunked\r\n" + e + "\r\n0\r\n\r\n",
		"2 MiB of header":           "GET / HTTP/1.1\r\nHost: h\r\n" + e + "A: " + strings.Repeat("b", 2<<20) + "\r\n\r\n",
		"host-like endpoint header": "GET / HTTP/1.1\r\nHost: h\r\nx-piko-endpoint: e:99999/..\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			before := o.requests.Load()
			c := dialRaw(t, s.proxy)
			go c.send(raw) // a long one blocks once the answer is there
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatalf("read response: %v", err)
			}
			if res.StatusCode < 400 || res.StatusCode > 431 && res.StatusCode != 501 {
				t.Errorf("status %s, want one that blames the client", res.Status)
			}
			if name != "host-like endpoint header" {
				c.wantClosed(5 * time.Second)
			}
			if n := o.requests.Load() - before; n != 0 {
				t.Errorf("%d requests reached the service", n)
			}
		})
	}
	wantCurl(t, "origin", "-H", to("e"), s.url("/")) // the upstream is as good as before
}

// TestFramingNeverSplits sends requests whose end two parsers may see at different places,
// and of which no handler of Go's server can see that: whatever is answered, nothing that
// stood in a body gets to the service as a request.
func TestFramingNeverSplits(t *testing.T) {
	t.Parallel()
	var smuggled atomic.Int64
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/smuggled" {
			smuggled.Add(1)
		}
		io.Copy(io.Discard, r.Body)
	}))
	defer service.Close()
	s := startServer(t)
	s.agent(t, "e", service.Listener.Addr().String())
	inner := "GET /smuggled HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n"
	head := "POST / HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n"
	length := fmt.Sprintf("Content-Length: %d\r\n", len(inner))
	for name, raw := range map[string]string{
		"length and chunks":       head + "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
		"two equal lengths":       head + length + length + "\r\n" + inner,
		"folded coding":           head + "Transfer-Encoding:\r\n chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
		"line feeds alone":        strings.ReplaceAll(head, "\r\n", "\n") + strings.ReplaceAll(length, "\r\n", "\n") + "\n" + inner,
		"chunks in HTTP/1.0":      strings.Replace(head, "1.1", "1.0", 1) + "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n" + fmt.Sprintf("%x\r\n%s\r\n0\r\n\r\n", len(inner), inner),
		"length and chunks, mute": head + fmt.Sprintf("Content-Length: %d\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 5+len(inner)) + "\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, s.proxy)
			c.send(raw)
			c.Conn.(*net.TCPConn).CloseWrite()
			c.wantClosed(10 * time.Second)
			if n := smuggled.Swap(0); n != 0 {
				t.Errorf("the body was taken for a request")
			}
		})
	}
}

// TestBadChunks sends bodies that break after the request has been passed on.
func TestBadChunks(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	for name, chunk := range map[string]string{
		"bad digit": "xyz\r\nhello\r\n0\r\n\r\n", "no CRLF behind the data": "5\r\nhelloworld\r\n0\r\n\r\n",
		"17 digits": "00000000000000005\r\nhello\r\n0\r\n\r\n", "negative": "-5\r\nhello\r\n0\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			c := dialRaw(t, s.proxy)
			c.send("POST /upload-hash HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\nTransfer-Encoding: chunked\r\n\r\n" + chunk)
			res, err := http.ReadResponse(c.r, nil)
			if err == nil && res.StatusCode != http.StatusBadRequest {
				t.Errorf("status %s, want 400", res.Status)
			}
			c.wantClosed(5 * time.Second)
			wantCurl(t, "origin", "-H", to("e"), s.url("/"))
		})
	}
}

// TestBadService has services that are down, slow or answer rubbish.
func TestBadService(t *testing.T) {
	t.Parallel()
	s := startServer(t, "--proxy.timeout", "1s")
	bystander(t, s)
	answer := func(raw string) func(*rawConn) {
		return func(c *rawConn) {
			http.ReadRequest(c.r)
			c.send(raw)
		}
	}
	hang := func(c *rawConn) { c.wantClosed(20 * time.Second) }
	for _, c := range []struct {
		name    string
		service string
		status  int
		code    string
		within  time.Duration
	}{
		{"down", freeAddr(t), 502, "upstream-unreachable", time.Second},
		{"slow", rawService(t, hang), 504, "upstream-timeout", 2 * time.Second},
		{"rubbish", rawService(t, answer("rubbish\r\n\r\n")), 502, "upstream-unreachable", time.Second},
		{"silent", rawService(t, answer("")), 502, "upstream-unreachable", time.Second},
		{"half a header", rawService(t, answer("HTTP/1.1 200 OK\r\nContent-Le")), 502, "upstream-unreachable", time.Second},
		{"two lengths", rawService(t, answer("HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nxx")), 502, "upstream-unreachable", time.Second},
		{"status of four digits", rawService(t, answer("HTTP/1.1 1000 Odd\r\n\r\n")), 502, "upstream-unreachable", time.Second},
		{"2 MiB of header", rawService(t, answer("HTTP/1.1 200 OK\r\nA: "+strings.Repeat("b", 2<<20)+"\r\n\r\n")), 502, "upstream-unreachable", time.Second},
		{"an upgrade that nobody asked for", rawService(t, answer("HTTP/1.1 101 Switching Protocols\r\nConnection: upgrade\r\nUpgrade: odd\r\n\r\n")), 502, "upstream-unreachable", time.Second},
	} {
		t.Run(c.name, func(t *testing.T) {
			endpoint := "bad-" + strings.ReplaceAll(strings.ToLower(c.name), " ", "-")
			a := s.agent(t, endpoint, c.service)
			began := time.Now()
			res, body := request(t, s, "POST", "/why", endpoint)
			if took := time.Since(began); took > c.within {
				t.Errorf("it took %v, want at most %v", took, c.within)
			}
			wantError(t, res, body, c.status, c.code, "")
			s.waitLog(t, "the failed request", endpoint, "/why", fmt.Sprint(c.status))
			if c.status == 502 {
				a.waitLog(t, "the reason", "/why", c.service)
			}
		})
	}
}

// TestSecondResponseReachesNobody has a service that answers twice, so that a reused
// connection would give the second answer to the next client.
func TestSecondResponseReachesNobody(t *testing.T) {
	t.Parallel()
	service := rawService(t, func(c *rawConn) {
		for {
			req, err := http.ReadRequest(bufio.NewReader(c.r))
			if err != nil {
				return
			}
			own := req.URL.Path
			c.send(fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(own), own) +
				"HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\npoisoned")
		}
	})
	s := startServer(t)
	s.agent(t, "e", service)
	for i := range 20 {
		path := fmt.Sprintf("/%d", i)
		wantCurl(t, path, "-H", to("e"), s.url(path))
	}
}
