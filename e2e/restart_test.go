//go:build e2e

package e2e

import (
	"fmt"
	"net/http"
	"syscall"
	"testing"
	"time"
)

// backWithin is how soon a restarted server must have its agents back. The tests allow the
// connection and the poll that sees it 250 ms more.
const backWithin = 2*time.Second + 250*time.Millisecond

// TestAgentBeforeServer starts everything in the order that no one would choose.
func TestAgentBeforeServer(t *testing.T) {
	s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
	a := startAgent(t, "http://"+s.upstream, "e", "127.0.0.1:1")
	a.waitLog(t, "that the server is away", s.upstream, "refused")
	s.start(t)
	s.waitUpstreams(t, "e", 1, backWithin)
	if !a.running() {
		t.Error("the agent has ended")
	}
}

// TestServerRestart ends the server in both ways, for a short and a longer time, while
// requests are in flight, and wants all agents back and working without a supervisor.
func TestServerRestart(t *testing.T) {
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		for _, away := range []time.Duration{0, 3 * time.Second} {
			t.Run(fmt.Sprintf("%v for %v", sig, away), func(t *testing.T) {
				s, o := startServer(t, "--grace-period", "3s"), startOrigin(t, "origin")
				const agents = 5
				for i := range agents {
					s.agent(t, fmt.Sprintf("e%d", i), o.addr)
				}
				ws := dialWebSocket(t, s, "e0", "/ws")
				wantEcho(t, ws, "hello")

				s.signal(t, sig)
				s.wait(t, 15*time.Second)
				<-time.After(away)
				s.start(t)
				began := time.Now()
				for i := range agents {
					s.waitUpstreams(t, fmt.Sprintf("e%d", i), 1, max(0, backWithin-time.Since(began)))
				}
				t.Logf("all agents were back after %v", time.Since(began).Round(time.Millisecond))
				for i := range agents {
					wantCurl(t, "origin", "-H", to(fmt.Sprintf("e%d", i)), s.url("/"))
				}
			})
		}
	}
}

// TestServerRestartsOften restarts the server five times in a row: nothing piles up, and
// each agent is registered once.
func TestServerRestartsOften(t *testing.T) {
	s, o := startServer(t), startOrigin(t, "origin")
	a := s.agent(t, "e", o.addr)
	for range 5 {
		s.kill(t)
		s.start(t)
		s.waitUpstreams(t, "e", 1, backWithin)
		wantCurl(t, "origin", "-H", to("e"), s.url("/"))
	}
	if !a.running() {
		t.Error("the agent has ended")
	}
}

// TestAgentRestart ends an agent in both ways; the server forgets it at once and takes the next.
func TestAgentRestart(t *testing.T) {
	s, o := startServer(t), startOrigin(t, "origin")
	for _, sig := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		a := s.agent(t, "e", o.addr)
		wantCurl(t, "origin", "-H", to("e"), s.url("/"))
		a.signal(t, sig)
		if code := a.wait(t, 10*time.Second); sig == syscall.SIGTERM && code != 0 {
			t.Errorf("the agent ended with status %d after SIGTERM, want 0", code)
		}
		s.waitUpstreams(t, "e", 0, time.Second)
		res, body := request(t, s, "GET", "/", "e")
		wantError(t, res, body, http.StatusBadGateway, "no-upstream", "no available upstreams")
	}
	s.agent(t, "e", o.addr)
	wantCurl(t, "origin", "-H", to("e"), s.url("/"))
}

// TestBothRestart kills both and starts them in both orders.
func TestBothRestart(t *testing.T) {
	o := startOrigin(t, "origin")
	for _, agentFirst := range []bool{true, false} {
		s := startServer(t)
		a := s.agent(t, "e", o.addr)
		a.kill(t)
		s.kill(t)
		if agentFirst {
			startAgent(t, "http://"+s.upstream, "e", o.addr)
			s.start(t)
		} else {
			s.start(t)
			startAgent(t, "http://"+s.upstream, "e", o.addr)
		}
		s.waitUpstreams(t, "e", 1, backWithin)
		wantCurl(t, "origin", "-H", to("e"), s.url("/"))
	}
}

// TestServiceRestart has the service come and go; the agent needs no hint.
func TestServiceRestart(t *testing.T) {
	t.Parallel()
	s, addr := startServer(t), freeAddr(t)
	s.agent(t, "e", addr)
	for range 3 {
		res, body := request(t, s, "POST", "/", "e")
		wantError(t, res, body, http.StatusBadGateway, "upstream-unreachable", "upstream unreachable")
		service := start(t, "service", []string{serveEnv + "=" + addr}, testBinary(t))
		waitListening(t, service, addr)
		for range 5 {
			wantCurl(t, "a service", "-H", to("e"), s.url("/"))
		}
		service.kill(t)
	}
}

// TestAgentAgainstOtherServers holds which answers are final for an agent that was never
// connected: what a load balancer or a server that is still starting says is not.
func TestAgentAgainstOtherServers(t *testing.T) {
	t.Parallel()
	for _, status := range []int{301, 404, 429, 500, 502, 503} {
		t.Run(fmt.Sprint(status), func(t *testing.T) {
			t.Parallel()
			other := rawService(t, func(c *rawConn) {
				http.ReadRequest(c.r)
				c.send(fmt.Sprintf("HTTP/1.1 %d Odd\r\nConnection: close\r\nLocation: /\r\nContent-Length: 13\r\n\r\n<html></html>", status))
			})
			a := startAgent(t, "http://"+other, "e", "127.0.0.1:1")
			a.waitLog(t, "who refused it and why", other, fmt.Sprint(status))
			eventually(t, 20*time.Second, "it tries again", func() error {
				if n := len(a.grep(other, fmt.Sprint(status))); n < 2 {
					return fmt.Errorf("%d lines so far", n)
				}
				return nil
			})
			if !a.running() {
				t.Error("the agent has ended")
			}
		})
	}
	t.Run("400 is final", func(t *testing.T) {
		s := startServer(t)
		a := start(t, "agent", nil, pikoBinary, "agent", "http", "no/name", "3000", "--connect.url", "http://"+s.upstream)
		if code := a.wait(t, 10*time.Second); code == 0 {
			t.Error("the agent ended with status 0, want a failure")
		}
	})
}
