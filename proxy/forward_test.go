package proxy

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"piko/router"
)

var errDial = errors.New("dial refused")

func noDial(context.Context) (net.Conn, error) { return nil, errDial }

// hangUp is a service that reads a request's head and hangs up.
func hangUp(n *atomic.Int32) func(net.Conn, *bufio.Reader) {
	return func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err == nil {
			n.Add(1)
		}
	}
}

func TestErrors(t *testing.T) {
	t.Parallel()
	everyWay(t, testErrors)
}

func testErrors(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.add("down", noDial)
	hasty := newWorld(t, func(o *Options) { o.Timeout = 30 * time.Millisecond })
	hasty.serve("slow", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	down := `502 {"error":"upstream unreachable","code":"upstream-unreachable"}`
	if w.way != noHop { // nothing has left the owner: an upstream may come up elsewhere, and in the end there is none
		down = `502 {"error":"no available upstreams","code":"no-upstream"}`
	}
	var n atomic.Int32
	w.serveRaw("hangs-up", hangUp(&n))
	w.serveRaw("rubbish", func(c net.Conn, r *bufio.Reader) {
		http.ReadRequest(r)
		io.WriteString(c, "SSH-2.0-OpenSSH\r\n\r\n")
	})
	for _, tt := range []struct {
		w              *world
		endpoint, want string
	}{
		{w, "nobody", `502 {"error":"no available upstreams","code":"no-upstream"}`},
		{w, "down", down},
		{w, "hangs-up", `502 {"error":"upstream unreachable","code":"upstream-unreachable"}`},
		{w, "rubbish", `502 {"error":"upstream unreachable","code":"upstream-unreachable"}`},
		{hasty, "slow", `504 {"error":"upstream timeout","code":"upstream-timeout"}`},
	} {
		for _, method := range []string{"GET", "POST"} {
			status, body, _ := tt.w.do(method, "/", nil, "X-Piko-Endpoint", tt.endpoint)
			if got := fmt.Sprintf("%d %s", status, strings.TrimSpace(body)); got != tt.want {
				t.Errorf("%s %s: got %s, want %s", method, tt.endpoint, got, tt.want)
			}
		}
	}
}

// Retry rule (a): what was never executed is tried elsewhere, whatever the method and with its body.
func TestNeverExecutedIsTriedElsewhere(t *testing.T) {
	t.Parallel()
	everyWay(t, testNeverExecutedIsTriedElsewhere)
}

func testNeverExecutedIsTriedElsewhere(t *testing.T, newWorld worldMaker) {
	for _, tt := range []struct {
		name string
		body int
	}{{"no body", 0}, {"small body", 100}, {"body that is kept", 64 << 10}, {"long body, unread", 1 << 20}} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWorld(t, nil)
			broken := w.add("e", noDial)
			w.serve("e", func(w http.ResponseWriter, r *http.Request) {
				n, err := io.Copy(io.Discard, r.Body)
				fmt.Fprint(w, n, err)
			})
			for range 20 {
				broken.Succeeded() // so that it is chosen again
				body := bytes.NewReader(make([]byte, tt.body))
				if status, got, _ := w.do("POST", "/", body); status != 200 || got != fmt.Sprint(tt.body, " <nil>") {
					t.Fatalf("got %d %q", status, got)
				}
			}
		})
	}
}

// A stream that was refused after the request had been written was never executed either: what was kept of the body
// goes to another upstream, and a body that was not kept cannot.
func TestRefusedStreamIsTriedElsewhere(t *testing.T) {
	t.Parallel()
	everyWay(t, testRefusedStreamIsTriedElsewhere)
}

