//go:build e2e

package e2e

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"time"
)

// forwarding is forward for tests that look at the process, too. The log has its debug lines.
func (w *way) forwarding(t testing.TB, endpoint string, args ...string) (addr string, p *process) {
	t.Helper()
	addr = freeAddr(t)
	return addr, startForward(t, addr, endpoint, "http://"+w.entry.proxy, args...)
}

// startForward starts `piko forward tcp` and waits until it listens.
func startForward(t testing.TB, addr, endpoint, url string, args ...string) *process {
	t.Helper()
	p := start(t, "forward", nil, pikoBinary, append([]string{
		"forward", "tcp", addr, endpoint, "--connect.url", url, "--log.level", "debug"}, args...)...)
	t.Cleanup(p.checkLog)
	p.waitLog(t, "that it listens", `"msg":"listening"`, addr)
	return p
}

// tcpService accepts connections until the test ends, and returns its address.
func tcpService(t testing.TB, serve func(*net.TCPConn)) string {
	t.Helper()
	return serveTCPAt(t, "127.0.0.1:0", serve)
}

func serveTCPAt(t testing.TB, addr string, serve func(*net.TCPConn)) string {
	t.Helper()
	ln, err := net.Listen("tcp", addr)
	if err != nil {
		t.Fatalf("listen: %v", err)
	}
	t.Cleanup(func() { ln.Close() })
	go func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			}()
		}
	}()
	return ln.Addr().String()
}

// echoTCP answers with what it got, and ends when the client has ended its side.
func echoTCP(c *net.TCPConn) { io.Copy(c, c) }

// dialTCP connects to a port of forward's.
func dialTCP(t testing.TB, addr string) *net.TCPConn {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatalf("connect to %s: %v", addr, err)
	}
	t.Cleanup(func() { c.Close() })
	c.SetDeadline(time.Now().Add(60 * time.Second))
	return c.(*net.TCPConn)
}

// ping sends bytes to an echo and wants them back.
func ping(t testing.TB, c net.Conn, text string) {
	t.Helper()
	got := make([]byte, len(text))
	if _, err := io.WriteString(c, text); err != nil {
		t.Fatalf("write %q: %v", text, err)
	}
	if _, err := io.ReadFull(c, got); err != nil || string(got) != text {
		t.Fatalf("echo of %q: %q, %v", text, got, err)
	}
}

// wantReset wants the end of a connection to look like a failure. The reset may come before
// connect has returned.
func wantReset(t testing.TB, addr, why string) {
	t.Helper()
	c, err := net.Dial("tcp", addr)
	if err == nil {
		defer c.Close()
		c.SetDeadline(time.Now().Add(60 * time.Second))
		_, err = c.Read(make([]byte, 1))
	}
	isReset(t, err, why)
}

func isReset(t testing.TB, err error, why string) {
	t.Helper()
	if err == nil || !strings.Contains(err.Error(), "connection reset") {
		t.Errorf("%s: the client got %v, want a reset", why, err)
	}
}

// TestTCPHalfClose has each side end first, with bytes on their way in the other direction.
func TestTCPHalfClose(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		received := make(chan string, 1)
		w.agentTCP(t, "first", tcpService(t, func(c *net.TCPConn) {
			h := sha256.New()
			n, _ := io.Copy(h, c)
			<-time.After(100 * time.Millisecond)
			fmt.Fprintf(c, "%d %s\n", n, hex.EncodeToString(h.Sum(nil)))
		}))
		w.agentTCP(t, "second", tcpService(t, func(c *net.TCPConn) {
			io.WriteString(c, "greeting")
			c.CloseWrite()
			b, _ := io.ReadAll(c)
			received <- string(b)
		}))
		const size = 3 << 20
		want := fmt.Sprintf("%d %s\n", size, generated(size))

		addr, _ := w.forwarding(t, "first")
		nc := tool(t, "nc.openbsd") // others know no -N
		for range 3 {
			r := run(t, 60*time.Second, io.LimitReader(&generator{}, size), nc, "-N", "127.0.0.1", portOf(addr))
			if r.code != 0 || r.stdout != want {
				t.Errorf("nc -N: status %d, %q, want %q\n%s", r.code, r.stdout, want, r.stderr)
			}
		}

		addr, _ = w.forwarding(t, "second")
		c := dialTCP(t, addr)
		if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
			t.Fatalf("read %q, %v", got, err)
		}
		io.WriteString(c, "an answer after the end")
		c.CloseWrite()
		if got := <-received; got != "an answer after the end" {
			t.Errorf("the service read %q", got)
		}
	})
}

