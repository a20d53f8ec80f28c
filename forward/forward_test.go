package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

func TestBytesGoBothWaysAndEndInOrder(t *testing.T) {
	f := start(t, service(t, echo))
	for range 3 {
		c := f.dial()
		sent := bytes.Repeat([]byte("0123456789abcdef"), 64<<10)
		go func() {
			c.Write(sent)
			c.CloseWrite()
		}()
		got, err := io.ReadAll(c)
		if err != nil || !bytes.Equal(got, sent) {
			t.Errorf("echo of %d bytes: %d bytes, error %v", len(sent), len(got), err)
		}
	}
}

func TestHalfCloseOfTheServiceLetsTheClientGoOn(t *testing.T) {
	received := make(chan string, 1)
	f := start(t, service(t, func(c *net.TCPConn) {
		io.WriteString(c, "greeting")
		c.CloseWrite()
		b, _ := io.ReadAll(c)
		received <- string(b)
	}))
	c := f.dial()
	if got, err := io.ReadAll(c); err != nil || string(got) != "greeting" {
		t.Fatalf("read %q, %v", got, err)
	}
	io.WriteString(c, "an answer after the end")
	c.CloseWrite()
	if got := <-received; got != "an answer after the end" {
		t.Errorf("the service read %q", got)
	}
}

// A failure must never look like the end of the data.
func TestFailuresAreResets(t *testing.T) {
	wantReset := func(t *testing.T, c *net.TCPConn) {
		t.Helper()
		if n, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %d bytes, error %v, want a reset", n, err)
		}
	}
	// The reset may come before the client knows that it is connected.
	wantResetAtOnce := func(t *testing.T, f *testForwarder) {
		t.Helper()
		c, err := net.Dial("tcp", f.Addrs()[0][0].String())
		if err == nil {
			defer c.Close()
			_, err = c.Read(make([]byte, 1))
		}
		if !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("error %v, want a reset", err)
		}
	}
	t.Run("service resets", func(t *testing.T) {
		f := start(t, service(t, func(c *net.TCPConn) {
			c.Read(make([]byte, 1))
			c.SetLinger(0)
		}))
		c := f.dial()
		io.WriteString(c, "x")
		wantReset(t, c)
	})
	t.Run("dial fails", func(t *testing.T) {
		f := start(t, dialFunc(func(context.Context, string) (net.Conn, error) { return nil, errors.New("refused") }))
		wantResetAtOnce(t, f)
		wantResetAtOnce(t, f)
		eventually(t, func() error {
			if log := f.log.String(); strings.Count(log, "level=WARN") != 1 || !strings.Contains(log, "refused") {
				return errors.New("want one warning: " + log)
			}
			return nil
		})
	})
	t.Run("dial takes too long", func(t *testing.T) {
		f := start(t, dialFunc(func(ctx context.Context, _ string) (net.Conn, error) {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}), func(c *Config) { c.ConnectTimeout = time.Millisecond })
		wantResetAtOnce(t, f)
	})
}

func TestClientsResetReachesTheService(t *testing.T) {
	failed := make(chan error, 1)
	f := start(t, service(t, func(c *net.TCPConn) {
		io.WriteString(c, "x")
		_, err := io.ReadAll(c)
		failed <- err
	}))
	c := f.dial()
	c.Read(make([]byte, 1))
	c.SetLinger(0)
	c.Close()
	if err := <-failed; !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the service read %v, want a reset", err)
	}
}

func TestLogSaysThatAnEndpointIsReachableAgain(t *testing.T) {
	up, down := service(t, echo), atomic.Bool{}
	down.Store(true)
	f := start(t, dialFunc(func(ctx context.Context, e string) (net.Conn, error) {
		if down.Load() {
			return nil, errors.New("refused")
		}
		return up(ctx, e)
	}))
	if c, err := net.Dial("tcp", f.Addrs()[0][0].String()); err == nil {
		c.Read(make([]byte, 1))
		c.Close()
	}
	down.Store(false)
	c := f.dial()
	c.CloseWrite()
	if _, err := io.ReadAll(c); err != nil {
		t.Error(err)
	}
	eventually(t, func() error {
		if !strings.Contains(f.log.String(), "endpoint reachable again") {
			return errNotYet
		}
		return nil
	})
}

