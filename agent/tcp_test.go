package agent

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/accesslog"
	"piko/proxyproto"
)

// tcpService accepts connections until the test ends, and returns its address.
func tcpService(t testing.TB, serve func(*net.TCPConn)) (addr string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var serving sync.WaitGroup
	serving.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			serving.Go(func() {
				defer c.Close()
				serve(c.(*net.TCPConn))
			})
		}
	})
	t.Cleanup(func() {
		ln.Close()
		serving.Wait()
	})
	return ln.Addr().String()
}

// echo answers with what it got, and ends when the client has ended its side.
func echo(c *net.TCPConn) { io.Copy(c, c) }

// deadAddr is an address that nobody listens on.
func deadAddr(t testing.TB) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

// tcp makes the listener one for TCP.
func tcp(o *agentOptions) { o.listener.Protocol = "tcp" }

// dialTCP opens a stream as the node would.
func (a *testAgent) dialTCP() *net.TCPConn {
	a.t.Helper()
	c, err := net.Dial("tcp", a.node.ln.Addr().String())
	if err != nil {
		a.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	a.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// ended waits until the agent has counted so many connections, and returns how
// many of them ended in order, were reset, and failed.
func (a *testAgent) ended(n int) (closed, reset, failed int) {
	a.t.Helper()
	m := a.metrics.tcp
	eventually(a.t, func() error {
		closed, reset, failed = int(testutil.ToFloat64(m.closed)), int(testutil.ToFloat64(m.reset)), int(testutil.ToFloat64(m.failed))
		if closed+reset+failed < n || testutil.ToFloat64(m.open) != 0 {
			return errNotYet
		}
		return nil
	})
	return closed, reset, failed
}

func TestTCPBytesGoBothWaysAndEndInOrder(t *testing.T) {
	a := startAgent(t, tcpService(t, echo), tcp)
	sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
	for range 3 {
		c := a.dialTCP()
		go func() {
			c.Write(sent)
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("echo of %d bytes: %d bytes, error %v", len(sent), len(got), err)
		}
		c.Close()
	}
	if closed, reset, failed := a.ended(3); closed != 3 {
		t.Errorf("%d ended in order, %d were reset, %d failed", closed, reset, failed)
	}
	if in, out := testutil.ToFloat64(a.metrics.tcp.bytesIn), testutil.ToFloat64(a.metrics.tcp.bytesOut); in != float64(3*len(sent)) || out != in {
		t.Errorf("metrics count %v bytes in, %v out", in, out)
	}
}

func TestTCPHalfCloseOfTheServiceLetsTheClientGoOn(t *testing.T) {
	received := make(chan string, 1)
	a := startAgent(t, tcpService(t, func(c *net.TCPConn) {
		io.WriteString(c, "greeting")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		received <- string(b)
	}), tcp)
	c := a.dialTCP()
	if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
		t.Fatalf("read %q, %v", got, err)
	}
	io.WriteString(c, "an answer after the end")
	c.CloseWrite()
	if got := <-received; got != "an answer after the end" {
		t.Errorf("the service read %q", got)
	}
}

// A client must not take a service that is down for one that had nothing to say.
func TestTCPServiceThatIsDownIsAReset(t *testing.T) {
	access := new(logBuffer)
	a := startAgent(t, deadAddr(t), tcp, func(o *agentOptions) { o.access = access })
	for range 2 {
		c, err := net.Dial("tcp", a.node.ln.Addr().String())
		if err == nil {
			_, err = c.Read(make([]byte, 1))
			c.Close()
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("error %v, want a reset", err)
		}
	}
	if closed, reset, failed := a.ended(2); failed != 2 {
		t.Errorf("%d ended in order, %d were reset, %d failed", closed, reset, failed)
	}
	if log := a.log.String(); strings.Count(log, "service unreachable") != 1 || !strings.Contains(log, "refused") {
		t.Errorf("want one warning:\n%s", log)
	}
	eventually(t, func() error {
		if strings.Count(access.String(), `"msg":"connection closed"`) != 2 {
			return errors.New(access.String())
		}
		return nil
	})
	if log := access.String(); !strings.Contains(log, `"level":"warn"`) || !strings.Contains(log, `"status":502`) || strings.Contains(log, "connection opened") {
		t.Errorf("access log:\n%s", log)
	}
}

func TestTCPServicesResetReachesTheClient(t *testing.T) {
	a := startAgent(t, tcpService(t, func(c *net.TCPConn) {
		c.Read(make([]byte, 1))
		c.SetLinger(0)
	}), tcp)
	c := a.dialTCP()
	io.WriteString(c, "x")
	if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %d bytes, error %v, want a reset", n, err)
	}
	if _, reset, _ := a.ended(1); reset != 1 {
		t.Error("the metrics have no reset")
	}
}

