package upstreamconn

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"piko/client"
	"piko/fault"
	"piko/relay"
	"piko/router"
)

// startHTTP2Agent connects an upstream that serves HTTP/1.1 and HTTP/2, and
// says so.
func startHTTP2Agent(t testing.TB, url, endpoint string, h http.Handler) *agent {
	t.Helper()
	return startAgentOf(t, &client.Client{URL: url, HTTP2: true}, endpoint, h)
}

func startAgentOf(t testing.TB, c *client.Client, endpoint string, h http.Handler) *agent {
	t.Helper()
	ln, err := c.Listen(t.Context(), endpoint)
	if err != nil {
		t.Fatal(err)
	}
	a := &agent{Listener: ln, srv: &http.Server{Handler: h, Protocols: new(http.Protocols)}}
	a.srv.Protocols.SetHTTP1(true)
	a.srv.Protocols.SetUnencryptedHTTP2(true)
	done := make(chan struct{})
	go func() {
		defer close(done)
		a.srv.Serve(ln)
	}()
	t.Cleanup(func() {
		ln.Close()
		a.srv.Close()
		<-done
	})
	return a
}

// grpcEcho answers a gRPC call as it comes, flushing each piece, and says in the
// trailers that all is well, and by which protocol it was called.
var grpcEcho = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "application/grpc")
	rc := http.NewResponseController(w)
	rc.EnableFullDuplex()
	rc.Flush()
	buf := make([]byte, 1024)
	for {
		n, err := r.Body.Read(buf)
		w.Write(buf[:n])
		rc.Flush()
		if err != nil {
			break
		}
	}
	w.Header().Set(http.TrailerPrefix+"Grpc-Status", "0")
	w.Header().Set(http.TrailerPrefix+"Proto", r.Proto)
})

// grpcRequest is a call whose messages come from body.
func grpcRequest(ctx context.Context, body io.Reader) *http.Request {
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://endpoint.example.com/pkg.Service/Method", body)
	if err != nil {
		panic(err)
	}
	req.ContentLength = -1
	req.Header.Set("Content-Type", "application/grpc+proto")
	req.Header.Set("Te", "trailers")
	return req
}

// call makes a call, and returns what came back and by which protocol it was
// served.
func call(ctx context.Context, u router.Upstream, message string) (answer, proto string, err error) {
	res, err := u.RoundTrip(grpcRequest(ctx, io.NopCloser(strings.NewReader(message))))
	if err != nil {
		return "", "", err
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err == nil && res.Trailer.Get("Grpc-Status") != "0" {
		err = fmt.Errorf("trailers %v", res.Trailer)
	}
	return string(b), res.Trailer.Get("Proto"), err
}

func TestWhatIsSentAsHTTP2(t *testing.T) {
	for _, c := range []struct {
		name   string
		client client.Client
		proto  string
	}{
		{"offered", client.Client{HTTP2: true}, "HTTP/2.0"},
		{"not offered", client.Client{}, "HTTP/1.1"},
		{"offered for tcp, which carries no HTTP", client.Client{HTTP2: true, Protocol: "tcp"}, "HTTP/1.1"},
	} {
		t.Run(c.name, func(t *testing.T) {
			n := startNode(t, nil)
			c.client.URL = n.url
			startAgentOf(t, &c.client, "endpoint", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				if r.Method == http.MethodGet {
					io.WriteString(w, r.Proto)
					return
				}
				grpcEcho(w, r)
			}))
			u := n.waitFor(t, "endpoint", 1)[0].Upstream()
			if answer, proto, err := call(t.Context(), u, "hello"); answer != "hello" || proto != c.proto || err != nil {
				t.Errorf("gRPC: %q by %s, %v; want it by %s", answer, proto, err, c.proto)
			}
			if proto, err := do(u, http.MethodGet, ""); proto != "HTTP/1.1" || err != nil {
				t.Errorf("GET: by %s, %v", proto, err)
			}
		})
	}
}