// TestTCPBulk moves bytes both ways at once, and no process keeps more than windows and
// buffers of them.
func TestTCPBulk(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		const size = 256 << 20
		a := w.agentTCP(t, "e", tcpService(t, echoTCP))
		addr, f := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		go func() {
			io.Copy(c, io.LimitReader(&generator{}, size))
			c.CloseWrite()
		}()
		h := &hashCounter{hash: sha256.New()}
		if _, err := io.Copy(h, c); err != nil || h.n != size || h.sum() != generated(size) {
			t.Errorf("echo of %d bytes: %d bytes, checksum %s, %v", size, h.n, h.sum(), err)
		}
		for _, p := range []*process{a, f, w.entry.process, w.owner.process} {
			if m := p.memory(t, "VmHWM"); m > 128<<20 {
				t.Errorf("%s had %.1f MiB", p.name, mib(m))
			}
		}
	})
}

// TestTCPBackPressure has a service send for ever to a client that reads nothing.
func TestTCPBackPressure(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		stalled := make(chan int64, 1)
		a := w.agentTCP(t, "e", tcpService(t, func(c *net.TCPConn) {
			var sent int64
			buf := make([]byte, 64<<10)
			for {
				c.SetWriteDeadline(time.Now().Add(2 * time.Second))
				n, err := c.Write(buf)
				if sent += int64(n); err != nil {
					stalled <- sent
					return
				}
			}
		}))
		addr, f := w.forwarding(t, "e")
		c := dialTCP(t, addr)
		c.SetReadBuffer(64 << 10)
		sent := <-stalled
		t.Logf("%.1f MiB were under way", mib(sent))
		if sent > 64<<20 {
			t.Errorf("%.1f MiB were taken from the service while the client read nothing", mib(sent))
		}
		for _, p := range []*process{a, f, w.entry.process, w.owner.process} {
			if m := p.memory(t, "VmRSS"); m > 96<<20 {
				t.Errorf("%s has %.1f MiB", p.name, mib(m))
			}
		}
	})
}

// TestTCPManyConnections opens connections beside each other, each with words of its own.
func TestTCPManyConnections(t *testing.T) {
	overEach(t, func(t *testing.T, w *way) {
		w.agentTCP(t, "e", tcpService(t, echoTCP), "--access-log.disable")
		addr, _ := w.forwarding(t, "e")
		const conns = 200
		done := make(chan error, conns)
		for i := range conns {
			go func() {
				done <- func() error {
					c, err := net.Dial("tcp", addr)
					if err != nil {
						return err
					}
					defer c.Close()
					c.SetDeadline(time.Now().Add(60 * time.Second))
					sent := bytes.Repeat(fmt.Appendf(nil, "connection %d\n", i), 1000)
					go func() {
						c.Write(sent)
						c.(*net.TCPConn).CloseWrite()
					}()
					got, err := io.ReadAll(c)
					if err == nil && !bytes.Equal(got, sent) {
						err = fmt.Errorf("%d bytes of %d came back, or others", len(got), len(sent))
					}
					return err
				}()
			}()
		}
		for range conns {
			if err := <-done; err != nil {
				t.Error(err)
			}
		}
	})
}
