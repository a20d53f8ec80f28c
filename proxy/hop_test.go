package proxy

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/fault"
	"piko/relay"
	"piko/router"
)

// newHopWorld is an entry node without upstreams and so many owners.
func newHopWorld(t testing.TB, owners int, change func(*Options)) *world {
	w := newWorldFor(t, manyLanes, change)
	for range owners {
		w.ownerFor()
	}
	return w
}

// want fails the test if a request for "e" is not answered so.
func (w *world) want(method string, body io.Reader, status int, text string) {
	w.t.Helper()
	if got, answer, _ := w.do(method, "/", body); got != status || !strings.Contains(answer, text) {
		w.t.Errorf("%s: got %d %q, want %d %q", method, got, answer, status, text)
	}
}

func refuse(dials *atomic.Int32, err error) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) { dials.Add(1); return nil, err }
}

func sayOK(w http.ResponseWriter, r *http.Request) {
	n, err := io.Copy(io.Discard, r.Body)
	fmt.Fprint(w, "ok ", n, " ", err)
}

// A node that has nothing for a request says so, and the request goes to another one, whatever its method and with its
// body. It is nobody's failure.
func TestMissGoesElsewhere(t *testing.T) {
	t.Parallel()
	w := newHopWorld(t, 2, nil)
	w.owners[0].claim("e") // and has nothing
	s := httptest.NewServer(http.HandlerFunc(sayOK))
	t.Cleanup(s.Close)
	w.owners[1].local("e", dialTo(s.Listener.Addr().String()))
	for _, size := range []int{0, 1000, 64 << 10, 10 << 20} {
		for _, method := range []string{"GET", "POST", "PATCH"} {
			for range 3 {
				w.want(method, strings.NewReader(strings.Repeat("x", size)), 200, fmt.Sprint("ok ", size, " <nil>"))
				w.want(method, io.MultiReader(strings.NewReader(strings.Repeat("x", size))), 200, fmt.Sprint("ok ", size, " <nil>"))
			}
		}
	}
}

// A long upload is not drawn from the client before an owner has somewhere to send it.
func TestMissIsCheapForLongBodies(t *testing.T) {
	t.Parallel()
	for _, owners := range []int{1, 3} {
		var out lines
		w := newHopWorld(t, owners, func(o *Options) {
			o.AccessLog = accesslog.New(&out, accesslog.Config{Level: slog.LevelInfo}, accesslog.Options{})
		})
		for _, o := range w.owners {
			o.claim("e")
		}
		c, err := net.Dial("tcp", w.addr)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		go io.CopyN(io.MultiWriter(c), io.MultiReader(strings.NewReader("POST / HTTP/1.1\r\nHost: e.x\r\nContent-Length: 104857600\r\n\r\n"), endless{}), 100<<20)
		res, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil {
			t.Fatal(err)
		}
		if res.StatusCode != 502 || res.Header.Get("X-Piko-Error") != "no-upstream" {
			t.Errorf("got %d %v", res.StatusCode, res.Header)
		}
		eventually(t, func() error {
			lines := out.take()
			if len(lines) == 0 {
				return io.ErrNoProgress
			}
			if !strings.Contains(lines[0], `"bytes_in":0,`) {
				t.Errorf("%d owners: the body was read: %s", owners, lines[0])
			}
			return nil
		})
	}
}

