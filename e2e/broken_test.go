//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"testing"
	"time"
)

// TestResponseThatDiesHalfWay must look broken to the client: curl says so with status 18
// (fewer bytes than announced) or 56 (the connection broke).
func TestResponseThatDiesHalfWay(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	for _, half := range []string{"n=5", "n=300000", "n=5&chunked=1", "n=300000&chunked=1"} {
		for _, end := range []string{"", "&fin=1"} {
			for _, method := range []string{"GET", "POST"} {
				target := "/reset-half-way?" + half + end
				r := curl(t, "--fail", "-o", "/dev/null", "-X", method, "-H", to("e"), s.url(target))
				if r.code != 18 && r.code != 56 {
					t.Errorf("%s %s: curl ended with status %d, want 18 or 56", method, target, r.code)
				}
			}
		}
	}
	eventually(t, 5*time.Second, "the log says which responses broke", func() error {
		if n := len(s.grep("/reset-half-way", `"err`)); n < 16 {
			return fmt.Errorf("%d lines of the access log have an error", n)
		}
		return nil
	})
	wantCurl(t, "origin", "-H", to("e"), s.url("/"))
}

// TestAgentDiesHalfWay is the same with an agent that is killed: a response that has begun
// cannot be tried again, and must not end as if it were whole.
func TestAgentDiesHalfWay(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", startOrigin(t, "other").addr)
	for _, path := range []string{"/slow-body?d=20s", "/endless"} {
		for {
			a := s.agent(t, "e", o.addr)
			before := o.requests.Load()
			c := dialRaw(t, s.proxy)
			c.send("GET " + path + " HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n")
			res, err := http.ReadResponse(c.r, nil)
			if err != nil {
				t.Fatalf("read response: %v", err)
			}
			if o.requests.Load() == before { // the other service has it
				c.Close()
				a.stop(t, 15*time.Second)
				continue
			}
			a.kill(t)
			c.SetReadDeadline(time.Now().Add(5 * time.Second))
			if n, err := io.Copy(io.Discard, res.Body); err == nil || isTimeout(err) {
				t.Errorf("%s: the body ended after %d bytes with %v, want it to break", path, n, err)
			}
			break
		}
	}
}

// TestClientsThatGoAway has clients leave at every stage: what they had begun ends at the
// service too, and server and agent are as they were before.
func TestClientsThatGoAway(t *testing.T) {
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr, "--server.enabled", "--server.bind-addr", freeAddr(t))
	metrics := "http://" + a.cmd.Args[len(a.cmd.Args)-1] + "/metrics"
	agentGoroutines := func() (int, error) {
		body, err := fetch(metrics)
		if err != nil {
			return 0, err
		}
		return firstNumber(`(?m)^go_goroutines (\d+)`, body)
	}
	for range 20 {
		wantCurl(t, "origin", "-H", to("e"), s.url("/"))
	}
	base, err := s.goroutines()
	if err != nil {
		t.Fatal(err)
	}
	agentBase, err := agentGoroutines()
	if err != nil {
		t.Fatal(err)
	}

	head := " HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n"
	for name, raw := range map[string]string{
		"in the header":           "GET /endless HTTP/1.1\r\nHo",
		"before the answer":       "GET /slow?d=25s" + head + "\r\n",
		"in a download":           "GET /endless" + head + "\r\n",
		"in an upload":            "POST /upload-hash" + head + "Content-Length: 1000000\r\n\r\nhello",
		"in an echo":              "POST /echo" + head + "Content-Length: 1000000\r\n\r\nhello",
		"in a chunk":              "POST /echo" + head + "Transfer-Encoding: chunked\r\n\r\nffff\r\nhello",
		"in an event stream":      "GET /sse?n=100&every=1s" + head + "\r\n",
		"in an upgrade":           "GET /ws" + head + upgradeHeaders + "\r\n",
		"before a 100 (Continue)": "POST /slow?d=2s" + head + "Expect: 100-continue\r\nContent-Length: 5\r\n\r\n",
	} {
		t.Run(name, func(t *testing.T) {
			const clients = 30
			before, aborted := o.requests.Load(), o.aborted.Load()
			conns := make([]*rawConn, clients)
			for i := range conns {
				conns[i] = dialRaw(t, s.proxy)
				conns[i].send(raw)
			}
			if name != "in the header" {
				o.waitRequests(t, before+clients)
			}
			for i, c := range conns {
				if name == "in a download" {
					io.CopyN(io.Discard, c.r, 1<<20)
				}
				if i%2 == 0 {
					c.Conn.(*net.TCPConn).SetLinger(0) // an RST as well as a FIN
				}
				c.Close()
			}
			// Go's server, which the service is, sees a client leave only while it reads the body
			// or has read all of it.
			if name != "in the header" && name != "in an upgrade" && name != "before a 100 (Continue)" {
				eventually(t, 10*time.Second, "the service sees that its clients are gone", func() error {
					if n := o.aborted.Load() - aborted; n < clients {
						return fmt.Errorf("%d of %d", n, clients)
					}
					return nil
				})
			}
			eventually(t, 10*time.Second, "the server's goroutines are back at their base", atMost(base+5, s.goroutines))
			eventually(t, 10*time.Second, "the agent's goroutines are back at their base", atMost(agentBase+5, agentGoroutines))
		})
	}
	wantCurl(t, "origin", "-H", to("e"), s.url("/"))
}

func atMost(limit int, count func() (int, error)) func() error {
	return func() error {
		n, err := count()
		if err == nil && n > limit {
			err = fmt.Errorf("there are %d, at most %d are fine", n, limit)
		}
		return err
	}
}

// TestSlowReader has a client that reads nothing of a long response: what is kept for it is
// bounded, and others are served.
func TestSlowReader(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	for range 20 {
		c := dialRaw(t, s.proxy)
		c.Conn.(*net.TCPConn).SetReadBuffer(4 << 10)
		c.send("GET /endless HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n")
	}
	o.waitRequests(t, 20)
	l := startLoad(s, "e", 4, mixed)
	l.waitMore(t, 500)
	l.end(t)
	for _, p := range []*process{s.process, a} {
		if hwm := p.memory(t, "VmHWM"); hwm > 128<<20 {
			t.Errorf("the %s grew to %.0f MiB", p.name, mib(hwm))
		}
	}
}
