package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/accesslog"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

func TestTCPIsLoggedAndCounted(t *testing.T) {
	var out lines
	reg := prometheus.NewRegistry()
	w := newWorld(t, func(o *Options) {
		o.AccessLog = accesslog.New(&out, accesslog.Config{Level: slog.LevelInfo}, accesslog.Options{Subsystem: "proxy.access"})
		o.Registerer = reg
	})
	w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		io.ReadAll(r)
		io.WriteString(c, "answer")
	})
	c := w.dialTCP("e")
	io.WriteString(c, "abc")
	c.CloseWrite()
	io.ReadAll(c)
	c.Close()
	var got []string
	eventually(t, func() error {
		for _, line := range out.take() {
			got = append(got, summary(t, line))
		}
		if len(got) < 2 {
			return fmt.Errorf("%d lines", len(got))
		}
		return nil
	})
	const what = "GET %s /_piko/v1/tcp/e e node-1 upstream-1 101 in %d out %d retries 0 id  error false"
	want := fmt.Sprintf("info connection opened "+what+"|info connection closed "+what, w.addr, 0, 0, w.addr, 3, 6)
	if s := strings.Join(got, "|"); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	eventually(t, func() error {
		return testutil.GatherAndCompare(reg, strings.NewReader(`
# HELP piko_proxy_requests_in_flight Requests that are being forwarded, upgraded connections included.
# TYPE piko_proxy_requests_in_flight gauge
piko_proxy_requests_in_flight 0
# HELP piko_proxy_requests_total Requests of clients.
# TYPE piko_proxy_requests_total counter
piko_proxy_requests_total{method="GET",status="101"} 1
`), "piko_proxy_requests_in_flight", "piko_proxy_requests_total")
	})
}

// tunnelled is a TCP agent behind a real tunnel: dial makes the connection to its service.
func (w *world) tunnelled(endpoint string, dial func() (net.Conn, error)) *router.Local {
	w.t.Helper()
	accepted := make(chan *tunnel.Session, 1)
	reply := tunnel.Reply{Features: []string{tunnel.FeatureControl, tunnel.FeatureMeta}}
	srv := httptest.NewServer(http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
		sess, err := tunnel.Accept(rw, r, reply, tunnel.Options{})
		if err != nil {
			w.t.Error(err)
			return
		}
		accepted <- sess
	}))
	w.t.Cleanup(srv.Close)
	d := &tunnel.Dialer{URL: srv.URL, Features: []string{tunnel.FeatureMeta}}
	agent, err := d.Dial(w.t.Context(), endpoint)
	if err != nil {
		w.t.Fatal(err)
	}
	node := <-accepted
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			st, err := agent.Accept()
			if err != nil {
				return
			}
			wg.Go(func() {
				service, err := dial()
				if err != nil {
					st.Reset()
					return
				}
				relay.Splice(context.Background(), st, service)
			})
		}
	})
	w.t.Cleanup(func() {
		agent.Close()
		node.Close()
		wg.Wait()
	})
	l := router.NewLocal(upstream{&relay.Pool{Dial: func(ctx context.Context) (net.Conn, error) { return node.Open(ctx) }}})
	w.t.Cleanup(w.table.Add(endpoint, l))
	if w.way != noHop {
		w.ownerFor().add(endpoint, l)
	}
	return l
}

// The client was told that it is connected before the agent has tried: then it must see a failure, and never an answer of
// no bytes.
func TestTCPServiceThatCannotBeReached(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		l := w.tunnelled("e", func() (net.Conn, error) { return nil, errors.New("refused") })
		for range 5 {
			c := w.dialTCP("e")
			if n, err := c.Read(make([]byte, 1)); n > 0 || err == nil || err == io.EOF {
				t.Errorf("%d, %v, want a failure", n, err)
			}
			c.Close()
		}
		eventually(t, idle(l))
	})
}

// Whichever way a client leaves, its service learns of it, and nothing stays behind.
func TestTCPClientsThatLeave(t *testing.T) {
	t.Parallel()
	rounds := 60
	if raceEnabled {
		rounds = 15
	}
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		var services sync.WaitGroup
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		services.Go(func() {
			for {
				c, err := ln.Accept()
				if err != nil {
					return
				}
				services.Go(func() { // says what it hears, and never leaves by itself
					defer c.Close()
					var err error
					for err == nil {
						if _, err = io.Copy(c, c); err == nil {
							_, _ = c.Read(make([]byte, 1)) // the end, again and again
							<-time.After(time.Millisecond)
							_, err = c.Write([]byte("?"))
						}
					}
				})
			}
		})
		defer services.Wait()
		defer ln.Close()
		l := w.tunnelled("e", func() (net.Conn, error) { return net.Dial("tcp", ln.Addr().String()) })
		leave := []func(c *tunnel.Conn){
			func(c *tunnel.Conn) { c.Reset(); c.Close() },
			func(c *tunnel.Conn) { c.Close() },
			func(c *tunnel.Conn) { c.CloseWrite(); c.Reset(); c.Close() },
			func(c *tunnel.Conn) { c.CloseWrite(); c.Close() },
			func(c *tunnel.Conn) { io.WriteString(c, "x"); c.Reset(); c.Close() },
		}
		for i := range rounds {
			c := w.dialTCP("e")
			io.WriteString(c, "hello")
			if _, err := io.ReadFull(c, make([]byte, 5)); err != nil {
				t.Fatal(err)
			}
			leave[i%len(leave)](c)
		}
		eventually(t, idle(l))
	})
}

// The end of the server's context cuts connections, as it does upgraded ones.
func TestTCPIsCutWithTheServer(t *testing.T) {
	parsedWays(t, func(t *testing.T, newWorld worldMaker) {
		w := newWorld(t, nil)
		ended := make(chan error, 1)
		w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
			io.WriteString(c, "x")
			_, err := io.Copy(io.Discard, r)
			ended <- err
		})
		ctx, cut := context.WithCancelCause(t.Context())
		s := httptest.NewUnstartedServer(w.p)
		s.Config.BaseContext = func(net.Listener) context.Context { return ctx }
		s.Start()
		defer s.Close()
		w.addr = s.Listener.Addr().String()
		c := w.dialTCP("e")
		if _, err := io.ReadFull(c, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		cut(errors.New("enough"))
		if _, err := c.Read(make([]byte, 1)); !errors.Is(err, tunnel.ErrStreamReset) {
			t.Errorf("the client saw %v", err)
		}
		if err := <-ended; err == nil {
			t.Error("the service saw an end in order")
		}
	})
}