func testRefusedStreamIsTriedElsewhere(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	var refused, taken atomic.Int32
	broken := w.add("e", func(context.Context) (net.Conn, error) {
		refused.Add(1)
		a, b := net.Pipe()
		go func() { // takes what comes for a while, as a window would
			io.CopyN(io.Discard, b, int64(taken.Load()))
			b.Close()
		}()
		return &refusing{a}, nil
	})
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		n, err := io.Copy(io.Discard, r.Body)
		fmt.Fprint(w, n, err)
	})
	for _, tt := range []struct {
		size    int
		chunked bool
		want    string
	}{
		{0, false, "200 0 <nil>"}, {100, false, "200 100 <nil>"}, {60 << 10, false, "200 61440 <nil>"}, {60 << 10, true, "200 61440 <nil>"},
		{1 << 20, false, "502"}, {1 << 20, true, "502"},
	} {
		refused.Store(0)
		taken.Store(int32(1 + tt.size/5))
		for refused.Load() == 0 {
			broken.Succeeded()
			var body io.Reader = bytes.NewReader(make([]byte, tt.size))
			if tt.chunked {
				body = io.MultiReader(body)
			}
			status, got, _ := w.do("POST", "/", body)
			if got = fmt.Sprint(status, " ", got); refused.Load() > 0 && !strings.HasPrefix(got, tt.want) {
				t.Errorf("%+v: got %q", tt, got)
			}
		}
	}
}

// refusing is a stream whose peer resets it before it accepted it.
type refusing struct{ net.Conn }

func (c *refusing) Read(p []byte) (int, error) {
	_, err := c.Conn.Read(p)
	if err != nil {
		err = refusedError{}
	}
	return 0, err
}

func (c *refusing) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	if err != nil {
		err = refusedError{}
	}
	return n, err
}

type refusedError struct{}

func (refusedError) Error() string { return "stream refused" }
func (refusedError) Refused() bool { return true }

// Retry rule (b): an idempotent request without a byte of response is tried again, another never is.
func TestOnlyIdempotentRequestsAreSentTwice(t *testing.T) {
	theseWays(t, testOnlyIdempotentRequestsAreSentTwice, noHop, manyNodes) // the owner leaves that to the entry node
}

func testOnlyIdempotentRequestsAreSentTwice(t *testing.T, newWorld worldMaker) {
	for method, want := range map[string]int{"GET": 3, "HEAD": 3, "OPTIONS": 3, "TRACE": 3, "PUT": 3, "DELETE": 3, "POST": 1, "PATCH": 1, "get": 1} {
		t.Run(method, func(t *testing.T) {
			w := newWorld(t, nil)
			var n atomic.Int32
			for range 5 {
				w.serveRaw("e", hangUp(&n))
			}
			if status, _, _ := w.do(method, "/", nil); status != 502 {
				t.Errorf("got %d", status)
			}
			if int(n.Load()) != want {
				t.Errorf("was sent %d times, want %d", n.Load(), want)
			}
		})
	}
}

// The same candidate is never tried twice, and a response byte ends all retries.
func TestNoSecondChance(t *testing.T) { everyWay(t, testNoSecondChance) }

func testNoSecondChance(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	var n atomic.Int32
	w.serveRaw("e", hangUp(&n))
	w.do("GET", "/", nil)
	if n.Load() != 1 {
		t.Errorf("the only upstream was tried %d times", n.Load())
	}
	w2 := newWorld(t, nil)
	n.Store(0)
	for range 3 {
		w2.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
			http.ReadRequest(r)
			n.Add(1)
			io.WriteString(c, "HTTP/1.1 2")
		})
	}
	if status, _, _ := w2.do("GET", "/", nil); status != 502 || n.Load() != 1 {
		t.Errorf("got %d after %d attempts", status, n.Load())
	}
}

// An agent that says that its service is down is passed over if that is safe, and believed if nobody is left.
func TestAgentWithoutService(t *testing.T) {
	theseWays(t, testAgentWithoutService, noHop, manyNodes) // the owner leaves that to the entry node
}

