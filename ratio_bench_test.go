package main

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"runtime"
	"runtime/pprof"
	"strings"
	"testing"
	"time"

	"piko/accesslog"
	"piko/agent"
	"piko/certs/certstest"
	"piko/client"
)

// BenchmarkRatio asks two systems in turns, since the machine's speed drifts, and compares what they cost: an operation is
// a turn of both, and ratio the median of their ratios of CPU time. Every node and agent is a process of its own, the two
// chained proxies are one.
func BenchmarkRatio(b *testing.B) {
	one := func(name string) func(*testing.B, string) *ratioSystem {
		return func(b *testing.B, origin string) *ratioSystem {
			return &ratioSystem{parts: []ratioPart{{"child", startPathChild(b, name, origin)}}}
		}
	}
	tunnel := func(kind string) func(*testing.B, string) *ratioSystem {
		return func(b *testing.B, origin string) *ratioSystem { return startRatioTunnel(b, origin, kind) }
	}
	hop := func(kind string) func(*testing.B, string) *ratioSystem {
		return func(b *testing.B, origin string) *ratioSystem { return startRatioHop(b, origin, kind) }
	}
	for _, c := range []struct {
		name     string
		clients  int
		system   func(*testing.B, string) *ratioSystem
		compared func(*testing.B, string) *ratioSystem
	}{
		{"tunnel-to-chained", 64, tunnel(""), one("chained")},
		{"logged-to-chained", 64, tunnel("log"), one("chained")},
		{"hop-to-chained", 64, hop(""), one("chained")},
		{"hop-lanes-to-parsed", 64, hop(""), hop("parsed-hops")},
		{"lanes-to-parsed", 64, tunnel(""), tunnel("parsed")},
		{"logged-to-silent", 64, tunnel("log"), tunnel("")},
		{"tls-to-plain", 64, tunnel("tls"), tunnel("")},
	} {
		b.Run(c.name, func(b *testing.B) {
			origin := httptest.NewServer(pathOrigin(13))
			defer origin.Close()
			compareSystems(b, c.clients, c.system(b, origin.URL), c.compared(b, origin.URL))
		})
	}
}

// ratioTurn is how many requests each of the clients sends in a turn.
const ratioTurn = 40

// ratioSystem is what is measured: its first part is asked.
type ratioSystem struct{ parts []ratioPart }

type ratioPart struct {
	name    string
	process *pathProcess
}

func (s *ratioSystem) usage(b *testing.B) []pathUsage {
	var list []pathUsage
	for _, p := range s.parts {
		list = append(list, p.process.usage(b))
	}
	return list
}

// compareSystems sends both the same requests, and reports.
func compareSystems(b *testing.B, clients int, systems ...*ratioSystem) {
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true, TLSClientConfig: &tls.Config{InsecureSkipVerify: true}}
	defer transport.CloseIdleConnections()
	header := http.Header{"X-Piko-Endpoint": {"bench"}}
	requests := float64(clients * ratioTurn)
	for _, s := range systems { // until its parts have found each other
		began := time.Now()
		for authRequest(transport, s.parts[0].process.url, header) != nil && time.Since(began) < 20*time.Second {
			pause(b.Context(), 20*time.Millisecond)
		}
	}
	total := make([][]pathUsage, len(systems))
	turn := func(i int) float64 {
		before := systems[i].usage(b)
		benchRequests(b, transport, systems[i].parts[0].process.url, header, clients, ratioTurn)
		cpu := 0.0
		for p, after := range systems[i].usage(b) {
			used := after.since(before[p])
			if len(total[i]) <= p {
				total[i] = append(total[i], pathUsage{})
			}
			total[i][p] = total[i][p].plus(used)
			cpu += float64(used.CPU.Nanoseconds()) / 1e3 / requests
		}
		return cpu
	}
	for i := range systems { // warm up
		turn(i)
	}
	clear(total)
	cpu, ratios := make([][]float64, len(systems)), []float64(nil)
	rounds := 0
	for ; b.Loop(); rounds++ {
		first := rounds % 2
		var took [2]float64
		took[first] = turn(first)
		took[1-first] = turn(1 - first)
		cpu[0], cpu[1] = append(cpu[0], took[0]), append(cpu[1], took[1])
		ratios = append(ratios, took[0]/took[1])
	}
	b.ReportMetric(median(ratios), "ratio")
	b.ReportMetric(median(cpu[0]), "cpu-µs/req")
	b.ReportMetric(median(cpu[1]), "compared-cpu-µs/req")
	all := requests * float64(rounds)
	allocs := 0.0
	for p, part := range systems[0].parts {
		used := total[0][p]
		allocs += float64(used.Mallocs) / all
		b.ReportMetric(float64(used.Writes)/all, part.name+"-writes/req")
		b.ReportMetric(float64(used.Reads)/all, part.name+"-reads/req")
	}
	b.ReportMetric(allocs, "allocs/req")
	b.ReportMetric(0, "ns/op")
}

// startRatioTunnel runs a node and an agent, with the access log of both or with TLS on both of the node's ports.
func startRatioTunnel(b *testing.B, origin, kind string) *ratioSystem {
	if kind == "tls" {
		cert, key := certstest.NewCA(b, "bench").Issue([]string{"127.0.0.1"}).Files()
		b.Setenv("PIKO_BENCH_CERT", cert)
		b.Setenv("PIKO_BENCH_KEY", key)
	}
	b.Setenv("PIKO_BENCH_KIND", kind)
	node := startPathChild(b, "part-node", origin)
	b.Setenv("PIKO_BENCH_UPSTREAM", node.more[0])
	s := &ratioSystem{parts: []ratioPart{{"node", node}, {"agent", startPathChild(b, "part-agent", origin)}}}
	return s
}