// Three attempts in all, over both nodes, and the owner leaves one to another node if there is one.
func TestAttemptsOverBothNodes(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		owners, tunnels int
		healthy         bool
		want            string
		most            int32
	}{
		{1, 5, false, "502 no-upstream", 3},
		{2, 5, false, "502 no-upstream", 3},
		{5, 1, false, "502 no-upstream", 3},
		{1, 2, true, "200 ", 2},
	} {
		t.Run(fmt.Sprintf("%+v", tt), func(t *testing.T) {
			w := newHopWorld(t, tt.owners, nil)
			var dials atomic.Int32
			for _, o := range w.owners {
				for range tt.tunnels {
					o.local("e", refuse(&dials, errDial))
				}
			}
			if tt.healthy {
				s := httptest.NewServer(http.HandlerFunc(sayOK))
				t.Cleanup(s.Close)
				w.owners[0].local("e", dialTo(s.Listener.Addr().String()))
			}
			status, _, res := w.do("POST", "/", strings.NewReader("abc"))
			if got := fmt.Sprint(status, " ", res.Header.Get("X-Piko-Error")); got != tt.want || dials.Load() > tt.most || !tt.healthy && dials.Load() != tt.most {
				t.Errorf("got %s after %d attempts", got, dials.Load())
			}
		})
	}
	w := newHopWorld(t, 2, nil)
	var dials atomic.Int32
	for range 5 {
		w.owners[0].local("e", refuse(&dials, fault.New(fault.Draining, nil)))
	}
	s := httptest.NewServer(http.HandlerFunc(sayOK))
	t.Cleanup(s.Close)
	w.owners[1].local("e", dialTo(s.Listener.Addr().String()))
	for range 10 {
		w.want("POST", strings.NewReader("abc"), 200, "ok 3 <nil>")
	}
}

// Too much to do is said as it is, at once.
func TestOverloadedOwner(t *testing.T) {
	w := newHopWorld(t, 1, nil)
	var dials atomic.Int32
	w.owners[0].local("e", refuse(&dials, fault.New(fault.Overloaded, nil)))
	for range 3 {
		start := time.Now()
		status, _, res := w.do("POST", "/", nil)
		if status != 503 || res.Header.Get("X-Piko-Error") != "overloaded" || res.Header.Get("Retry-After") == "" {
			t.Errorf("got %d %v", status, res.Header)
		}
		if d := time.Since(start); d > waitTime {
			t.Errorf("took %v", d)
		}
	}
}

// Two nodes that each say that the other has the endpoint: one hop, then an answer.
func TestPoisonedTables(t *testing.T) {
	t.Parallel()
	var tables [2]*router.Table
	var nodes [2]*router.Node
	var hops [2]atomic.Int32
	var addrs [2]string
	for i := range tables {
		tables[i] = router.NewTable()
		peer, err := NewPeer(PeerOptions{Lookup: tables[i].Lookup})
		if err != nil {
			t.Fatal(err)
		}
		pool := &relay.Pool{Dial: dialTo(servePeer(t, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			hops[i].Add(1)
			peer.ServeHTTP(w, r)
		})))}
		t.Cleanup(pool.Close)
		nodes[i] = router.NewNode(fmt.Sprint("node-", i), func(e string) router.Upstream { return NewRemote(pool, e) })
	}
	for i := range tables {
		tables[i].SetNode(nodes[1-i], map[string]int{"e": 100})
		p, err := NewPublic(Options{Lookup: tables[i].Lookup})
		if err != nil {
			t.Fatal(err)
		}
		addrs[i] = servePeer(t, p)
	}
	for _, method := range []string{"GET", "POST"} {
		for i, addr := range addrs {
			hops[0].Store(0)
			hops[1].Store(0)
			w := &world{t: t, addr: addr}
			start := time.Now()
			w.want(method, strings.NewReader(strings.Repeat("x", 1000)), 502, "no-upstream")
			if d := time.Since(start); d > 3*waitTime {
				t.Errorf("answered after %v", d)
			}
			if hops[i].Load() != 0 || hops[1-i].Load() > 1 {
				t.Errorf("%d hops back, %d hops out", hops[i].Load(), hops[1-i].Load())
			}
		}
	}
}

// A node that cannot be reached is passed over, free of charge, and avoided.
func TestUnreachableNode(t *testing.T) {
	w := newHopWorld(t, 2, nil)
	var dials atomic.Int32
	w.owners[0].claim("e")
	w.owners[0].link.Dial = refuse(&dials, errDial)
	s := httptest.NewServer(http.HandlerFunc(sayOK))
	t.Cleanup(s.Close)
	w.owners[1].local("e", dialTo(s.Listener.Addr().String()))
	for dials.Load() == 0 {
		w.want("POST", strings.NewReader("abc"), 200, "ok 3 <nil>")
	}
	for i := range uint64(50) {
		if w.entry.Lookup("e").Pick(time.Now(), i<<56, nil).Node == w.owners[0].node {
			t.Fatal("a node that was just unreachable is chosen")
		}
	}
}

