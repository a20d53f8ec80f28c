package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/fault"
	"piko/tunnel"
)

func TestListenerServesAndCloses(t *testing.T) {
	n := startNode(t, "n1", "")
	ln := serve(t, &Client{URL: "http://" + n.addr}, "my-endpoint", echo)
	n.waitFor(t, "my-endpoint", 1)
	if got, err := post("my-endpoint", "hello", n); got != "hello" || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
	if ln.Addr().String() != "my-endpoint" || ln.Addr().Network() != "piko" || ln.Endpoint() != "my-endpoint" || !ln.Connected() {
		t.Errorf("address %v, connected %v", ln.Addr(), ln.Connected())
	}
	var wg sync.WaitGroup
	for range 4 {
		wg.Go(func() { ln.Close() })
	}
	wg.Wait()
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept on a closed listener: %v", err)
	}
	if ln.Connected() {
		t.Error("connected after Close")
	}
	n.waitFor(t, "my-endpoint", 0)
}

func TestConnectionsHalfClose(t *testing.T) {
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n.waitFor(t, "endpoint", 1)
	a, err := n.Table.Lookup("endpoint").Locals[0].Upstream().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	io.WriteString(a, "request")
	a.(*tunnel.Stream).CloseWrite()
	if got, err := io.ReadAll(b); string(got) != "request" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
	io.WriteString(b, "answer")
	b.(interface{ CloseWrite() error }).CloseWrite()
	if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
		t.Fatalf("read %q, %v", got, err)
	}
}

func TestServerThatRestartsHasItsListenersBackWithin2s(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", "")
	var st states
	var listeners []*Listener
	for range 20 {
		listeners = append(listeners, serve(t, &Client{URL: "http://" + n.addr, OnState: st.add}, "endpoint", echo))
	}
	n.waitFor(t, "endpoint", 20)
	n.stop()
	eventually(t, func() error {
		for _, ln := range listeners {
			if ln.Connected() {
				return errors.New("a listener says that it is connected to a server that stopped")
			}
		}
		return nil
	})
	lost := func(s State) bool {
		return !s.Connected && errors.Is(s.Err, tunnel.ErrClosedByPeer) && s.NodeID == "n1"
	}
	eventually(t, func() error {
		if !st.has(lost) {
			return errors.New("OnState was not told that a tunnel was lost")
		}
		return nil
	})
	// Some attempts fail, so that pauses have grown when the server is back.
	eventually(t, func() error {
		if !st.has(func(s State) bool { return s.Err != nil && s.Retry > firstPause }) {
			return errors.New("no failed attempts")
		}
		return nil
	})
	again := startNode(t, "n1-again", n.addr)
	back := time.Now()
	again.waitFor(t, "endpoint", 20)
	if took := time.Since(back); took > shortPause+500*time.Millisecond {
		t.Errorf("the last listener was back after %v", took)
	}
	if got, err := post("endpoint", "hello", again); got != "hello" || err != nil {
		t.Errorf("answer %q, %v", got, err)
	}
}

// answers is a server that refuses with one answer after another, the last one
// again and again.
func answers(t *testing.T, refuse ...http.HandlerFunc) (url string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		h := refuse[0]
		if len(refuse) > 1 {
			refuse = refuse[1:]
		}
		h(w, r)
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	t.Cleanup(func() {
		srv.Close()
		wg.Wait()
	})
	return "http://" + ln.Addr().String()
}

func page(status int, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { http.Error(w, body, status) }
}

func refusal(code fault.Code) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) { fault.Write(w, r, fault.New(code, nil)) }
}

func oldRefusal(status int, text string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(status)
		fmt.Fprintf(w, `{"error":%q}`, text)
	}
}

