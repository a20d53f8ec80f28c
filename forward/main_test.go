package forward

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// errNotYet is for conditions that say nothing more.
var errNotYet = errors.New("not yet")

// eventually polls until check says nil, and fails with its last error.
func eventually(t testing.TB, check func() error) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("never became true: %v", err)
		}
		<-time.After(2 * time.Millisecond)
	}
}

// dialFunc is a Dialer.
type dialFunc func(ctx context.Context, endpoint string) (net.Conn, error)

func (f dialFunc) Dial(ctx context.Context, endpoint string) (net.Conn, error) {
	return f(ctx, endpoint)
}

// service is a TCP server that stands for the endpoint and all between.
func service(t testing.TB, serve func(*net.TCPConn)) dialFunc {
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
	return func(ctx context.Context, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "tcp", ln.Addr().String())
	}
}

// echo answers with what it got, and ends when the client has ended its side.
func echo(c *net.TCPConn) { io.Copy(c, c) }

// testForwarder is a Forwarder that runs.
type testForwarder struct {
	*Forwarder
	t    testing.TB
	log  *logBuffer
	stop context.CancelFunc // begins the graceful stop
	done chan error         // Run's result
}

// start runs a Forwarder with one port on all of localhost until the test ends.
func start(t testing.TB, d Dialer, opts ...func(*Config)) *testForwarder {
	t.Helper()
	cfg := Config{Ports: []Port{{Addr: "0", Endpoint: "my-endpoint"}}, GracePeriod: 20 * time.Second}
	for _, opt := range opts {
		opt(&cfg)
	}
	f := &testForwarder{t: t, log: new(logBuffer), done: make(chan error, 1)}
	var err error
	f.Forwarder, err = New(cfg, d, slog.New(slog.NewTextHandler(f.log, &slog.HandlerOptions{Level: slog.LevelDebug})))
	if err != nil {
		t.Fatal(err)
	}
	if err := f.Listen(t.Context()); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	f.stop = cancel
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.done <- f.Run(ctx)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return f
}

// dial connects to the first port.
func (f *testForwarder) dial() *net.TCPConn {
	f.t.Helper()
	c, err := net.Dial("tcp", f.Addrs()[0][0].String())
	if err != nil {
		f.t.Fatal(err)
	}
	c.SetDeadline(time.Now().Add(30 * time.Second))
	f.t.Cleanup(func() { c.Close() })
	return c.(*net.TCPConn)
}

// logBuffer is a log that can be read while it is written.
type logBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer // guarded by mu
}

func (b *logBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *logBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