// A node that breaks before it answers: what may be sent twice goes elsewhere, within the budget, and a POST does not.
func TestBrokenNode(t *testing.T) {
	w := newHopWorld(t, 2, nil)
	var broken atomic.Int32
	w.serveRaw("unused", hangUp(&broken))
	o := w.owners[0]
	o.claim("e")
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	t.Cleanup(func() { ln.Close(); wg.Wait() })
	wg.Go(func() {
		for {
			c, err := ln.Accept()
			if err != nil {
				return
			}
			hangUp(&broken)(c, bufio.NewReader(c))
			c.Close()
		}
	})
	o.link.Dial = dialTo(ln.Addr().String())
	s := httptest.NewServer(http.HandlerFunc(sayOK))
	t.Cleanup(s.Close)
	w.owners[1].local("e", dialTo(s.Listener.Addr().String()))
	for broken.Load() == 0 {
		w.want("GET", nil, 200, "ok")
	}
	for broken.Store(0); broken.Load() == 0; {
		o.node.Succeeded()
		if status, _, _ := w.do("POST", "/", nil); status != 200 && status != 502 || status == 502 && broken.Load() != 1 {
			t.Errorf("got %d after %d attempts", status, broken.Load())
		}
	}
}

// A service that breaks off says nothing about its node, on which other services are.
func TestServiceIsNotItsNode(t *testing.T) {
	w := newHopWorld(t, 2, nil)
	var n atomic.Int32
	w.serveRaw("unused", hangUp(&n))
	half := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/half" {
			w.Write(make([]byte, 100_000))
		}
		panic(http.ErrAbortHandler)
	}))
	half.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, 0)
	t.Cleanup(half.Close)
	w.owners[0].local("e", dialTo(half.Listener.Addr().String()))
	w.owners[0].claim("f")
	w.owners[1].claim("f")
	for _, path := range []string{"/half", "/none"} {
		res, err := http.Get("http://" + w.addr + path + "?")
		if err == nil {
			res.Body.Close()
		}
		req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.addr+path, nil)
		req.Header.Set("X-Piko-Endpoint", "e")
		if res, err := http.DefaultTransport.RoundTrip(req); err == nil {
			io.Copy(io.Discard, res.Body)
			res.Body.Close()
		}
	}
	http.DefaultTransport.(*http.Transport).CloseIdleConnections()
	chosen := false
	for i := range uint64(100) {
		chosen = chosen || w.entry.Lookup("f").Pick(time.Now(), i*0x9e3779b97f4a7c15, nil).Node == w.owners[0].node
	}
	if !chosen {
		t.Error("a node is avoided since one of its services broke off")
	}
}

