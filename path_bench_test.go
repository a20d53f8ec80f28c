package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/accesslog"
	"piko/agent"
	"piko/client"
)

// The benchmarks of the whole path. The system under test (a node and an agent, two nodes and an agent at the one that
// is not asked, or two chained reverse proxies) runs in
// a child process of its own, so that its CPU time and allocations are told apart from the load generator's and the
// origin's, which stay in the parent. Compare the two within one run only: the machine's speed drifts.

// pathChild names the system that a re-executed test binary shall run.
const pathChild = "PIKO_BENCH_CHILD"

// pathUsage is what a child has used since it started.
type pathUsage struct {
	CPU     time.Duration // user and system time
	Mallocs uint64
	Reads   uint64 // system calls
	Writes  uint64
}

func BenchmarkPath(b *testing.B) {
	for _, work := range []struct {
		name     string
		clients  int
		request  int // bytes; 0 is a GET
		response int // bytes; 0 echoes
	}{
		{"GET13B", 64, 0, 13},
		{"GET13B-1client", 1, 0, 13},
		{"GET1MiB", 8, 0, 1 << 20},
		{"POST64KiB", 16, 64 << 10, 0},
	} {
		for _, system := range []string{"tunnel", "chained", "hop", "hop-secret"} {
			b.Run(work.name+"/"+system, func(b *testing.B) {
				origin := httptest.NewServer(pathOrigin(work.response))
				defer origin.Close()
				child := startPathChild(b, system, origin.URL)
				pathLoad(b, child, work.clients, work.request)
			})
		}
	}
}

func pathOrigin(size int) http.Handler {
	answer := bytes.Repeat([]byte("x"), size)
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if size == 0 {
			http.NewResponseController(w).EnableFullDuplex()
			w.Header().Set("Content-Length", fmt.Sprint(r.ContentLength))
			io.Copy(w, r.Body)
			return
		}
		w.Header().Set("Content-Type", "text/plain")
		w.Header().Set("Content-Length", fmt.Sprint(size))
		w.Write(answer)
	})
}

// pathLoad sends b.N requests from so many keep-alive clients and reports what each cost the child.
func pathLoad(b *testing.B, child *pathProcess, clients, size int) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	body := bytes.Repeat([]byte("b"), size)
	ask := func() error {
		req, err := http.NewRequest("GET", child.url, nil)
		if size > 0 {
			req, err = http.NewRequest("POST", child.url, bytes.NewReader(body))
		}
		if err != nil {
			return err
		}
		req.Header.Set("x-piko-endpoint", "bench")
		res, err := transport.RoundTrip(req)
		if err != nil {
			return err
		}
		n, err := io.Copy(io.Discard, res.Body)
		res.Body.Close()
		if err != nil || res.StatusCode != http.StatusOK || size > 0 && n != int64(size) {
			return fmt.Errorf("request failed: status %d, %d bytes, %v", res.StatusCode, n, err)
		}
		return nil
	}
	run := func(n int) {
		var wg sync.WaitGroup
		work := make(chan struct{}, 1024)
		for range clients {
			wg.Go(func() {
				for range work {
					if err := ask(); err != nil {
						b.Error(err)
					}
				}
			})
		}
		for range n {
			work <- struct{}{}
		}
		close(work)
		wg.Wait()
	}
	run(clients * 4) // warm up: connections, pools
	before := child.usage(b)
	b.ResetTimer()
	run(b.N)
	b.StopTimer()
	after := child.usage(b)
	b.ReportMetric(float64((after.CPU-before.CPU).Microseconds())/float64(b.N), "cpu-µs/req")
	b.ReportMetric(float64(after.Mallocs-before.Mallocs)/float64(b.N), "child-allocs/req")
}

// pathProcess is a running child.
type pathProcess struct {
	url, control string
	more         []string // what else it said of itself
}

func (p *pathProcess) usage(b *testing.B) (u pathUsage) {
	b.Helper()
	res, err := http.Get(p.control)
	if err != nil {
		b.Fatal(err)
	}
	defer res.Body.Close()
	if err := json.NewDecoder(res.Body).Decode(&u); err != nil {
		b.Fatal(err)
	}
	return u
}

func startPathChild(b *testing.B, system, origin string) *pathProcess {
	b.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^$")
	cmd.Env = append(os.Environ(), pathChild+"="+system, "PIKO_BENCH_ORIGIN="+origin)
	cmd.Stderr = os.Stderr
	stdin, err := cmd.StdinPipe() // the child lives until this closes
	if err != nil {
		b.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { stdin.Close(); cmd.Wait() })
	line, err := bufio.NewReader(stdout).ReadString('\n')
	if err != nil {
		b.Fatalf("start %s: %v", system, err)
	}
	f := strings.Fields(line)
	return &pathProcess{url: f[0], control: f[1], more: f[2:]}
}

