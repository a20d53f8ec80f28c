package proxy

import (
	"bufio"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"piko/relay"
	"piko/router"
	"piko/stats"
	"piko/tracing"
)

// BenchmarkProxy sends requests through two proxies in a row, as a node and an agent are, over TCP and in one process.
// "piko" is Public before a handler that is what the agent's does; "reverseproxy" is httputil.ReverseProxy twice, with all
// that makes it fast. "direct" has none, so that what client and service cost can be subtracted.
func BenchmarkProxy(b *testing.B) {
	for _, work := range []struct {
		name, method  string
		size, clients int
	}{{"GET-13B", "GET", 13, 64}, {"GET-1MiB", "GET", 1 << 20, 8}, {"POST-64KiB", "POST", 64 << 10, 16}} {
		for _, kind := range []struct {
			name  string
			start func(b *testing.B, service string) string
		}{{"direct", direct}, {"piko", pikoChain}, {"piko-1", pikoOnce}, {"piko-hop", pikoHop}, {"reverseproxy", reverseChain}, {"reverseproxy-1", reverseOnce}} {
			b.Run(work.name+"/"+kind.name, func(b *testing.B) {
				load(b, kind.start(b, origin(b, work.size)), work.clients, newAsker(work.method, work.size))
			})
		}
	}
}

// origin is a service that answers with size bytes, or with the body that it got.
func origin(b *testing.B, size int) string {
	payload := make([]byte, size)
	length := []string{strconv.Itoa(size)}
	return listen(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header()["Content-Length"] = length
		if r.Method == "POST" {
			body := buffers.Get().(*[]byte)
			defer buffers.Put(body)
			for all := (*body)[:0]; ; {
				n, err := r.Body.Read(all[len(all):cap(all)])
				if all = all[:len(all)+n]; err != nil {
					w.Write(all)
					return
				}
			}
		}
		w.Write(payload)
	}))
}

func listen(b *testing.B, h http.Handler) string {
	s := httptest.NewUnstartedServer(h)
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.Start()
	b.Cleanup(s.Close)
	return s.Listener.Addr().String()
}

func direct(_ *testing.B, service string) string { return service }

func pikoChain(b *testing.B, service string) string { return pikoOnce(b, agentLike(b, service)) }

func pikoOnce(b *testing.B, service string) string {
	table := router.NewTable()
	pool := &relay.Pool{Dial: dialTo(service)}
	b.Cleanup(pool.Close)
	b.Cleanup(table.Add("e", router.NewLocal(upstream{pool})))
	p, err := NewPublic(Options{Lookup: table.Lookup, Traffic: stats.New()})
	if err != nil {
		b.Fatal(err)
	}
	return listen(b, p)
}

// pikoHop has another node between, without a tunnel's streams.
func pikoHop(b *testing.B, service string) string {
	table := router.NewTable()
	o := newOwner(b, "owner", table, false)
	pool := &relay.Pool{Dial: dialTo(service)}
	b.Cleanup(pool.Close)
	o.add("e", router.NewLocal(upstream{pool}))
	p, err := NewPublic(Options{Lookup: table.Lookup, Traffic: stats.New()})
	if err != nil {
		b.Fatal(err)
	}
	return listen(b, p)
}

// BenchmarkServeHTTP is the handlers alone, with upstreams and links in memory: what a request allocates at the entry
// node without a hop and with one, and at the owner; and without a hop where requests are traced.
func BenchmarkServeHTTP(b *testing.B) {
	ok := answer(200)
	local, remote := router.NewTable(), router.NewTable()
	b.Cleanup(local.Add("e", router.NewLocal(NewRemote(ok, "e"))))
	remote.SetNode(node("n", ok), map[string]int{"e": 100})
	traced := func(table *router.Table, tracer *tracing.Tracer) http.Handler {
		p, err := NewPublic(Options{Lookup: table.Lookup, Traffic: stats.New(), Tracer: tracer})
		if err != nil {
			b.Fatal(err)
		}
		return p
	}
	entry := func(table *router.Table) http.Handler { return traced(table, nil) }
	tracer := func(ratio float64) *tracing.Tracer {
		t, err := tracing.New(tracing.Options{URL: "http://127.0.0.1:1", Ratio: ratio})
		if err != nil {
			b.Fatal(err)
		}
		return t // whose spans nobody sends: they are dropped
	}
	owner, err := NewPeer(PeerOptions{Lookup: local.Lookup})
	if err != nil {
		b.Fatal(err)
	}
	for _, bb := range []struct {
		name string
		h    http.Handler
	}{{"local", entry(local)}, {"entry", entry(remote)}, {"owner", owner},
		{"unsampled", traced(local, tracer(0))}, {"sampled", traced(local, tracer(1))}} {
		b.Run(bb.name, func(b *testing.B) {
			r := httptest.NewRequest("GET", "http://e.x/path", nil)
			r.Header.Set(headerRoute, "e")
			r.Header.Set(headerAttempts, "1")
			w := discard{make(http.Header)}
			b.ReportAllocs()
			for b.Loop() {
				clear(w.h)
				bb.h.ServeHTTP(w, r)
			}
		})
	}
}