func testAgentWithoutService(t *testing.T, newWorld worldMaker) {
	down := func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Piko-Error", "upstream-unreachable")
		w.WriteHeader(502)
		io.WriteString(w, "from the agent")
	}
	w := newWorld(t, nil)
	agent := w.serve("e", down)
	for _, method := range []string{"GET", "POST"} {
		if status, body, res := w.do(method, "/", nil); status != 502 || body != "from the agent" || res.Header.Get("X-Piko-Error") != "upstream-unreachable" {
			t.Errorf("%s: got %d %q", method, status, body)
		}
	}
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "fine") })
	for range 20 {
		agent.Succeeded()
		if status, body, _ := w.do("GET", "/", nil); status != 200 || body != "fine" {
			t.Errorf("got %d %q", status, body)
		}
	}
}

// A broken upstream is avoided for a while; what clients do wrong never counts against it.
func TestPassiveEjection(t *testing.T) { everyWay(t, testPassiveEjection) }

func testPassiveEjection(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.ReadTimeout = 20 * time.Millisecond })
	var n atomic.Int32
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		if _, err := io.ReadAll(r.Body); err == nil {
			n.Add(1)
		}
	})
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { io.ReadAll(r.Body) })
	for range 20 {
		w.talk("POST / HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n")
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 10\r\n\r\nabc")
		c.Close()
	}
	if got := w.talk("POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 10\r\n\r\nabc"); !strings.HasPrefix(got, "HTTP/1.1 408 ") || !strings.Contains(got, "Connection: close") {
		t.Errorf("a body that stays away: %q", got)
	}
	for range 40 {
		w.do("POST", "/", nil)
	}
	if n.Load() < 5 {
		t.Errorf("an upstream got %d of 40 requests after clients had misbehaved", n.Load())
	}
	var dials atomic.Int32
	broken := w.add("f", func(context.Context) (net.Conn, error) { dials.Add(1); return nil, errDial })
	w.serve("f", func(w http.ResponseWriter, r *http.Request) {})
	for dials.Load() == 0 {
		w.do("GET", "/", nil, "X-Piko-Endpoint", "f")
	}
	if w.chosen("f", broken) {
		t.Error("an upstream that just failed is chosen")
	}
}

// chosen reports whether a candidate is chosen at all beside a healthy one.
func (w *world) chosen(endpoint string, l *router.Local) bool {
	for i := range uint64(100) {
		if w.table.Lookup(endpoint).Pick(time.Now(), i*0x9e3779b97f4a7c15, nil).Local == l {
			return true
		}
	}
	return false
}

// A client that goes away before or within a response says nothing about the upstream; one that breaks off does.
func TestWhoIsToBlame(t *testing.T) {
	theseWays(t, testWhoIsToBlame, noHop, oneOwner, laneOwner) // the draining upstream, at a node of its own, would be asked and blamed
}

func testWhoIsToBlame(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	served := make(chan struct{}, 1)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		served <- struct{}{}
		switch r.URL.Path {
		case "/wait":
			<-r.Context().Done()
		case "/endless":
			for r.Context().Err() == nil {
				w.Write(make([]byte, 32<<10))
			}
		case "/half":
			io.WriteString(w, "half") // in chunks: without the abort they would look whole
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	for path, blamed := range map[string]bool{"/wait": false, "/endless": false, "/half": true} {
		l.Succeeded()
		other := w.add("e", noDial)
		other.SetDraining(true) // so that requests go to l
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: e.x\r\n\r\n")
		<-served
		if path == "/half" {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err == nil {
				_, err = io.ReadAll(res.Body)
			}
			if err == nil {
				t.Error("the client took half an answer for a whole one")
			}
		}
		c.Close()
		eventually(t, idle(l))
		other.SetDraining(false)
		if w.chosen("e", l) == blamed {
			t.Errorf("%s: upstream blamed: %v, want %v", path, !blamed, blamed)
		}
	}
}

// Running out of time is final: another upstream would start the wait again.
func TestTimeoutIsFinal(t *testing.T) { everyWay(t, testTimeoutIsFinal) }

func testTimeoutIsFinal(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = 200 * time.Millisecond })
	var n atomic.Int32
	var all []*router.Local
	for range 3 {
		all = append(all, w.serve("e", func(_ http.ResponseWriter, r *http.Request) {
			n.Add(1)
			<-r.Context().Done()
		}))
	}
	if status, _, _ := w.do("GET", "/", nil); status != 504 || n.Load() != 1 {
		t.Errorf("got %d after %d attempts", status, n.Load())
	}
	if w.way != noHop {
		return // the entry node's clock says it, and the owner cannot tell it from a client that left
	}
	blamed := 0
	for _, l := range all {
		if !w.chosen("e", l) {
			blamed++
		}
	}
	if blamed != 1 {
		t.Errorf("%d upstreams were blamed", blamed)
	}
}