func TestWhatListenGivesUpOn(t *testing.T) {
	for _, c := range []struct {
		name      string
		refuse    http.HandlerFunc
		mayChange bool
		final     bool
		code      fault.Code
	}{
		{"400 of ours", refusal(fault.InvalidEndpoint), false, true, fault.InvalidEndpoint},
		{"400 of anybody", page(400, "bad request"), false, true, ""},
		{"401 of ours", refusal(fault.ExpiredToken), false, true, fault.ExpiredToken},
		{"401 of ours, the token may change", refusal(fault.ExpiredToken), true, false, fault.ExpiredToken},
		{"401 of v0.9.0", oldRefusal(401, "invalid token"), false, true, fault.InvalidToken},
		{"401 of a load balancer", page(401, "log in"), false, false, ""},
		{"403 of ours", refusal(fault.Forbidden), false, true, fault.Forbidden},
		{"403 of a load balancer", page(403, "blocked"), false, false, ""},
		{"404", page(404, "no such page"), false, false, ""},
		{"301", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusMovedPermanently)
		}, false, false, ""},
		{"503 of ours", refusal(fault.Draining), false, false, fault.Draining},
		{"409 of ours, though nothing was named", refusal(fault.DuplicateTunnel), false, false, fault.DuplicateTunnel},
		{"502 of a load balancer", page(502, "<html><title>502 Bad Gateway</title></html>"), false, false, ""},
		{"200", page(200, "hello"), false, false, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			ctx, giveUp := context.WithTimeout(t.Context(), 10*time.Second)
			defer giveUp()
			tried := 0 // the server's, which Listen waits for
			url := answers(t, func(w http.ResponseWriter, r *http.Request) {
				if tried++; tried == 4 {
					giveUp()
				}
				c.refuse(w, r)
			})
			ln, err := (&Client{URL: url, TokenMayChange: c.mayChange}).Listen(ctx, "endpoint")
			if err == nil {
				ln.Close()
				t.Fatal("connected")
			}
			refused, ok := errors.AsType[*fault.Refused](err)
			if !ok || refused.Code != c.code {
				t.Errorf("the error %v does not say %q", err, c.code)
			}
			if ended := errors.Is(err, context.Canceled); ended == c.final {
				t.Errorf("final %v, want %v: %v", !ended, c.final, err)
			}
		})
	}
}

func TestListenRefusesWhatCannotWork(t *testing.T) {
	for name, c := range map[string]struct {
		client   Client
		endpoint string
		want     error
	}{
		"no endpoint":   {Client{}, "", fault.MissingEndpoint},
		"bad endpoint":  {Client{}, "my endpoint", fault.InvalidEndpoint},
		"scheme":        {Client{URL: "ftp://localhost"}, "endpoint", nil},
		"no host":       {Client{URL: "localhost:8001"}, "endpoint", nil},
		"rubbish":       {Client{URL: "http://%zz"}, "endpoint", nil},
		"rubbish proxy": {Client{ProxyURL: "://"}, "endpoint", nil},
	} {
		ln, err := c.client.Listen(t.Context(), c.endpoint)
		if err == nil {
			ln.Close()
			t.Errorf("%s: connected", name)
		}
		if c.want != nil && !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A listener that was connected once comes back whatever it meets meanwhile.
func TestListenerNeverGivesUpOnceConnected(t *testing.T) {
	t.Parallel()
	n := startNode(t, "n1", "")
	met := make(chan struct{})
	url := answers(t, refusal(fault.InvalidToken), refusal(fault.InvalidEndpoint), page(404, "no"), page(200, "<html>"),
		func(w http.ResponseWriter, r *http.Request) { close(met); page(500, "")(w, r) }, page(500, ""))
	lb := startBalancer(t, func() string { return n.addr })
	serve(t, &Client{URL: lb.url}, "endpoint", echo)
	n.waitFor(t, "endpoint", 1)
	lb.set(url[len("http://"):])
	n.stop()
	<-met
	again := startNode(t, "n1", "")
	lb.set(again.addr)
	again.waitFor(t, "endpoint", 1)
}

func TestKilledMidStream(t *testing.T) {
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	n.waitFor(t, "endpoint", 1)
	a, err := n.Table.Lookup("endpoint").Locals[0].Upstream().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	b, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	io.WriteString(a, "half")
	io.ReadFull(b, make([]byte, 4))
	n.stop()
	if _, err := b.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("a connection that was cut reads %v, as if it had ended", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the other end reads %v, as if it had ended", err)
	}
}

func TestShutdownEndsWhatIsUnderWay(t *testing.T) {
	n := startNode(t, "n1", "")
	begun, release := make(chan struct{}), make(chan struct{})
	ln := serve(t, &Client{URL: "http://" + n.addr}, "endpoint", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		begun <- struct{}{}
		<-release
		io.WriteString(w, "late")
	}))
	n.waitFor(t, "endpoint", 1)
	result := make(chan error, 1)
	go func() {
		got, err := post("endpoint", "", n)
		if err == nil && got != "late" {
			err = fmt.Errorf("read %q", got)
		}
		result <- err
	}()
	<-begun
	stopped := make(chan error, 1)
	go func() { stopped <- ln.Shutdown(t.Context()) }()
	n.waitFor(t, "endpoint", 0)
	close(release)
	if err := <-result; err != nil {
		t.Errorf("the request under way: %v", err)
	}
	if err := <-stopped; err != nil {
		t.Errorf("shutdown: %v", err)
	}
	if _, err := ln.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after shutdown: %v", err)
	}
}