func TestTCPAccessLog(t *testing.T) {
	access := new(logBuffer)
	a := startAgent(t, tcpService(t, echo), tcp, func(o *agentOptions) {
		o.access, o.clientAddr = access, netip.MustParseAddrPort("192.0.2.1:4000")
	})
	c := a.dialTCP()
	io.WriteString(c, "12345")
	c.CloseWrite()
	io.ReadAll(c)
	a.ended(1)
	eventually(t, func() error {
		if !strings.Contains(access.String(), "connection closed") {
			return errNotYet
		}
		return nil
	})
	for _, want := range []string{
		`"subsystem":"proxy.tcp.access","msg":"connection opened"`, `"proto":"tcp"`, `"endpoint":"my-endpoint"`,
		`"client":"192.0.2.1:4000"`, `"bytes_in":5`, `"bytes_out":5`,
	} {
		if !strings.Contains(access.String(), want) {
			t.Errorf("the access log has no %s:\n%s", want, access)
		}
	}
	for _, line := range strings.SplitAfter(strings.TrimSuffix(access.String(), "\n"), "\n") {
		if !strings.Contains(line, `"level":"info"`) {
			t.Errorf("not at level info: %s", line)
		}
	}
}

func TestTCPAccessLogCanBeTurnedOff(t *testing.T) {
	access := new(logBuffer)
	a := startAgent(t, tcpService(t, echo), tcp, func(o *agentOptions) {
		o.access = access
		o.listener.AccessLog = accesslog.Config{Disable: true}
	})
	c := a.dialTCP()
	c.CloseWrite()
	io.ReadAll(c)
	a.ended(1)
	if access.String() != "" {
		t.Error(access.String())
	}
}

// A client that is gone must not keep a dial to a service that does not answer.
func TestTCPDialEndsWhenTheClientIsGone(t *testing.T) {
	gone, entered := make(chan struct{}), make(chan struct{})
	var once sync.Once
	a := startAgent(t, "127.0.0.1:1", tcp, func(o *agentOptions) {
		o.listener.DialTimeout = time.Hour
		o.clientGone = gone
		o.adjust = func(l *listener) {
			l.service.dialTo = "service.example:1"
			l.service.dialer.Resolver = &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, _, _ string) (net.Conn, error) {
				once.Do(func() { close(entered) })
				<-ctx.Done()
				return nil, ctx.Err()
			}}
		}
	})
	a.dialTCP()
	<-entered
	close(gone)
	if _, reset, failed := a.ended(1); reset != 1 || failed != 0 {
		t.Errorf("%d were reset, %d failed", reset, failed)
	}
	if strings.Contains(a.log.String(), "service unreachable") {
		t.Errorf("the service is blamed:\n%s", a.log)
	}
}

func TestTCPServiceIsToldOfTheClient(t *testing.T) {
	first := make(chan []byte, 1)
	addr := tcpService(t, func(c *net.TCPConn) {
		b, _ := io.ReadAll(c)
		first <- b
	})
	service := netip.MustParseAddrPort(addr)
	client := netip.MustParseAddrPort("192.0.2.1:4000")
	for _, tt := range []struct {
		version string
		client  netip.AddrPort
	}{{"v1", client}, {"v2", client}, {"v1", netip.AddrPort{}}, {"v2", netip.AddrPort{}}} {
		a := startAgent(t, addr, tcp, func(o *agentOptions) { o.listener.ProxyProtocol, o.clientAddr = tt.version, tt.client })
		c := a.dialTCP()
		io.WriteString(c, "payload")
		c.CloseWrite()
		want := string(proxyproto.Header(tt.version, tt.client, service)) + "payload"
		if got := string(<-first); got != want {
			t.Errorf("%s for %v: the service read %q, want %q", tt.version, tt.client, got, want)
		}
	}
}