// startRatioHop runs two nodes, and an agent at the one that is not asked.
func startRatioHop(b *testing.B, origin, kind string) *ratioSystem {
	b.Setenv("PIKO_BENCH_KIND", kind)
	owner := startPathChild(b, "part-node", origin)
	b.Setenv("PIKO_BENCH_JOIN", owner.more[1])
	entry := startPathChild(b, "part-node", origin)
	b.Setenv("PIKO_BENCH_JOIN", "")
	b.Setenv("PIKO_BENCH_UPSTREAM", owner.more[0])
	return &ratioSystem{parts: []ratioPart{{"entry", entry}, {"owner", owner}, {"agent", startPathChild(b, "part-agent", origin)}}}
}

// runRatioPart is a child's part of a system. It returns the address that is asked, and what others have to know.
func runRatioPart(ctx context.Context, part string) (address string, more []string) {
	kind := os.Getenv("PIKO_BENCH_KIND")
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		panic(err)
	}
	out := accesslog.NewWriter(null) // as the program has it
	if part == "part-agent" {
		runRatioAgent(ctx, kind, out)
		return "-", nil
	}
	scheme := "http://"
	log := slog.New(slog.NewJSONHandler(io.Discard, nil)) // not slog.DiscardHandler: the access log has its level
	node := startBenchNodeLogging(ctx, log, func(cfg *serverConfig) {
		cfg.ParseHops = kind == "parsed-hops"
		if kind == "log" {
			cfg.Proxy.AccessLog.Disable, cfg.AccessOut = false, out
		}
		if kind == "tls" {
			scheme = "https://"
			cfg.Proxy.TLS.Cert, cfg.Proxy.TLS.Key = paths{[]string{os.Getenv("PIKO_BENCH_CERT")}}, paths{[]string{os.Getenv("PIKO_BENCH_KEY")}}
			cfg.Upstream.TLS.Cert, cfg.Upstream.TLS.Key = cfg.Proxy.TLS.Cert, cfg.Proxy.TLS.Key
		}
		if join := os.Getenv("PIKO_BENCH_JOIN"); join != "" {
			cfg.Cluster.Join = []joinAddr{joinAddr(join)}
		}
	})
	return scheme + node.ProxyAddr().String(), []string{scheme + node.UpstreamAddr().String(), node.GossipAddr()}
}

func runRatioAgent(ctx context.Context, kind string, out io.Writer) {
	l := agent.Listener{Endpoint: "bench", Addr: os.Getenv("PIKO_BENCH_ORIGIN"), AccessLog: accesslog.Config{Disable: kind != "log"}}
	c := &client.Client{URL: os.Getenv("PIKO_BENCH_UPSTREAM"), TLS: &tls.Config{InsecureSkipVerify: true}}
	cfg := agent.Config{Listeners: []agent.Listener{l}}
	if kind == "parsed" { // by net/http's server
		cfg.Wrap = func(_, _ string, next http.Handler) http.Handler { return http.HandlerFunc(next.ServeHTTP) }
	}
	a, err := agent.New(cfg, c, slog.New(slog.DiscardHandler), nil, out)
	if err != nil {
		panic(err)
	}
	go a.Run(ctx)
}

// systemCalls is how often this process has read and written so far, with or without success; 0 where that is not known.
func systemCalls() (reads, writes uint64) {
	text, err := os.ReadFile("/proc/self/io")
	if err != nil {
		return 0, 0
	}
	for line := range strings.Lines(string(text)) {
		fmt.Sscanf(line, "syscr: %d", &reads)
		fmt.Sscanf(line, "syscw: %d", &writes)
	}
	return reads, writes
}

func (u pathUsage) since(before pathUsage) pathUsage {
	return pathUsage{u.CPU - before.CPU, u.Mallocs - before.Mallocs, u.Reads - before.Reads, u.Writes - before.Writes}
}

func (u pathUsage) plus(o pathUsage) pathUsage {
	return pathUsage{u.CPU + o.CPU, u.Mallocs + o.Mallocs, u.Reads + o.Reads, u.Writes + o.Writes}
}

// profileChild has this process leave profiles of what it did in a directory, for who looks for the next step:
// PIKO_BENCH_PROFILES=/tmp/profiles go test -run '^$' -bench Ratio/tunnel -benchtime 20x .
func profileChild(dir, name string) (done func()) {
	path := func(kind string) string { return filepath.Join(dir, fmt.Sprintf("%s-%d.%s", name, os.Getpid(), kind)) }
	cpu, err := os.Create(path("cpu"))
	if err != nil {
		panic(err)
	}
	runtime.SetMutexProfileFraction(1)
	runtime.SetBlockProfileRate(1)
	if err := pprof.StartCPUProfile(cpu); err != nil {
		panic(err)
	}
	return func() {
		pprof.StopCPUProfile()
		cpu.Close()
		for _, kind := range []string{"mutex", "block", "allocs"} {
			f, err := os.Create(path(kind))
			if err != nil {
				panic(err)
			}
			if err := pprof.Lookup(kind).WriteTo(f, 0); err != nil {
				panic(err)
			}
			f.Close()
		}
	}
}
