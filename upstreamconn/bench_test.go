package upstreamconn

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"testing"

	"piko/tunnel"
)

// Variables that make the test binary the agents' process of a benchmark.
const (
	agentsAddrVariable  = "PIKO_BENCH_AGENTS_URL"
	agentsCountVariable = "PIKO_BENCH_AGENTS"
)

// benchmarkAgents is that process: it opens tunnels, says so on stdout, and
// keeps them until stdin ends.
func benchmarkAgents(url string) {
	count, err := strconv.Atoi(os.Getenv(agentsCountVariable))
	if err != nil {
		panic(err)
	}
	ctx := context.Background()
	limit := make(chan struct{}, 32)
	var wg sync.WaitGroup
	for i := range count {
		limit <- struct{}{}
		wg.Go(func() {
			d := tunnel.Dialer{URL: url, Instance: fmt.Sprintf("instance-%06d", i), Protocol: "http"}
			if _, err := d.Dial(ctx, fmt.Sprintf("endpoint-%06d", i)); err != nil {
				panic(err)
			}
			<-limit
		})
	}
	wg.Wait()
	fmt.Println("open")
	io.Copy(io.Discard, os.Stdin)
}

// startAgents runs the agents' process and returns when all are connected.
func startAgents(b *testing.B, url string, count int) {
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), agentsAddrVariable+"="+url, agentsCountVariable+"="+strconv.Itoa(count))
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	in, err := cmd.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() {
		in.Close()
		cmd.Wait()
	})
	if line, err := bufio.NewReader(out).ReadString('\n'); err != nil || line != "open\n" {
		b.Fatalf("agents said %q, %v", line, err)
	}
}

// resident is the memory of this process that is in RAM, in bytes.
func resident(b *testing.B) int {
	debug.FreeOSMemory()
	status, err := os.ReadFile("/proc/self/status")
	if err != nil {
		b.Skip("needs /proc")
	}
	for line := range strings.Lines(string(status)) {
		if kib, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			n, err := strconv.Atoi(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(kib), "kB")))
			if err != nil {
				b.Fatal(err)
			}
			return n << 10
		}
	}
	b.Fatal("no VmRSS")
	return 0
}

// BenchmarkIdleTunnel measures what an idle tunnel costs the node, all in: what
// the process has more in RAM with the tunnels than without. The agents are
// another process. N is the number of tunnels, so run it with a fixed one:
//
//	go test -run - -bench IdleTunnel -benchtime 10000x ./upstreamconn
func BenchmarkIdleTunnel(b *testing.B) {
	count := max(b.N, 100)
	n := startNode(b, func(s *Server) { s.Logger = nil })
	before, goroutines := resident(b), runtime.NumGoroutine()
	var heapBefore, heapAfter runtime.MemStats
	runtime.ReadMemStats(&heapBefore)
	startAgents(b, n.url, count)
	eventually(b, func() error {
		if got := n.Tunnels(); got != count {
			return fmt.Errorf("%d tunnels of %d", got, count)
		}
		return nil
	})
	after := resident(b)
	runtime.ReadMemStats(&heapAfter)
	b.ReportMetric(float64(after-before)/float64(count), "B/tunnel")
	b.ReportMetric(float64(heapAfter.HeapAlloc-heapBefore.HeapAlloc)/float64(count), "heap-B/tunnel")
	b.ReportMetric(float64(heapAfter.StackInuse-heapBefore.StackInuse)/float64(count), "stack-B/tunnel")
	b.ReportMetric(float64(runtime.NumGoroutine()-goroutines)/float64(count), "goroutines/tunnel")
	b.ReportMetric(0, "ns/op")
}