// Until the server has said which stream was its last, there may come another.
func TestShutdownServesWhatComesBeforeDrained(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	drain := make(chan struct{})
	sessions := make(chan *tunnel.Session, 1)
	srv := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		opt := tunnel.Options{Events: tunnel.Events{Drain: func(tunnel.DrainMessage) { close(drain) }}}
		sess, err := tunnel.Accept(w, r, tunnel.Reply{Features: []string{tunnel.FeatureControl}}, opt)
		if err != nil {
			t.Error(err)
		}
		sessions <- sess
	})}
	var wg sync.WaitGroup
	wg.Go(func() { srv.Serve(ln) })
	defer wg.Wait()
	defer srv.Close()
	l := serve(t, &Client{URL: "http://" + ln.Addr().String()}, "endpoint", echo)
	sess := <-sessions
	defer sess.Close()
	stopped := make(chan error, 1)
	go func() { stopped <- l.Shutdown(t.Context()) }()
	select {
	case <-drain:
	case <-sess.Done():
		t.Fatalf("the tunnel ended before the server was asked: %v", sess.Err())
	}
	<-time.After(200 * time.Millisecond) // a busy server; nothing tells that a client waits
	st, err := sess.Open(t.Context())
	if err != nil {
		t.Fatalf("open before drained: %v", err)
	}
	defer st.Close()
	sess.Drained(sess.LastStreamID())
	io.WriteString(st, "POST / HTTP/1.0\r\nContent-Length: 5\r\n\r\nhello")
	if got, err := io.ReadAll(st); err != nil || !strings.HasSuffix(string(got), "hello") {
		t.Errorf("read %q, %v", got, err)
	}
	st.Close()
	if err := <-stopped; err != nil {
		t.Error(err)
	}
}

func TestShutdownCutsWhenItsTimeIsUp(t *testing.T) {
	n := startNode(t, "n1", "")
	ln, err := (&Client{URL: "http://" + n.addr, Protocol: "tcp"}).Listen(t.Context(), "endpoint")
	if err != nil {
		t.Fatal(err)
	}
	n.waitFor(t, "endpoint", 1)
	a, err := n.Table.Lookup("endpoint").Locals[0].Upstream().Open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer a.Close()
	if _, err := ln.Accept(); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if err := ln.Shutdown(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("shutdown with a stream that does not end: %v", err)
	}
	if _, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
		t.Errorf("the stream that was cut reads %v", err)
	}
}

func TestShutdownWhileDisconnected(t *testing.T) {
	n := startNode(t, "n1", "")
	ln := serve(t, &Client{URL: "http://" + n.addr}, "endpoint", echo)
	n.stop()
	if err := ln.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
}