// A child is this test binary again, which must not run any test.
func init() {
	if system := os.Getenv(pathChild); system != "" {
		runPathChild(system)
		os.Exit(0)
	}
}

// startBenchNode runs a node, access log off.
func startBenchNode(ctx context.Context, secret []secret, join ...joinAddr) *server {
	return startBenchNodeWith(ctx, func(cfg *serverConfig) { cfg.Cluster.Secret, cfg.Cluster.Join = secret, join })
}

func startBenchNodeWith(ctx context.Context, change func(*serverConfig)) *server {
	return startBenchNodeLogging(ctx, slog.New(slog.DiscardHandler), change)
}

// startBenchNodeLogging is startBenchNodeWith with a logger, whose level is the access log's too.
func startBenchNodeLogging(ctx context.Context, log *slog.Logger, change func(*serverConfig)) *server {
	cfg := loopbackServerConfig()
	cfg.Proxy.AccessLog.Disable = true
	change(&cfg)
	node, err := newServer(cfg, log)
	if err != nil {
		panic(err)
	}
	go node.Run(ctx)
	<-node.Ready()
	return node
}

// startBenchTunnel runs an agent at the first node, and returns the address of the last.
func startBenchTunnel(ctx context.Context, origin, endpoint string, nodes ...*server) (address string) {
	log := slog.New(slog.DiscardHandler)
	a, err := agent.New(agent.Config{Listeners: []agent.Listener{{
		Endpoint: endpoint, Addr: origin, AccessLog: accesslog.Config{Disable: true},
	}}}, &client.Client{URL: "http://" + nodes[0].UpstreamAddr().String()}, log, nil, nil)
	if err != nil {
		panic(err)
	}
	go a.Run(ctx)
	last := nodes[len(nodes)-1]
	for last.table.Lookup(endpoint) == nil {
		runtime.Gosched()
	}
	return "http://" + last.ProxyAddr().String()
}

// runPathChild is the child's main.
func runPathChild(system string) {
	ctx, stop := context.WithCancel(context.Background())
	defer stop()
	origin := os.Getenv("PIKO_BENCH_ORIGIN")
	var address string
	var more []string
	if system != "chained" && system != "h2c" {
		raiseHeap(os.LookupEnv) // as the program does
	}
	switch system {
	case "part-node", "part-agent":
		address, more = runRatioPart(ctx, system)
	case "tunnel":
		address = startBenchTunnel(ctx, origin, "bench", startBenchNode(ctx, nil))
	case "tunnel-auth":
		auth := func(cfg *serverConfig) { cfg.Proxy.Auth.HMACSecretKey = []hmacSecret{benchKey} }
		address = startBenchTunnel(ctx, origin, "bench", startBenchNodeWith(ctx, auth))
	case "tunnels":
		node := startBenchNode(ctx, nil)
		startBenchTunnel(ctx, origin, "other", node)
		address = startBenchTunnel(ctx, origin, "bench", node)
	case "hop", "hop-secret":
		var common []secret
		if system == "hop-secret" {
			common = []secret{"0123456789abcdef"}
		}
		first := startBenchNode(ctx, common)
		second := startBenchNode(ctx, common, joinAddr(first.GossipAddr()))
		address = startBenchTunnel(ctx, origin, "bench", first, second)
	case "chained":
		address = serveLocal(chainedProxy(serveLocal(chainedProxy(origin))))
	case "h2c":
		address = serveH2C(h2cProxy(origin))
	}
	control := serveLocal(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var ms runtime.MemStats
		runtime.ReadMemStats(&ms)
		reads, writes := systemCalls()
		json.NewEncoder(w).Encode(pathUsage{cpuTime(), ms.Mallocs, reads, writes})
	}))
	if dir := os.Getenv("PIKO_BENCH_PROFILES"); dir != "" {
		defer profileChild(dir, system)()
	}
	fmt.Println(address, control, strings.Join(more, " "))
	io.Copy(io.Discard, os.Stdin)
}

func serveLocal(h http.Handler) (address string) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		slog.Error("listen", "error", err)
		os.Exit(1)
	}
	go http.Serve(l, h)
	return "http://" + l.Addr().String()
}

// bufferPool is the httputil.BufferPool that a well-set-up ReverseProxy has.
type bufferPool struct{ sync.Pool }

func (p *bufferPool) Get() []byte  { return *p.Pool.Get().(*[]byte) }
func (p *bufferPool) Put(b []byte) { p.Pool.Put(&b) }

func chainedProxy(to string) http.Handler {
	target, _ := url.Parse(to)
	pool := &bufferPool{sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.SetURL(target)
			pr.SetXForwarded()
		},
		Transport:  &http.Transport{MaxIdleConnsPerHost: 256, MaxIdleConns: 1024, DisableCompression: true},
		BufferPool: pool,
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		http.NewResponseController(w).EnableFullDuplex() // without it, POST responses come back truncated
		proxy.ServeHTTP(w, r)
		r.Body.Close()
	})
}