// What is not to be sent twice gets to services once at most, whatever goes wrong on the way.
func TestPostsAreNeverDoubled(t *testing.T) {
	t.Parallel()
	w := newHopWorld(t, 3, nil)
	var mu sync.Mutex
	seen := make(map[string]int)
	serve := func(c net.Conn, r *bufio.Reader) {
		for {
			req, err := http.ReadRequest(r)
			if err != nil {
				return
			}
			mu.Lock()
			seen[req.Header.Get("X-Request-Id")]++
			mu.Unlock()
			switch rand.IntN(4) {
			case 0:
				return
			case 1:
				io.WriteString(c, "HTTP/1.1 2")
				return
			}
			io.Copy(io.Discard, req.Body)
			io.WriteString(c, "HTTP/1.1 421 No\r\nX-Piko-Miss: no-upstream\r\nContent-Length: 0\r\n\r\n")
		}
	}
	helper := newWorld(t, nil) // serves, and takes no requests
	for _, o := range w.owners {
		l := helper.serveRaw("e", serve)
		dial := l.Upstream().(upstream).Dial
		for range 2 {
			o.local("e", func(ctx context.Context) (net.Conn, error) {
				if rand.IntN(2) == 0 {
					return nil, errDial
				}
				return dial(ctx)
			})
		}
	}
	var wg sync.WaitGroup
	for i := range 10 {
		wg.Go(func() {
			for j := range 20 {
				req, _ := http.NewRequestWithContext(t.Context(), "POST", "http://"+w.addr, strings.NewReader(strings.Repeat("x", rand.IntN(100_000))))
				req.Header.Set("X-Piko-Endpoint", "e")
				req.Header.Set("X-Request-Id", fmt.Sprint(i, "-", j))
				tr := &http.Transport{DisableKeepAlives: true}
				if res, err := tr.RoundTrip(req); err == nil {
					io.Copy(io.Discard, res.Body)
					res.Body.Close()
				}
			}
		})
	}
	wg.Wait()
	mu.Lock()
	defer mu.Unlock()
	if len(seen) < 50 {
		t.Errorf("only %d requests got anywhere", len(seen))
	}
	for id, n := range seen {
		if n > 1 {
			t.Errorf("request %s got to services %d times", id, n)
		}
	}
}

// What is reserved is answered by nobody but the handler for nodes, and only there.
func TestReservedRoutes(t *testing.T) {
	w := newWorld(t, nil)
	internal := newWorld(t, func(o *Options) {
		o.Internal = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ok(w, "internal") })
	})
	for _, path := range []string{"/_piko/v1/peer", "/_piko/v1/peer?a", "/%5fpiko/v1/peer", "/_piko/v1/stream", "/_piko/v1/cluster/log", "/_piko/v1/peer/", "/_piko", "/_piko/v1/tcp"} {
		for _, w := range []*world{w, internal} {
			w.serve("e", func(w http.ResponseWriter, r *http.Request) { t.Error("a service was asked for", r.URL) })
			got := w.talk("GET " + path + " HTTP/1.1\r\nHost: e.x\r\nX-Piko-Route: e\r\nX-Piko-Endpoint: e\r\nConnection: Upgrade\r\nUpgrade: piko-stream\r\n\r\n" + closing)
			want := "HTTP/1.1 404 "
			if w == internal && strings.Contains(path, "piko/v1/peer") && !strings.HasSuffix(path, "/") {
				want = "HTTP/1.1 200 "
			}
			if !strings.HasPrefix(got, want) {
				t.Errorf("%s: got %q, want %s", path, got, want)
			}
		}
	}
	peer := &world{t: t, addr: newOwner(t, "o", router.NewTable(), false).addr}
	for path, want := range map[string]int{"/_piko/v1/peer": 404, "/_piko/v1/cluster/log": 404, "/": 421} {
		if status, _, _ := peer.do("GET", path, nil, "X-Piko-Route", "e"); status != want {
			t.Errorf("a node asked for %s and got %d", path, status)
		}
	}
	for _, route := range []string{"", "E..", "a/b", "a/b/c", "/e", "a/", "../e"} {
		if status, _, res := peer.do("GET", "/", nil, "X-Piko-Route", route); status != 421 || res.Header.Get("X-Piko-Miss") != "no-upstream" {
			t.Errorf("route %q: got %d", route, status)
		}
	}
}

// A hop names an endpoint with its tenant, and gets to that tenant's upstreams only.
func TestHopToTenant(t *testing.T) {
	o := newOwner(t, "o", router.NewTable(), false)
	for _, name := range []string{"e", "t/e", "u/e"} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { ok(w, name) }))
		t.Cleanup(s.Close)
		o.local(name, dialTo(s.Listener.Addr().String()))
	}
	w := &world{t: t, addr: o.addr}
	for route, want := range map[string]string{"e": "e", "t/e": "t/e", "T/E": "t/e", "u/e": "u/e"} {
		if status, body, _ := w.do("GET", "/", nil, "X-Piko-Route", route, "X-Piko-Endpoint", "e"); status != 200 || body != want {
			t.Errorf("route %q: got %d from %q", route, status, body)
		}
	}
	for _, route := range []string{"v/e", "t/f", "t", "/e", "t/e/e", "t%2fe", "t/../e"} {
		if status, body, _ := w.do("GET", "/", nil, "X-Piko-Route", route); status != 421 {
			t.Errorf("route %q: got %d from %q", route, status, body)
		}
	}
}