// TestUpstreamWithoutHTTP1 gets all as HTTP/2; who speaks both is asked once, and
// net/http does not bother the handler with that.
func TestUpstreamWithoutHTTP1(t *testing.T) {
	for _, proto := range []string{"HTTP/2.0", "HTTP/1.1"} {
		t.Run(proto, func(t *testing.T) {
			n := startNode(t, nil)
			ln, err := (&client.Client{URL: n.url, HTTP2: true}).Listen(t.Context(), "endpoint")
			if err != nil {
				t.Fatal(err)
			}
			var requests atomic.Int64
			srv := &http.Server{Protocols: new(http.Protocols), Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
				requests.Add(1)
				io.Copy(io.Discard, r.Body)
				io.WriteString(w, r.Proto)
			})}
			srv.Protocols.SetUnencryptedHTTP2(true)
			srv.Protocols.SetHTTP1(proto == "HTTP/1.1")
			served := make(chan error, 1)
			go func() { served <- srv.Serve(ln) }()
			defer func() {
				srv.Close()
				<-served
			}()
			u := n.waitFor(t, "endpoint", 1)[0].Upstream()
			const calls = 50
			var wg sync.WaitGroup
			for i := range calls {
				wg.Go(func() {
					body := strings.Repeat("x", i%2*100<<10)
					if got, err := do(u, http.MethodPost, body); got != proto || err != nil {
						t.Errorf("POST of %d bytes: by %s, %v", len(body), got, err)
					}
				})
			}
			wg.Wait()
			if n := requests.Load(); n != calls {
				t.Errorf("the handler saw %d requests, want %d", n, calls)
			}
		})
	}
}

// TestBrokenAnswerIsNoAnswer: an upstream whose connection breaks when it is
// asked whether it speaks HTTP/1.1 is asked again, but not for ever.
func TestBrokenAnswerIsNoAnswer(t *testing.T) {
	for name, broken := range map[string]int64{"once": 1, "always": 1 << 30} {
		t.Run(name, func(t *testing.T) {
			n := startNode(t, nil)
			ln, err := (&client.Client{URL: n.url, HTTP2: true}).Listen(t.Context(), "endpoint")
			if err != nil {
				t.Fatal(err)
			}
			asked := serveBreaking(t, ln, broken)
			u := n.waitFor(t, "endpoint", 1)[0].Upstream()
			for range 4 * maxQuestions {
				if proto, err := do(u, http.MethodGet, ""); proto != "HTTP/1.1" || err != nil {
					t.Fatalf("by %q, %v", proto, err)
				}
			}
			if got, want := asked.Load(), min(broken+1, maxQuestions); got != want {
				t.Errorf("asked %d times, want %d", got, want)
			}
		})
	}
}

// serveBreaking serves HTTP/1.1 and resets the first connections that ask with
// OPTIONS, of which it returns the number.
func serveBreaking(t *testing.T, ln net.Listener, broken int64) *atomic.Int64 {
	asked := new(atomic.Int64)
	var conns sync.WaitGroup
	serve := func(c net.Conn) {
		defer c.Close()
		br := bufio.NewReader(c)
		for {
			req, err := http.ReadRequest(br)
			if err != nil {
				return
			}
			if req.Method == http.MethodOptions && asked.Add(1) <= broken {
				c.(interface{ Reset() }).Reset()
				return
			}
			io.WriteString(c, "HTTP/1.1 200 OK\r\nContent-Length: 8\r\n\r\nHTTP/1.1")
		}
	}
	conns.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			conns.Go(func() { serve(c) })
		}
	})
	t.Cleanup(func() {
		ln.Close()
		conns.Wait()
	})
	return asked
}

// TestCallsShareAStream: each of them goes both ways while the others do.
func TestCallsShareAStream(t *testing.T) {
	n := startNode(t, nil)
	m := &client.Metrics{}
	startAgentOf(t, &client.Client{URL: n.url, HTTP2: true, Metrics: m}, "endpoint", grpcEcho)
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	var calls sync.WaitGroup
	for i := range 20 {
		calls.Go(func() {
			if err := pingPong(t.Context(), u, fmt.Sprintf("message %2d", i)); err != nil {
				t.Error(err)
			}
		})
	}
	calls.Wait()
	if conns := m.Accepted.Load(); conns != 1 {
		t.Errorf("20 calls came over %d connections", conns)
	}
}