// A request that is out after its response has begun is not waited for.
func TestNoTimeoutBehindAnEarlyResponse(t *testing.T) {
	t.Parallel()
	everyWay(t, testNoTimeoutBehindAnEarlyResponse)
}

func testNoTimeoutBehindAnEarlyResponse(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = 250 * time.Millisecond })
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		rc := http.NewResponseController(w)
		rc.EnableFullDuplex()
		rc.Flush()
		io.Copy(io.Discard, r.Body)
		<-time.After(400 * time.Millisecond)
		io.WriteString(w, "whole")
	})
	in, out := io.Pipe()
	time.AfterFunc(300*time.Millisecond, func() { out.Close() })
	if status, body, _ := w.do("POST", "/", in); status != 200 || body != "whole" {
		t.Errorf("got %d %q", status, body)
	}
}

// The time that an upstream has begins with the last byte of the request.
func TestTimeoutStartsBehindTheRequest(t *testing.T) {
	t.Parallel()
	everyWay(t, testTimeoutStartsBehindTheRequest)
}

func testTimeoutStartsBehindTheRequest(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = 150 * time.Millisecond })
	gone := make(chan struct{}, 1)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		switch r.URL.Path {
		case "/never":
			<-r.Context().Done()
			gone <- struct{}{}
		case "/slow-body":
			http.NewResponseController(w).Flush()
			<-time.After(200 * time.Millisecond)
			io.WriteString(w, "late")
		}
	})
	in, out := io.Pipe()
	go func() { // an upload that takes longer than the time-out
		for range 6 {
			<-time.After(50 * time.Millisecond)
			io.WriteString(out, "x")
		}
		out.Close()
	}()
	if status, _, _ := w.do("POST", "/", in); status != 200 {
		t.Errorf("slow upload: got %d", status)
	}
	if status, body, _ := w.do("GET", "/slow-body", nil); status != 200 || body != "late" {
		t.Errorf("slow body: got %d %q", status, body)
	}
	for _, method := range []string{"GET", "POST"} {
		if status, _, _ := w.do(method, "/never", strings.NewReader("x")); status != 504 {
			t.Errorf("%s without an answer: got %d", method, status)
		}
		<-gone // the upstream was told
	}
	ctx, cancel := context.WithTimeout(t.Context(), 400*time.Millisecond)
	defer cancel()
	req, _ := http.NewRequestWithContext(ctx, "POST", "http://"+w.addr+"/never", nil)
	req.Header.Set("X-Piko-Endpoint", "e")
	req.Header.Set("Content-Type", "application/grpc+proto")
	tr := &http.Transport{}
	defer tr.CloseIdleConnections()
	if res, err := tr.RoundTrip(req); err == nil {
		res.Body.Close()
		t.Errorf("gRPC has a time-out of its own, got %d", res.StatusCode)
	}
	<-gone
}

// Wherever a client goes away, its upstream hears of it at once, and nothing stays behind.
func TestClientAborts(t *testing.T) {
	t.Parallel()
	everyWay(t, testClientAborts)
}