// discard is a ResponseWriter that keeps nothing.
type discard struct{ h http.Header }

func (d discard) Header() http.Header         { return d.h }
func (d discard) Write(p []byte) (int, error) { return len(p), nil }
func (d discard) WriteHeader(int)             {}

// agentLike is what an agent's handler does.
func agentLike(b *testing.B, service string) string {
	pool := &relay.Pool{Dial: dialTo(service)}
	b.Cleanup(pool.Close)
	return listen(b, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		out := r.WithContext(r.Context())
		out.URL = &url.URL{Opaque: r.RequestURI}
		out.Header = relay.OutHeader(r.Header, nil)
		body := relay.TakeBody(w, r, relay.BodyOptions{})
		defer body.Finish()
		body.Attach(out)
		res, err := pool.RoundTrip(out)
		if err != nil {
			w.WriteHeader(502)
			return
		}
		if _, err := relay.CopyResponse(w, res); err != nil {
			panic(http.ErrAbortHandler)
		}
	}))
}

func reverseChain(b *testing.B, service string) string {
	return reverseOnce(b, reverseOnce(b, service))
}

func reverseOnce(b *testing.B, service string) string {
	tr := &http.Transport{MaxIdleConnsPerHost: 256, DisableCompression: true}
	b.Cleanup(tr.CloseIdleConnections)
	return listen(b, &httputil.ReverseProxy{
		Transport: tr, BufferPool: bufferPool{},
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(&url.URL{Scheme: "http", Host: service})
			pr.SetXForwarded()
		},
	})
}

type bufferPool struct{}

var (
	copyBuffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}
	buffers     = sync.Pool{New: func() any { b := make([]byte, 65<<10); return &b }}
)

func (bufferPool) Get() []byte  { return *copyBuffers.Get().(*[]byte) }
func (bufferPool) Put(b []byte) { copyBuffers.Put(&b) }

// load sends b.N requests from so many clients, which cost as little as clients can.
func load(b *testing.B, addr string, clients int, a asker) {
	var left atomic.Int64
	var wg sync.WaitGroup
	conns := make([]net.Conn, clients)
	for i := range conns {
		c, err := net.Dial("tcp", addr)
		if err != nil {
			b.Fatal(err)
		}
		defer c.Close()
		conns[i] = c
	}
	left.Store(int64(2 * clients))
	run := func() {
		for _, c := range conns {
			wg.Go(func() {
				r := bufio.NewReaderSize(c, 64<<10)
				for left.Add(-1) >= 0 {
					if err := a.ask(c, r); err != nil {
						b.Error(err)
						return
					}
				}
			})
		}
		wg.Wait()
	}
	run() // warm
	b.ReportAllocs()
	b.SetBytes(int64(a.size))
	left.Store(int64(b.N))
	cpu := cpuTime()
	b.ResetTimer()
	run()
	b.StopTimer()
	b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/float64(b.N), "cpu-µs/op")
}

// asker is a client's request and the size of its answer.
type asker struct {
	request []byte
	size    int
}

func newAsker(method string, size int) asker {
	head := method + " /path?query HTTP/1.1\r\nHost: e.example.com\r\nUser-Agent: curl/8.0\r\nAccept: */*\r\nX-Piko-Endpoint: e\r\n"
	if method != "POST" {
		return asker{[]byte(head + "\r\n"), size}
	}
	head += "Content-Length: " + strconv.Itoa(size) + "\r\n\r\n"
	return asker{append([]byte(head), make([]byte, size)...), size}
}

func (a asker) ask(c net.Conn, r *bufio.Reader) error {
	if _, err := c.Write(a.request); err != nil {
		return err
	}
	for {
		line, err := r.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			break
		}
	}
	_, err := r.Discard(a.size)
	return err
}
