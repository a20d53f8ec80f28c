//go:build e2e

package e2e

import (
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestServerStopFinishesRequests wants a server to end with status 0 after SIGTERM, once
// what was in flight has come to its end.
func TestServerStopFinishesRequests(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	answers := inFlight(t, s, o, "/slow?d=4s", "/slow-body?d=4s", "/sse?n=5&every=1s")
	s.signal(t, syscall.SIGTERM)
	eventually(t, 3*time.Second, "the node says that it is not ready", func() error {
		if _, err := fetch("http://" + s.admin + "/ready"); err == nil || !strings.Contains(err.Error(), "503") {
			return fmt.Errorf("/ready: %w", err)
		}
		return nil
	})
	for range 3 {
		r := <-answers
		whole := r.stdout == "slow origin" || r.stdout == "first halfother half" || strings.Count(r.stdout, "data: origin\n\n") == 5
		if r.code != 0 || !whole {
			t.Errorf("curl ended with status %d, %q %s", r.code, r.stdout, r.stderr)
		}
	}
	if code := s.wait(t, 20*time.Second); code != 0 {
		t.Errorf("the server ended with status %d, want 0", code)
	}
}

// TestServerStopIdle wants a server that serves nothing to end soon, although an agent and a
// keep-alive client are connected.
func TestServerStopIdle(t *testing.T) {
	t.Parallel()
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	c := &client{addr: s.proxy}
	defer c.close()
	if _, err := c.do("e", gets(0)); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	s.stop(t, 15*time.Second)
	t.Logf("the server ended after %v", time.Since(began).Round(10*time.Millisecond))
}

// TestServerStopUnderLoad wants a stopping server to keep what it has let in: a client that
// holds a connection gets whole responses on it, and is told to leave by one of them.
func TestServerStopUnderLoad(t *testing.T) {
	s, o := startServer(t), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	for _, next := range []func(int) exchange{mixed, func(int) exchange { return exchange{method: "GET", target: "/slow?d=50ms"} }} {
		// With one node and no load balancer, somebody has to find the port closed.
		l := startLoadUntil(s, "e", 32, next, func(err error) bool { return errors.Is(err, errFresh) })
		l.waitMore(t, 500)
		s.stop(t, 15*time.Second)
		l.end(t)
		s.start(t)
		s.waitUpstreams(t, "e", 1, backWithin)
	}
}

// TestGracePeriodEnds cuts what outlives the grace period, and says so.
func TestGracePeriodEnds(t *testing.T) {
	t.Parallel()
	s, o := startServer(t, "--grace-period", "3s"), startOrigin(t, "origin")
	s.agent(t, "e", o.addr)
	c := dialRaw(t, s.proxy)
	c.send("GET /endless HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n")
	o.waitRequests(t, 1)
	began := time.Now()
	s.signal(t, syscall.SIGTERM)
	s.wait(t, 10*time.Second)
	if took := time.Since(began); took < 2*time.Second || took > 6*time.Second {
		t.Errorf("the server ended after %v, want about 3 s", took)
	}
	s.waitLog(t, "how much was cut", "cut")
}

// TestSecondSignal ends both programs at once, whatever they wait for.
func TestSecondSignal(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"server", "agent"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, o := startServer(t), startOrigin(t, "origin")
			p := s.agent(t, "e", o.addr)
			if name == "server" {
				p = s.process
			}
			c := dialRaw(t, s.proxy)
			c.send("GET /slow?d=25s HTTP/1.1\r\nHost: h\r\n" + to("e") + "\r\n\r\n")
			o.waitRequests(t, 1)
			p.signal(t, syscall.SIGTERM)
			select {
			case <-p.exited:
				t.Fatal("it ended at the first signal, although a request is in flight")
			case <-time.After(3 * time.Second):
			}
			p.signal(t, syscall.SIGTERM)
			if code := p.wait(t, time.Second); code == 0 {
				t.Error("it ended with status 0 after a second signal")
			}
		})
	}
}

// TestHangup wants both programs to read their file again instead of dying.
func TestHangup(t *testing.T) {
	t.Parallel()
	dir, o := t.TempDir(), startOrigin(t, "origin")
	file := writeFile(t, dir, "log.yaml", "log:\n  level: warn\n")
	s := startServer(t, "--config.path", file)
	a := s.agent(t, "e", o.addr, "--config.path", file)
	for _, p := range []*process{s.process, a} {
		writeFile(t, dir, "log.yaml", "log:\n  level: loud\n")
		p.signal(t, syscall.SIGHUP)
		p.waitLog(t, "what is wrong with the new file", "log.yaml", "loud")
		writeFile(t, dir, "log.yaml", "log:\n  level: debug\n")
		p.signal(t, syscall.SIGHUP)
		p.waitLog(t, "that the file was read", "debug")
	}
	wantCurl(t, "origin", "-H", to("e"), s.url("/"))
}

// TestNotify is systemd's side of Type=notify.
func TestNotify(t *testing.T) {
	t.Parallel()
	o := startOrigin(t, "origin")
	s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	defer socket.Close()
	next := func(want string) {
		t.Helper()
		b := make([]byte, 4096)
		socket.SetReadDeadline(time.Now().Add(10 * time.Second))
		n, err := socket.Read(b)
		if err != nil || !strings.Contains("\n"+string(b[:n])+"\n", "\n"+want+"\n") {
			t.Errorf("systemd was told %q, %v, want %s", b[:n], err, want)
		}
	}

	s.startWith(t, []string{"NOTIFY_SOCKET=" + path})
	next("READY=1")
	s.waitReady(t)
	a := start(t, "agent", []string{"NOTIFY_SOCKET=" + path}, pikoBinary, "agent", "http", "e", o.addr, "--connect.url", "http://"+s.upstream)
	next("READY=1")
	s.waitUpstreams(t, "e", 1, 5*time.Second)
	for _, p := range []*process{a, s.process} {
		p.signal(t, syscall.SIGTERM)
		next("STOPPING=1")
		p.wait(t, 15*time.Second)
	}
}