func testClientAborts(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	started, gone := make(chan struct{}, 1), make(chan struct{}, 1)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		started <- struct{}{}
		defer func() { gone <- struct{}{} }()
		switch r.URL.Path {
		case "/down":
			for r.Context().Err() == nil {
				w.Write(make([]byte, 32<<10))
			}
		case "/up":
			io.Copy(io.Discard, r.Body)
		default:
			<-r.Context().Done()
		}
	})
	for _, request := range []string{
		"GET /wait HTTP/1.1\r\nHost: e.x\r\n\r\n",
		"GET /down HTTP/1.1\r\nHost: e.x\r\n\r\n",
		"POST /up HTTP/1.1\r\nHost: e.x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
		"POST /up HTTP/1.1\r\nHost: e.x\r\nContent-Length: 500000\r\n\r\nabc",
	} {
		for range 20 {
			c, err := net.Dial("tcp", w.addr)
			if err != nil {
				t.Fatal(err)
			}
			io.WriteString(c, request)
			<-started
			<-time.After(2 * time.Millisecond)
			c.Close()
			select {
			case <-gone:
			case <-time.After(5 * time.Second):
				t.Fatalf("%.20q: the service was not told", request)
			}
			eventually(t, idle(l))
		}
	}
}

// A client that reads nothing loses a response of known length, but not a stream.
func TestClientThatReadsNothing(t *testing.T) { everyWay(t, testClientThatReadsNothing) }

func testClientThatReadsNothing(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.WriteTimeout = 50 * time.Millisecond })
	ended := make(chan struct{}, 1)
	l := w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/length" {
			w.Header().Set("Content-Length", "1000000000")
		}
		for {
			if _, err := w.Write(make([]byte, 64<<10)); err != nil {
				ended <- struct{}{}
				return
			}
		}
	})
	for path, limit := range map[string]time.Duration{"/length": 30 * time.Second, "/stream": 300 * time.Millisecond} {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET "+path+" HTTP/1.1\r\nHost: e.x\r\n\r\n")
		cut := false
		select {
		case <-ended:
			cut = true
		case <-time.After(limit):
		}
		if want := path == "/length"; cut != want {
			t.Errorf("%s: cut is %t, want %t", path, cut, want)
		}
		c.Close()
		if !cut {
			<-ended
		}
		eventually(t, idle(l))
	}
}

// In a drain every response closes its connection.
func TestDraining(t *testing.T) { everyWay(t, testDraining) }

func testDraining(t *testing.T, newWorld worldMaker) {
	var draining atomic.Bool
	w := newWorld(t, func(o *Options) { o.Draining = draining.Load })
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "x") })
	for _, drain := range []bool{false, true} {
		draining.Store(drain)
		for _, request := range []string{"GET / HTTP/1.1\r\nHost: e.x\r\n\r\n", "GET / HTTP/1.1\r\nHost: nobody.x\r\n\r\n", "GET / HTTP/1.1\r\nHost: a\r\n\r\n"} {
			got := w.talk(request + closing)
			if n := strings.Count(got, "HTTP/1.1 "); n != map[bool]int{true: 1, false: 2}[drain] || strings.Count(got, "Connection: close") != 1 {
				t.Errorf("draining %v: got %q", drain, got)
			}
		}
	}
}

// HTTP/1.0 connections carry one request: what net/http ignored of its framing is never read as another.
func TestHTTP10Closes(t *testing.T) { everyWay(t, testHTTP10Closes) }

func testHTTP10Closes(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "x") })
	smuggled := "GET /smuggled HTTP/1.1\r\nHost: e.x\r\n\r\n"
	got := w.talk("POST / HTTP/1.0\r\nHost: e.x\r\nConnection: keep-alive\r\nTransfer-Encoding: chunked\r\n\r\n" + smuggled)
	if strings.Count(got, "HTTP/1.") != 1 || !strings.HasPrefix(got, "HTTP/1.0 200 OK\r\nConnection: close\r\n") {
		t.Errorf("got %q", got)
	}
}