func TestGracefulStopLetsConnectionsEnd(t *testing.T) {
	f := start(t, service(t, echo))
	c := f.dial()
	io.WriteString(c, "x")
	c.Read(make([]byte, 1))
	f.stop()
	eventually(t, func() error {
		if !strings.Contains(f.log.String(), "waiting for connections to end") {
			return errNotYet
		}
		return nil
	})
	if other, err := net.Dial("tcp", c.RemoteAddr().String()); err == nil {
		other.Close()
		t.Error("the port is still open")
	}
	io.WriteString(c, "more")
	c.CloseWrite()
	if got, err := io.ReadAll(c); err != nil || string(got) != "more" {
		t.Errorf("read %q, %v", got, err)
	}
	if err := <-f.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	if log := f.log.String(); strings.Contains(log, "cut at the end") {
		t.Error(log)
	}
}

func TestConnectionsThatOutliveTheGracePeriodAreResetAndCounted(t *testing.T) {
	f := start(t, service(t, echo), func(c *Config) { c.GracePeriod = -1 })
	var conns []*net.TCPConn
	for range 3 {
		c := f.dial()
		io.WriteString(c, "x")
		c.Read(make([]byte, 1))
		conns = append(conns, c)
	}
	f.stop()
	if err := <-f.done; err != nil {
		t.Errorf("Run returned %v", err)
	}
	for _, c := range conns {
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("read %v, want a reset", err)
		}
	}
	if log := f.log.String(); !strings.Contains(log, "cut at the end of the grace period") || !strings.Contains(log, "count=3") {
		t.Error(log)
	}
}

func TestConnectionsAreBounded(t *testing.T) {
	var open, most atomic.Int64
	release := make(chan struct{})
	f := start(t, service(t, func(c *net.TCPConn) {
		n := open.Add(1)
		defer open.Add(-1)
		for was := most.Load(); n > was && !most.CompareAndSwap(was, n); was = most.Load() {
		}
		<-release
		echo(c)
	}), func(c *Config) { c.MaxConnections = 2 })
	var conns []*net.TCPConn
	for range 6 {
		c := f.dial()
		c.CloseWrite()
		conns = append(conns, c)
	}
	eventually(t, func() error {
		if open.Load() < 2 {
			return errNotYet
		}
		return nil
	})
	close(release)
	for _, c := range conns {
		if _, err := io.ReadAll(c); err != nil {
			t.Error(err) // all are served in the end
		}
	}
	if n := most.Load(); n > 2 {
		t.Errorf("%d connections at once, want 2", n)
	}
}

// A reader that stops must stop the writer, whatever there is between.
func TestBackPressure(t *testing.T) {
	var sent atomic.Int64
	f := start(t, service(t, func(c *net.TCPConn) {
		c.SetWriteBuffer(16 << 10)
		buf := make([]byte, 16<<10)
		for {
			n, err := c.Write(buf)
			sent.Add(int64(n))
			if err != nil {
				return
			}
		}
	}), func(c *Config) { c.GracePeriod = -1 })
	c := f.dial()
	c.SetReadBuffer(16 << 10)
	var was int64
	stable := 0
	eventually(t, func() error {
		if n := sent.Load(); n == 0 || n != was {
			was, stable = n, 0
			return errNotYet
		}
		if stable++; stable < 50 {
			return errNotYet
		}
		return nil
	})
	if was > 32<<20 {
		t.Errorf("%d bytes were taken from the service while the client read nothing", was)
	}
}

