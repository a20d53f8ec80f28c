//go:build e2e

package e2e

import (
	"bufio"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// TestTCPServiceThatIsDown is a reset for the client, and never an answer of no bytes.
func TestTCPServiceThatIsDown(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		service := freeAddr(t)
		a := w.agentTCP(t, "e", service)
		addr, f := w.forwarding(t, "e")
		for range 3 {
			wantReset(t, addr, "service down")
		}
		a.waitLog(t, "that the service is down", `"level":"warn"`, "service unreachable", service)
		a.waitLog(t, "the connection", `"level":"warn"`, "proxy.tcp.access", "connection closed", `"status":502`)
		f.waitLog(t, "the reset", "connection closed", "error")

		serveTCPAt(t, service, echoTCP)
		ping(t, dialTCP(t, addr), "the service is back")
	})
}

// TestTCPServicesReset is passed on as one.
func TestTCPServicesReset(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		failed := make(chan error, 1)
		w.agentTCP(t, "resets", tcpService(t, func(c *net.TCPConn) {
			c.Read(make([]byte, 1))
			c.SetLinger(0)
		}))
		w.agentTCP(t, "reads", tcpService(t, func(c *net.TCPConn) {
			io.WriteString(c, "x")
			_, err := io.ReadAll(c)
			failed <- err
		}))
		addr, _ := w.forwarding(t, "resets")
		c := dialTCP(t, addr)
		io.WriteString(c, "x")
		_, err := c.Read(make([]byte, 1))
		isReset(t, err, "the service resets")

		addr, _ = w.forwarding(t, "reads")
		c = dialTCP(t, addr)
		c.Read(make([]byte, 1))
		c.SetLinger(0)
		c.Close()
		isReset(t, <-failed, "the client resets")
	})
}

// TestTCPEndpointThatNobodyServes is waited for as long as the connect time-out allows.
func TestTCPEndpointThatNobodyServes(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		short, f := w.forwarding(t, "e", "--connect.timeout", "4s")
		began := time.Now()
		wantReset(t, short, "nobody serves the endpoint")
		if took := time.Since(began); took < 3900*time.Millisecond {
			t.Errorf("given up after %v, want 4 s", took)
		}
		f.waitLog(t, "why", `"level":"warn"`, "cannot reach endpoint", "no available upstreams")

		patient, _ := w.forwarding(t, "e")
		c := dialTCP(t, patient)
		io.WriteString(c, "early")
		w.agentTCP(t, "e", tcpService(t, echoTCP))
		got := make([]byte, 5)
		if _, err := io.ReadFull(c, got); err != nil || string(got) != "early" {
			t.Errorf("a connection that was there before the agent got %q, %v", got, err)
		}
	})
}

// TestTCPAgentKilled resets what it carried; the next connections wait for another agent.
func TestTCPAgentKilled(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		service := tcpService(t, echoTCP)
		a := w.agentTCP(t, "e", service)
		addr, _ := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		ping(t, c, "before")
		a.kill(t)
		_, err := c.Read(make([]byte, 1))
		isReset(t, err, "agent killed")
		next := dialTCP(t, addr)
		io.WriteString(next, "after")
		start(t, "agent", nil, pikoBinary, "agent", "tcp", "e", service, "--connect.url", "http://"+w.owner.upstream)
		got := make([]byte, 5)
		if _, err := io.ReadFull(next, got); err != nil || string(got) != "after" {
			t.Errorf("a connection made while no agent was there got %q, %v", got, err)
		}
	})
}

// TestTCPNodeRestarted goes on without a restart of forward and agent.
func TestTCPNodeRestarted(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"SIGTERM", "SIGKILL"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := startWay(t, 1, "--grace-period", "1s")
			w.agentTCP(t, "e", tcpService(t, echoTCP))
			addr, f := w.forwarding(t, "e")
			c := dialTCP(t, addr)
			ping(t, c, "before")
			if name == "SIGTERM" {
				w.entry.signal(t, syscall.SIGTERM)
				w.entry.wait(t, 20*time.Second)
			} else {
				w.entry.kill(t)
			}
			_, err := c.Read(make([]byte, 1))
			isReset(t, err, "node gone")
			next := dialTCP(t, addr) // while nobody is there
			io.WriteString(next, "after")
			w.entry.start(t)
			got := make([]byte, 5)
			if _, err := io.ReadFull(next, got); err != nil || string(got) != "after" {
				t.Errorf("a connection made while the node was away got %q, %v", got, err)
			}
			f.stop(t, 90*time.Second)
		})
	}
}

// TestTCPGracefulStops have forward and agent, each at SIGTERM, let connections end.
func TestTCPGracefulStops(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		a := w.agentTCP(t, "e", tcpService(t, echoTCP))
		addr, f := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		ping(t, c, "before")
		f.signal(t, syscall.SIGTERM)
		a.signal(t, syscall.SIGTERM)
		f.waitLog(t, "that it waits", "waiting for connections to end", `"count":1`)
		a.waitLog(t, "that it drains", "listener draining")
		ping(t, c, "meanwhile")
		if other, err := net.Dial("tcp", addr); err == nil {
			other.Close()
			t.Error("forward still listens")
		}
		c.CloseWrite()
		if rest, err := io.ReadAll(c); err != nil || len(rest) != 0 {
			t.Errorf("the end was %q, %v", rest, err)
		}
		for _, p := range []*process{f, a} {
			if code := p.wait(t, 30*time.Second); code != 0 {
				t.Errorf("%s ended with status %d", p.name, code)
			}
			if cut := p.grep("cut at the end"); len(cut) > 0 {
				t.Errorf("%s: %s", p.name, cut)
			}
		}
	})
}