func TestHopMetrics(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	w := newHopWorld(t, 0, func(o *Options) { o.Registerer = reg })
	w.serve("e", sayOK)
	w.owners[0].claim("f")
	w.do("GET", "/", nil)
	w.do("GET", "/", nil, "X-Piko-Endpoint", "f")
	got := text(t, reg)
	for _, want := range []string{
		`piko_upstreams_remote_requests_total{node_id="owner-1"} 2`,
		`piko_proxy_misses_total{reason="no-upstream"} 1`,
		`piko_proxy_waits_total{result="in_vain"} 1`,
		`piko_proxy_hop_response_seconds_count 2`,
	} {
		if !strings.Contains(got, want) {
			t.Errorf("no %s in\n%s", want, got)
		}
	}
	reg = prometheus.NewRegistry()
	if _, err := NewPeer(PeerOptions{Lookup: w.table.Lookup, Registerer: reg}); err != nil {
		t.Fatal(err)
	}
	if _, err := NewPeer(PeerOptions{Lookup: w.table.Lookup, Registerer: reg}); err == nil {
		t.Error("the same metrics were registered twice")
	}
	if _, err := NewPeer(PeerOptions{}); err == nil {
		t.Error("a Peer without a Lookup")
	}
}

// Values of node_id are bounded.
func TestNodesInMetrics(t *testing.T) {
	t.Parallel()
	m, _ := newHopMetrics()
	for i := range 2 * maxNodes {
		m.hops.of(fmt.Sprint(i)).Inc()
		m.hops.of("0").Inc()
	}
	if n := len(*m.hops.known.Load()); n != maxNodes {
		t.Errorf("%d nodes", n)
	}
}

// Raw streams go through the owner, with half-close both ways.
func TestRawStreams(t *testing.T) {
	w := newHopWorld(t, 1, nil)
	w.serveRaw("unused", func(net.Conn, *bufio.Reader) {})
	helper := newWorld(t, nil)
	l := helper.serveRaw("e", func(c net.Conn, r *bufio.Reader) {
		io.WriteString(c, "hello ")
		b, err := io.ReadAll(r)
		if err != nil {
			return
		}
		c.Write([]byte(strings.ToUpper(string(b))))
	})
	at := w.owners[0].local("e", l.Upstream().(upstream).Dial)
	open := func(ctx context.Context) (net.Conn, error) { return w.owners[0].node.Upstream("e").Open(ctx) }
	for range 3 {
		ctx, cancel := context.WithCancel(t.Context())
		c, err := open(ctx)
		cancel() // bounds the opening only
		if err != nil {
			t.Fatal(err)
		}
		c.SetDeadline(time.Now().Add(5 * time.Second))
		io.WriteString(c, "bye")
		if err := c.(interface{ CloseWrite() error }).CloseWrite(); err != nil {
			t.Error(err)
		}
		if b, err := io.ReadAll(c); string(b) != "hello BYE" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		c.Close()
		eventually(t, idle(at))
	}
	c, err := open(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	c.(interface{ Reset() }).Reset()
	eventually(t, idle(at))

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := open(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("with a context that has ended: %v", err)
	}
	if _, err := w.owners[0].node.Upstream("nobody").Open(t.Context()); !relay.NeverExecuted(err) || !errors.Is(err, fault.NoUpstream) {
		t.Errorf("nobody there: %v", err)
	}
	var dials atomic.Int32
	w.owners[0].local("busy", refuse(&dials, fault.New(fault.Overloaded, nil)))
	if _, err := w.owners[0].node.Upstream("busy").Open(t.Context()); !relay.NeverExecuted(err) || !errors.Is(err, fault.Overloaded) {
		t.Errorf("too busy: %v", err)
	}
}