func TestLocalhostIsBothLoopbackAddresses(t *testing.T) {
	ln, err := net.Listen("tcp6", "[::1]:0")
	if err != nil {
		t.Skipf("no IPv6 here: %v", err)
	}
	ln.Close()
	f := start(t, service(t, echo))
	// With port 0 the second may be somebody else's, which a fixed port fails at.
	for _, addr := range f.Addrs()[0] {
		c, err := net.Dial("tcp", addr.String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
	}
}

func TestPortThatIsTaken(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	f, err := New(Config{Ports: []Port{{"127.0.0.1:0", "a"}, {ln.Addr().String(), "b"}}}, nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	err = f.Listen(t.Context())
	if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(err.Error(), "endpoint b") {
		t.Errorf("Listen returned %v", err)
	}
	if c, err := net.Dial("tcp", f.Addrs()[0][0].String()); err == nil {
		c.Close()
		t.Error("the first port is open although the second is not")
	}
}

func TestConfigIsChecked(t *testing.T) {
	for _, tt := range []struct {
		name  string
		ports []Port
		want  string // in the error; "" is none
	}{
		{"none", nil, "no ports configured"},
		{"no endpoint", []Port{{"5432", ""}}, "missing endpoint"},
		{"no address", []Port{{"", "e"}}, "missing address"},
		{"port too high", []Port{{"70000", "e"}}, "give a port"},
		{"host without port", []Port{{"localhost", "e"}}, "give a port"},
		{"URL", []Port{{"http://localhost:1", "e"}}, "give a port"},
		{"one of two is bad", []Port{{"5432", "e"}, {"x", "e"}}, `port "x"`},
		{"good", []Port{{"5432", "e"}, {"[::1]:1", "e"}, {":5432", "f"}, {"localhost:9", "e"}}, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := New(Config{Ports: tt.ports}, nil, nil)
			if tt.want == "" && err != nil || tt.want != "" && (err == nil || !strings.Contains(err.Error(), tt.want)) {
				t.Errorf("New returned %v, want %q in it", err, tt.want)
			}
		})
	}
}

// A program that has gone while its connection was being made needs none; what
// it had sent, and the end of its side, are no sign of that.
func TestClientsResetEndsTheConnecting(t *testing.T) {
	for name, c := range map[string]struct {
		before func(c *net.TCPConn)
	}{
		"silent":     {func(*net.TCPConn) {}},
		"has sent":   {func(c *net.TCPConn) { io.WriteString(c, "impatient") }},
		"half-close": {func(c *net.TCPConn) { io.WriteString(c, "question"); c.CloseWrite() }},
	} {
		t.Run(name, func(t *testing.T) {
			dialling, ended := make(chan struct{}), make(chan error, 1)
			f := start(t, dialFunc(func(ctx context.Context, _ string) (net.Conn, error) {
				close(dialling)
				<-ctx.Done()
				ended <- context.Cause(ctx)
				return nil, ctx.Err()
			}), func(cfg *Config) { cfg.ConnectTimeout = 10 * time.Minute })
			local := f.dial()
			<-dialling
			c.before(local)
			local.SetLinger(0)
			local.Close()
			if err := <-ended; err != errHungUp {
				t.Errorf("ended with %v", err)
			}
			eventually(t, func() error {
				if !strings.Contains(f.log.String(), errHungUp.Error()) {
					return errNotYet
				}
				return nil
			})
			if strings.Contains(f.log.String(), "level=WARN") {
				t.Errorf("the endpoint is blamed:\n%s", f.log)
			}
		})
	}
}

// What a program sends, and that it ends its side, while its connection is being
// made for longer than that is watched, goes to the service.
func TestSlowConnectingLosesNothing(t *testing.T) {
	serve := service(t, echo)
	watched := make(chan struct{})
	f := start(t, dialFunc(func(ctx context.Context, endpoint string) (net.Conn, error) {
		<-watched
		return serve(ctx, endpoint)
	}))
	c := f.dial()
	io.WriteString(c, "early ")
	time.AfterFunc(2*hangUpCheck, func() {
		io.WriteString(c, "question")
		c.CloseWrite()
		close(watched)
	})
	if b, err := io.ReadAll(c); string(b) != "early question" || err != nil {
		t.Errorf("read %q, %v", b, err)
	}
}