// An upgrade is a connection of its own: bytes both ways, sent along with the handshake too, and half-closed both ways.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	everyWay(t, testUpgrade)
}

func testUpgrade(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, func(o *Options) { o.Timeout = 250 * time.Millisecond })
	service := func(c net.Conn, r *bufio.Reader) {
		req, err := http.ReadRequest(r)
		if err != nil {
			return
		}
		body, _ := io.ReadAll(req.Body)
		<-time.After(300 * time.Millisecond) // longer than the time-out, which is not for upgrades
		fmt.Fprintf(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: %s\r\nX-Piko-Miss: x\r\nX-Body: %s\r\n\r\nhello ", req.Header.Get("Upgrade"), body)
		b, _ := io.ReadAll(r)
		c.Write(bytes.ToUpper(b))
	}
	l := w.serveRaw("e", service)
	for _, tt := range []struct{ request, head string }{
		{"GET / HTTP/1.1\r\nHost: e.x\r\nConnection: keep-alive, upgrade\r\nUpgrade: websocket\r\n\r\n",
			"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nX-Body: \r\n\r\n"},
		{"POST / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: tcp, h2c\r\nContent-Length: 3\r\n\r\nabc",
			"HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: tcp\r\nX-Body: abc\r\n\r\n"},
	} {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, tt.request+"early, ")
		<-time.After(20 * time.Millisecond)
		io.WriteString(c, "late")
		c.(*net.TCPConn).CloseWrite()
		b, err := io.ReadAll(c)
		c.Close()
		got := string(b)
		head, body, _ := strings.Cut(got, "\r\n\r\n")
		if err != nil || body != "hello EARLY, LATE" || sortLines(head) != sortLines(strings.TrimSuffix(tt.head, "\r\n\r\n")) {
			t.Errorf("got %q, %v, want %q", got, err, tt.head)
		}
		eventually(t, idle(l))
	}
}

func sortLines(s string) string {
	lines := strings.Split(s, "\r\n")
	for i := range lines {
		for j := i + 1; j < len(lines); j++ {
			if lines[j] < lines[i] {
				lines[i], lines[j] = lines[j], lines[i]
			}
		}
	}
	return strings.Join(lines, "|")
}

// The end of either side of an upgraded connection ends the other.
func TestUpgradeEnds(t *testing.T) { everyWay(t, testUpgradeEnds) }

func testUpgradeEnds(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	service := make(chan net.Conn)
	ended := make(chan error)
	l := w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		if _, err := http.ReadRequest(r); err != nil {
			return
		}
		io.WriteString(c, "HTTP/1.1 101 Go\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		service <- c
		_, err := r.ReadByte()
		ended <- err
	})
	dial := func() (*net.TCPConn, *bufio.Reader) {
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		io.WriteString(c, "GET / HTTP/1.1\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: x\r\n\r\n")
		r := bufio.NewReader(c)
		if _, err := http.ReadResponse(r, nil); err != nil {
			t.Fatal(err)
		}
		return c.(*net.TCPConn), r
	}
	c, _ := dial()
	<-service
	c.SetLinger(0)
	c.Close()
	if err := <-ended; err == nil {
		t.Error("the service was not told that the client is gone")
	}
	eventually(t, idle(l))
	c, r := dial()
	s := <-service
	s.(*net.TCPConn).SetLinger(0)
	s.Close()
	<-ended
	if _, err := r.ReadByte(); err == nil {
		t.Error("the client was not told that the service is gone")
	}
	c.Close()
	eventually(t, idle(l))
}

// Two clients of a service that answers twice: the second answer belongs to nobody.
func TestPoisonedResponses(t *testing.T) { everyWay(t, testPoisonedResponses) }