// pingPong sends a message when the one before has come back.
func pingPong(ctx context.Context, u router.Upstream, message string) error {
	body, in := io.Pipe()
	defer in.Close()
	res, err := u.RoundTrip(grpcRequest(ctx, body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	got := make([]byte, len(message))
	for range 10 {
		io.WriteString(in, message)
		if _, err := io.ReadFull(res.Body, got); err != nil || string(got) != message {
			return fmt.Errorf("%q came back as %q: %w", message, got, err)
		}
	}
	in.Close()
	if _, err := res.Body.Read(got); err != io.EOF || res.Trailer.Get("Grpc-Status") != "0" {
		return fmt.Errorf("ended with %v, trailers %v", err, res.Trailer)
	}
	return nil
}

func TestCancelledCallEndsAtTheService(t *testing.T) {
	n := startNode(t, nil)
	begun, ended := make(chan struct{}, 1), make(chan struct{}, 1)
	startHTTP2Agent(t, n.url, "endpoint", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-r.Context().Done()
		ended <- struct{}{}
	}))
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	ctx, cancel := context.WithCancel(t.Context())
	body, in := io.Pipe()
	defer in.Close()
	result := make(chan error, 1)
	go func() {
		res, err := u.RoundTrip(grpcRequest(ctx, body))
		if err == nil {
			res.Body.Close()
		}
		result <- err
	}()
	<-begun
	cancel()
	if err := <-result; !errors.Is(err, context.Canceled) {
		t.Errorf("the call ended with %v", err)
	}
	select {
	case <-ended:
	case <-time.After(20 * time.Second):
		t.Error("the service goes on")
	}
}

// TestLeavingRefusesCalls: what meets an upstream that leaves can be tried
// elsewhere, and what is under way ends.
func TestLeavingRefusesCalls(t *testing.T) {
	n := startNode(t, nil)
	a := startHTTP2Agent(t, n.url, "endpoint", grpcEcho)
	u := n.waitFor(t, "endpoint", 1)[0].Upstream()
	body, in := io.Pipe()
	defer in.Close()
	res, err := u.RoundTrip(grpcRequest(t.Context(), body))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- a.Shutdown(t.Context()) }()
	n.waitFor(t, "endpoint", 0)
	eventually(t, func() error {
		_, _, err := call(t.Context(), u, "hello")
		switch {
		case err == nil:
			return errors.New("an upstream that leaves takes calls")
		case !relay.NeverExecuted(err) || !errors.Is(err, fault.Draining):
			t.Fatalf("a call met an upstream that leaves with %v", err)
		}
		return nil
	})
	io.WriteString(in, "late")
	in.Close()
	if got, err := io.ReadAll(res.Body); string(got) != "late" || err != nil || res.Trailer.Get("Grpc-Status") != "0" {
		t.Errorf("the call under way: %q, %v, trailers %v", got, err, res.Trailer)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
}

// TestServersOfCallsStopInTurn: http.Server.Shutdown sends a GOAWAY, as gRPC's
// GracefulStop does; what it has not taken is sent elsewhere.
func TestServersOfCallsStopInTurn(t *testing.T) {
	n := startNode(t, nil)
	a := startHTTP2Agent(t, n.url, "endpoint", grpcEcho)
	n.waitFor(t, "endpoint", 1)
	var stop atomic.Bool
	var served atomic.Int64
	var calls sync.WaitGroup
	for range 8 {
		calls.Go(func() {
			for !stop.Load() {
				if answer, err := callAny(t.Context(), n, "hello"); answer != "hello" || err != nil {
					t.Errorf("after %d calls: %q, %v", served.Load(), answer, err)
					return
				}
				served.Add(1)
			}
		})
	}
	for range 10 {
		next := startHTTP2Agent(t, n.url, "endpoint", grpcEcho)
		n.waitFor(t, "endpoint", 2)
		before := served.Load()
		eventually(t, func() error {
			if t.Failed() || served.Load() > before+50 {
				return nil
			}
			return errors.New("no calls")
		})
		if err := a.srv.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if _, err := a.Accept(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("accept: %v", err)
		}
		a = next
	}
	stop.Store(true)
	calls.Wait()
}

// callAny makes a call to an upstream of the endpoint, and to another one if
// that has not seen it, as the proxy does.
func callAny(ctx context.Context, n *node, message string) (answer string, err error) {
	err = errors.New("no upstream")
	for range 4 {
		route := n.Table.Lookup("endpoint")
		if route == nil {
			return "", err
		}
		for _, l := range route.Locals {
			if answer, _, err = call(ctx, l.Upstream(), message); err == nil || !relay.NeverExecuted(err) {
				return answer, err
			}
		}
	}
	return "", err
}
