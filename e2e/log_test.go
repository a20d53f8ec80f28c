//go:build e2e

package e2e

import (
	"encoding/json"
	"net/http"
	"os"
	"strings"
	"testing"
	"time"
)

// TestLogCannotBeForged sends what would break a log line or a terminal, wherever a client's
// bytes get into the log. That each line is whole is checked at the end of every test of
// this package; here it is made hard.
func TestLogCannotBeForged(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	odd := []string{
		"\x1b[31mred\x1b[0m", "\u2028line\u2029paragraph", "\xff\xfe\x80", `"}` + "\t" + `{"level":"error"`, "\u009b31m", "\u202eright to left", "%0d%0aforged",
		strings.Repeat("long", 5000), "\u00e9\U0001f600",
	}
	for _, v := range odd {
		for _, raw := range []string{
			"GET /?" + v + " HTTP/1.1\r\nHost: h\r\n" + to("e"), "GET /" + v + " HTTP/1.1\r\nHost: h\r\n" + to("e"),
			"GET / HTTP/1.1\r\nHost: " + v + ".example.com", "GET / HTTP/1.1\r\nHost: h\r\nx-piko-endpoint: " + v,
			"GET / HTTP/1.1\r\nHost: h\r\nUser-Agent: " + v + "\r\nX-Request-Id: " + v + "\r\nCookie: " + v + "\r\n" + to("e"),
			v + " / HTTP/1.1\r\nHost: h\r\n" + to("e"),
		} {
			c := dialRaw(t, s.proxy)
			c.send(raw + "\r\nConnection: close\r\n\r\n")
			if _, err := http.ReadResponse(c.r, nil); err != nil && !strings.Contains(err.Error(), "EOF") {
				t.Errorf("%.100q: %v", raw, err)
			}
			c.Close()
		}
		c := dialRaw(t, s.upstream)
		c.send("GET /piko/v1/upstream/" + v + " HTTP/1.1\r\nHost: " + v + "\r\nx-piko-instance: " + v + "\r\nx-piko-protocol: " + v + "\r\n" + upgradeHeaders + "\r\n")
		http.ReadResponse(c.r, nil)
		c.Close()
	}
	request(t, s, "GET", "/last", "e")
	s.waitLog(t, "the last request", "/last")
	a.waitLog(t, "the last request", "/last")
	for _, p := range []*process{s.process, a} {
		for _, l := range p.lines() {
			if len(l) > 16<<10 {
				t.Errorf("%s: a line of %d bytes: %.200s", p.name, len(l), l)
			}
		}
	}
}

// TestAccessLog holds the keys that v0.9.0's users have tools for, and ours.
func TestAccessLog(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	request(t, s, "POST", "/echo?token=in-the-query", "e", "Content-Length: 0", "Authorization: Bearer canary-1", "Cookie: canary-2", "X-Kept: yes")
	for _, p := range []*process{s.process, a} {
		line := p.waitLog(t, "the request", `"msg":"request"`, "/echo")
		var got struct {
			Request struct {
				Proto, Method, Host, Path, Endpoint string
				Status                              int
				Duration                            string
				Headers                             http.Header `json:"request_headers"`
			}
		}
		if err := json.Unmarshal([]byte(line), &got); err != nil {
			t.Errorf("%s: %v in %s", p.name, err, line)
		}
		r := got.Request
		if r.Proto != "HTTP/1.1" || r.Method != "POST" || r.Path != "/echo" || r.Status != 200 || r.Duration == "" || r.Endpoint != "e" {
			t.Errorf("%s logged %+v in %s", p.name, r, line)
		}
		if r.Headers.Get("X-Kept") != "yes" {
			t.Errorf("%s logged headers %v", p.name, r.Headers)
		}
		if strings.Contains(line, "canary") || strings.Contains(line, "in-the-query") {
			t.Errorf("%s logged a secret: %s", p.name, line)
		}
	}
}

// TestLogNotRead has the log go to a pipe that nobody reads: requests go on.
func TestLogNotRead(t *testing.T) {
	t.Parallel()
	o := startOrigin(t, "origin")
	s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
	unread, stderr, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	s.process = startLoggingTo(t, stderr, "server", nil, pikoBinary,
		"server", "--proxy.bind-addr", s.proxy, "--upstream.bind-addr", s.upstream, "--admin.bind-addr", s.admin, "--cluster.gossip.bind-addr", "127.0.0.1:0")
	stderr.Close()
	s.waitReady(t)
	s.agent(t, "e", o.addr, "--access-log.disable")
	l := startLoad(s, "e", 8, gets)
	l.waitMore(t, 5000) // more than 1 MiB of access log, where a pipe takes 64 KiB
	l.end(t)
	s.stop(t, 15*time.Second)
}