func testPoisonedResponses(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			body := req.URL.Path
			answer := fmt.Sprintf("HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
			io.WriteString(c, answer+"HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil")
		}
	})
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			for j := range 50 {
				path := fmt.Sprintf("/%d/%d", i, j)
				if status, body, _ := w.do("GET", path, nil); status != 200 || body != path {
					t.Errorf("asked for %s, got %d %q", path, status, body)
				}
			}
		})
	}
	wg.Wait()
}

// Retries are bounded: when everything fails they add a fifth at most, but ten a second are always allowed.
func TestRetryBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBudget(time.Now())
		ask := func(n int) (granted int) {
			for range n {
				if b.retry(time.Now()) {
					granted++
				}
			}
			return granted
		}
		if n := ask(1000); n != budgetFloor {
			t.Errorf("without requests: %d retries", n)
		}
		for range 10_000 {
			b.request()
		}
		if n := ask(10_000); n != 2000-budgetFloor {
			t.Errorf("%d retries for 10,000 requests", n)
		}
		time.Sleep(budgetWindow)
		if n := ask(1000); n != 0 {
			t.Errorf("one window later: %d retries", n)
		}
		time.Sleep(budgetWindow)
		if n := ask(1000); n != budgetFloor {
			t.Errorf("two windows later: %d retries", n)
		}
		time.Sleep(time.Hour)
		if n := ask(1000); n != budgetFloor {
			t.Errorf("an hour later: %d retries", n)
		}
	})
}

func TestRetriesStayWithinTheBudget(t *testing.T) { everyWay(t, testRetriesStayWithinTheBudget) }

func testRetriesStayWithinTheBudget(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	var n atomic.Int32
	for range 3 {
		w.serveRaw("e", hangUp(&n))
	}
	for range 1000 {
		w.talk("GET / HTTP/1.1\r\nHost: e.x\r\nConnection: close\r\n\r\n")
	}
	if n := int(n.Load()); n < 1000 || n > 1200 {
		t.Errorf("1000 requests were sent %d times", n)
	}
}

// The table is asked again for each attempt: an upstream that came back meanwhile is a new candidate.
func TestLookupIsRepeated(t *testing.T) { everyWay(t, testLookupIsRepeated) }

func testLookupIsRepeated(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.add("e", func(context.Context) (net.Conn, error) {
		w.serve("e", func(w http.ResponseWriter, r *http.Request) { ok(w, "back") })
		return nil, errDial
	})
	if status, body, _ := w.do("POST", "/", nil); status != 200 || body != "back" {
		t.Errorf("got %d %q", status, body)
	}
}

// RFC 9110, section 7.8: a client of HTTP/1.0 cannot upgrade, and would take the 101 for the answer.
func TestHTTP10CannotUpgrade(t *testing.T) { everyWay(t, testHTTP10CannotUpgrade) }

func testHTTP10CannotUpgrade(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		ok(w, fmt.Sprintf("%q %q", r.Header["Connection"], r.Header["Upgrade"]))
	})
	got := w.talk("GET / HTTP/1.0\r\nHost: e.x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
	if !strings.HasSuffix(got, "\r\n\r\n[] []") {
		t.Errorf("the service was asked to upgrade: %q", got)
	}
}

// A client of HTTP/1.0 takes the end of the connection for that of the response. nginx is one unless told otherwise.
func TestBrokenResponseLooksBrokenToHTTP10(t *testing.T) {
	everyWay(t, testBrokenResponseLooksBrokenToHTTP10)
}

func testBrokenResponseLooksBrokenToHTTP10(t *testing.T, newWorld worldMaker) {
	w := newWorld(t, nil)
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, "half of it")
		http.NewResponseController(w).Flush()
		panic(http.ErrAbortHandler)
	})
	c, err := net.Dial("tcp", w.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	c.SetDeadline(time.Now().Add(5 * time.Second))
	io.WriteString(c, "GET / HTTP/1.0\r\nHost: e.x\r\n\r\n")
	if got, err := io.ReadAll(c); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v; want a reset", got, err)
	}
}

var _ router.Upstream = upstream{}