// TestTCPGraceIsOver has connections cut and counted that do not end.
func TestTCPGraceIsOver(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		a := w.agentTCP(t, "e", tcpService(t, echoTCP), "--grace-period", "500ms")
		addr, _ := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		ping(t, c, "before")
		a.stop(t, 30*time.Second)
		a.waitLog(t, "what was cut", "cut at the end of the grace period", `"count":1`)
		_, err := c.Read(make([]byte, 1))
		isReset(t, err, "cut by the agent")

		w.agentTCP(t, "other", tcpService(t, echoTCP))
		addr, f := w.forwarding(t, "other", "--grace-period", "500ms")
		c = dialTCP(t, addr)
		ping(t, c, "before")
		f.stop(t, 30*time.Second)
		f.waitLog(t, "what was cut", "cut at the end of the grace period", `"count":1`)
		_, err = c.Read(make([]byte, 1))
		isReset(t, err, "cut by forward")
	})
}

// TestTCPProxyProtocol tells a service who the client of the server is.
func TestTCPProxyProtocol(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		lines := make(chan string, 1)
		service := tcpService(t, func(c *net.TCPConn) {
			line, _ := bufio.NewReader(c).ReadString('\n')
			lines <- line
		})
		w.agentTCP(t, "e", service, "--proxy-protocol", "v1")
		addr, _ := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		io.ReadAll(c)
		c.Close()
		f := strings.Fields(<-lines)
		if len(f) != 6 || f[0] != "PROXY" || f[1] != "TCP4" || f[2] != "127.0.0.1" || f[3] != "127.0.0.1" || f[5] != portOf(service) {
			t.Errorf("the service read %q", f)
		}
	})
}

// TestForwardThroughAProxy goes out by a CONNECT proxy, of the flag or of the environment.
func TestForwardThroughAProxy(t *testing.T) {
	t.Parallel()
	w := startWay(t, 1)
	w.agentTCP(t, "e", tcpService(t, echoTCP))
	var asked atomic.Int64
	proxy := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		asked.Add(1)
		to, err := net.Dial("tcp", r.Host)
		if err != nil || r.Method != http.MethodConnect {
			rw.WriteHeader(http.StatusBadGateway)
			return
		}
		defer to.Close()
		c, _, err := http.NewResponseController(rw).Hijack()
		if err != nil {
			return
		}
		defer c.Close()
		io.WriteString(c, "HTTP/1.1 200 OK\r\n\r\n")
		go io.Copy(to, c)
		io.Copy(c, to)
	}))
	t.Cleanup(proxy.Close)

	addr, _ := w.forwarding(t, "e", "--connect.proxy-url", proxy.URL)
	c := dialTCP(t, addr)
	ping(t, c, "by the flag")
	c.Close()
	if asked.Load() == 0 {
		t.Error("the proxy was not asked")
	}
}

// TestForwardStart serves the ports of a file, and reads the token of each connection anew.
func TestForwardStart(t *testing.T) {
	t.Parallel()
	w := startWay(t, 1)
	w.agentTCP(t, "one", tcpService(t, func(c *net.TCPConn) { io.WriteString(c, "one") }))
	w.agentTCP(t, "two", tcpService(t, func(c *net.TCPConn) { io.WriteString(c, "two") }))
	dir, one, two := t.TempDir(), freeAddr(t), freeAddr(t)
	token := writeFile(t, dir, "token", "first\n")
	var seen atomic.Value
	front := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		seen.Store(r.Header.Get("Authorization"))
		http.Error(rw, "not yet", http.StatusForbidden)
	}))
	t.Cleanup(front.Close)
	file := func(url string) string {
		return writeFile(t, t.TempDir(), "forward.yaml", `
connect:
  url: `+url+`
  token_file: `+filepath.Join(dir, "token")+`
ports:
  - {addr: "`+one+`", endpoint_id: one}
  - {addr: "`+two+`", endpoint_id: two}
`)
	}
	p := start(t, "forward", nil, pikoBinary, "forward", "start", "--config.path", file("http://"+w.entry.proxy))
	p.waitLog(t, "that it listens", `"msg":"listening"`, two)
	for addr, want := range map[string]string{one: "one", two: "two"} {
		c := dialTCP(t, addr)
		if got, err := io.ReadAll(c); err != nil || string(got) != want {
			t.Errorf("port of %q: %q, %v", want, got, err)
		}
		c.Close()
	}
	p.stop(t, 30*time.Second)

	p = start(t, "forward", nil, pikoBinary, "forward", "start", "--config.path", file(front.URL), "--connect.timeout", "300ms")
	p.waitLog(t, "that it listens", `"msg":"listening"`, two)
	for _, want := range []string{"first", "second"} {
		if err := os.WriteFile(token, []byte(want+"\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		wantReset(t, one, "refused")
		if got := seen.Load(); got != "Bearer "+want {
			t.Errorf("the server was sent %q, want the token %q", got, want)
		}
	}
}

// TestForwardPortThatIsTaken is an error with a remedy, at once.
func TestForwardPortThatIsTaken(t *testing.T) {
	t.Parallel()
	addr := tcpService(t, echoTCP)
	r := piko(t, "forward", "tcp", addr, "e")
	if r.code != 1 || !strings.Contains(r.stderr, addr) || !strings.Contains(r.stderr, "choose another address") {
		t.Errorf("status %d, %s", r.code, r.stderr)
	}
}
