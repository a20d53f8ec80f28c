package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"piko/relay"
	"piko/router"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "6") // they wait, more than they work
	goleak.VerifyTestMain(m)
}

// eventually fails the test with the last error if f has not succeeded within 5 s.
func eventually(t testing.TB, f func() error) {
	t.Helper()
	var err error
	for end := time.Now().Add(5 * time.Second); time.Now().Before(end); {
		if err = f(); err == nil {
			return
		}
		<-time.After(time.Millisecond)
	}
	t.Fatal(err)
}

// upstream is a router.Upstream over TCP, without a tunnel.
type upstream struct{ *relay.Pool }

func (u upstream) Open(ctx context.Context) (net.Conn, error) { return u.Dial(ctx) }
func (u upstream) String() string                             { return "upstream-1" }

func (u upstream) LanePool(*relay.LaneRequest) (*relay.Pool, bool) { return u.Pool, true }

func dialTo(addr string) func(context.Context) (net.Conn, error) {
	var d net.Dialer
	return func(ctx context.Context) (net.Conn, error) { return d.DialContext(ctx, "tcp", addr) }
}

// world is a node's proxy port, and upstreams.
type world struct {
	t     testing.TB
	way   way
	table *router.Table // has all upstreams as local candidates
	entry *router.Table // what the proxy port looks at
	addr  string
	p     *Public

	owners []*owner
}

// newWorld starts a proxy port in front of a table with upstreams. change may change the options.
func newWorld(t testing.TB, change func(*Options)) *world { return newWorldFor(t, noHop, change) }

func newWorldFor(t testing.TB, how way, change func(*Options)) *world {
	w := &world{t: t, way: how, table: router.NewTable()}
	w.entry = w.table
	if how != noHop {
		w.entry = router.NewTable()
	}
	opt := Options{Lookup: w.entry.Lookup, NodeID: "node-1"}
	if change != nil {
		change(&opt)
	}
	var err error
	if w.p, err = NewPublic(opt); err != nil {
		t.Fatal(err)
	}
	s := httptest.NewUnstartedServer(w.p)
	s.Config.DisableGeneralOptionsHandler = true
	s.Config.ErrorLog = log.New(noPanics{t}, "", 0)
	s.Config.Protocols = new(http.Protocols)
	s.Config.Protocols.SetHTTP1(true)
	s.Config.Protocols.SetUnencryptedHTTP2(true)
	s.Start()
	t.Cleanup(s.Close)
	w.addr = s.Listener.Addr().String()
	return w
}

// noPanics fails the test when net/http reports a panic, which the client would only see as a closed connection.
type noPanics struct{ t testing.TB }

func (n noPanics) Write(b []byte) (int, error) {
	if bytes.Contains(b, []byte("panic")) {
		n.t.Errorf("%s", b)
	}
	return len(b), nil
}

// add makes a candidate for the endpoint of a function that opens connections.
func (w *world) add(endpoint string, dial func(context.Context) (net.Conn, error)) *router.Local {
	pool := &relay.Pool{Dial: dial}
	l := router.NewLocal(upstream{pool})
	w.t.Cleanup(w.table.Add(endpoint, l))
	w.t.Cleanup(pool.Close)
	if w.way != noHop {
		w.ownerFor().add(endpoint, l)
	}
	return l
}

// serve adds a net/http service.
func (w *world) serve(endpoint string, h http.HandlerFunc) *router.Local {
	s := httptest.NewUnstartedServer(h)
	s.Config.DisableGeneralOptionsHandler = true
	s.Start()
	w.t.Cleanup(s.Close)
	return w.add(endpoint, dialTo(s.Listener.Addr().String()))
}

// serveRaw adds a service that does what serve does with each connection.
func (w *world) serveRaw(endpoint string, serve func(c net.Conn, r *bufio.Reader)) *router.Local {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		w.t.Fatal(err)
	}
	var wg sync.WaitGroup
	var mu sync.Mutex
	var conns []net.Conn
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			mu.Lock()
			conns = append(conns, c)
			mu.Unlock()
			wg.Go(func() {
				defer c.Close()
				serve(c, bufio.NewReader(c))
			})
		}
	})
	w.t.Cleanup(func() {
		ln.Close()
		mu.Lock()
		for _, c := range conns {
			c.Close()
		}
		mu.Unlock()
		wg.Wait()
	})
	return w.add(endpoint, dialTo(ln.Addr().String()))
}

// closing is a request behind others that closes the connection.
const closing = "GET /closing HTTP/1.1\r\nHost: nobody.x\r\nConnection: close\r\n\r\n"

// talk sends bytes over a new connection and returns what comes back until the server closes it.
func (w *world) talk(text string) string {
	w.t.Helper()
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		w.t.Fatal(err)
	}
	defer c.Close()
	io.WriteString(c, text)
	c.SetReadDeadline(time.Now().Add(5 * time.Second))
	b, err := io.ReadAll(c)
	if errors.Is(err, os.ErrDeadlineExceeded) {
		w.t.Errorf("the connection stays open after %q", text)
	}
	return string(b)
}

// do sends a request for the endpoint "e" and returns status, body and response.
func (w *world) do(method, path string, body io.Reader, header ...string) (int, string, *http.Response) {
	w.t.Helper()
	req, err := http.NewRequestWithContext(w.t.Context(), method, "http://"+w.addr+path, body)
	if err != nil {
		w.t.Fatal(err)
	}
	req.Header.Set("X-Piko-Endpoint", "e")
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	tr := &http.Transport{DisableCompression: true}
	defer tr.CloseIdleConnections()
	res, err := tr.RoundTrip(req)
	if err != nil {
		w.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		w.t.Fatalf("%s %s: read body: %v", method, path, err)
	}
	return res.StatusCode, string(b), res
}

// ok answers with a length, so that answers can be compared.
func ok(w http.ResponseWriter, body string) {
	w.Header()["Date"] = nil
	io.WriteString(w, body)
}

func idle(l *router.Local) func() error {
	return func() error {
		if n := l.InFlight(); n != 0 {
			return errors.New("requests are still in flight")
		}
		return nil
	}
}
