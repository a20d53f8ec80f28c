package main

import (
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// BenchmarkTCP carries TCP through the real binary, `piko forward tcp`, a node (or two) and `piko agent tcp`, each a
// process of its own, and beside it through one haproxy in TCP mode, which is the measure, and through three in a row, as
// many processes as piko's. The ends are in this process; CPU is that of the processes between. Compare within one run only.
//
//	go test -run '^$' -bench 'TCP/' -benchtime 30x -count 5 .
func BenchmarkTCP(b *testing.B) {
	path := filepath.Join(b.TempDir(), "piko")
	if out, err := exec.CommandContext(b.Context(), "go", "build", "-o", path, ".").CombinedOutput(); err != nil {
		b.Fatalf("build: %v\n%s", err, out)
	}
	service := tcpBenchService(b)
	for _, work := range []struct {
		name string
		run  func(*testing.B, *tcpPath)
	}{{"down", benchDown}, {"up", benchUp}, {"pingpong64B", benchPingPong}, {"connect", benchConnections}} {
		for _, system := range []string{"piko", "hop", "haproxy", "3haproxies"} {
			b.Run(work.name+"/"+system, func(b *testing.B) {
				p := &tcpPath{b: b, service: service}
				switch system {
				case "haproxy":
					p.startHaproxies(1)
				case "3haproxies":
					p.startHaproxies(3)
				default:
					p.startPiko(path, system == "hop")
				}
				p.exchange('u', 1<<20) // warm up
				p.exchange('d', 1<<20)
				work.run(b, p)
			})
		}
	}
}

// tcpPath is what lies between the ends.
type tcpPath struct {
	b       *testing.B
	service string
	addr    string // where clients connect
	pids    []int
}

// tcpBulk is how many bytes a bulk operation moves.
const tcpBulk = 32 << 20

// benchDown and benchUp move 32 MiB over one connection for each operation.
func benchDown(b *testing.B, p *tcpPath) { benchBulk(b, p, 'd') }
func benchUp(b *testing.B, p *tcpPath)   { benchBulk(b, p, 'u') }

func benchBulk(b *testing.B, p *tcpPath, kind byte) {
	cpu := p.cpu()
	b.SetBytes(tcpBulk)
	b.ResetTimer()
	p.exchange(kind, int64(b.N)*tcpBulk)
	b.StopTimer()
	b.ReportMetric((p.cpu()-cpu).Seconds()/float64(b.N)/tcpBulk*1e9, "cpu-s/GB")
}

// benchPingPong sends 64 bytes and waits for them, 1,000 times for each operation.
func benchPingPong(b *testing.B, p *tcpPath) {
	c := p.dial()
	defer c.Close()
	p.command(c, 'e', 0)
	buf, took := make([]byte, 64), make([]time.Duration, 0, b.N*1000)
	cpu := p.cpu()
	b.ResetTimer()
	for range b.N * 1000 {
		began := time.Now()
		p.must(c.Write(buf))
		p.must(io.ReadFull(c, buf))
		took = append(took, time.Since(began))
	}
	b.StopTimer()
	p.report(took, cpu)
}

// benchConnections makes a connection, sends one byte, waits for it and closes, 100 times for each operation, with 16
// clients beside each other.
func benchConnections(b *testing.B, p *tcpPath) {
	const clients = 16
	took := make([]time.Duration, b.N*100)
	var next atomic.Int64
	cpu := p.cpu()
	b.ResetTimer()
	var running sync.WaitGroup
	for range clients {
		running.Go(func() {
			for i := next.Add(1) - 1; i < int64(len(took)); i = next.Add(1) - 1 {
				began := time.Now()
				if err := p.askOneByte(); err != nil {
					b.Error(err)
					return
				}
				took[i] = time.Since(began)
			}
		})
	}
	running.Wait()
	b.StopTimer()
	p.report(took, cpu)
}

// askOneByte makes a connection for one byte and its echo.
func (p *tcpPath) askOneByte() error {
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		return err
	}
	defer c.Close()
	if _, err := c.Write(append(tcpCommand('e', 0), 1)); err != nil {
		return err
	}
	_, err = io.ReadFull(c, make([]byte, 1))
	return err
}

// report is for what is done many times in an operation.
func (p *tcpPath) report(took []time.Duration, cpu time.Duration) {
	slices.Sort(took)
	p.b.ReportMetric(float64(took[len(took)/2].Nanoseconds())/1e3, "median-µs")
	p.b.ReportMetric(float64(took[len(took)*99/100].Nanoseconds())/1e3, "p99-µs")
	p.b.ReportMetric(float64((p.cpu()-cpu).Nanoseconds())/1e3/float64(len(took)), "cpu-µs")
}

func (p *tcpPath) must(_ int, err error) {
	if err != nil {
		p.b.Helper()
		p.b.Fatal(err)
	}
}

func (p *tcpPath) dial() net.Conn {
	p.b.Helper()
	c, err := net.Dial("tcp", p.addr)
	if err != nil {
		p.b.Fatal(err)
	}
	return c
}

// command tells the service what to do.
func (p *tcpPath) command(c net.Conn, kind byte, n int64) {
	p.b.Helper()
	p.must(c.Write(tcpCommand(kind, n)))
}

// exchange moves n bytes down or up, on a connection of its own.
func (p *tcpPath) exchange(kind byte, n int64) {
	p.b.Helper()
	c := p.dial()
	defer c.Close()
	p.command(c, kind, n)
	if kind == 'u' {
		p.must(0, writeZeros(c, n))
		n = 1
	}
	p.must(0, readAway(c, n))
}

// cpu is what the processes have used so far.
func (p *tcpPath) cpu() (sum time.Duration) {
	p.b.Helper()
	for _, pid := range p.pids {
		text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		if err != nil {
			p.b.Fatal(err)
		}
		f := strings.Fields(string(text[strings.LastIndexByte(string(text), ')')+2:]))
		for _, ticks := range f[11:13] { // utime and stime
			n, _ := strconv.ParseInt(ticks, 10, 64)
			sum += time.Duration(n) * (time.Second / 100) // USER_HZ
		}
	}
	return sum
}

// start runs a process until the benchmark ends.
func (p *tcpPath) start(path string, args ...string) {
	p.b.Helper()
	cmd := exec.Command(path, args...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		p.b.Fatal(err)
	}
	p.b.Cleanup(func() {
		cmd.Process.Kill()
		cmd.Wait()
	})
	p.pids = append(p.pids, cmd.Process.Pid)
}

// startPiko runs forward, one node or two, and agent.
func (p *tcpPath) startPiko(path string, hop bool) {
	node := func(gossip, join string) (proxy, upstream string) {
		proxy, upstream = freeBenchAddr(p.b), freeBenchAddr(p.b)
		args := []string{"server", "--proxy.bind-addr", proxy, "--upstream.bind-addr", upstream, "--admin.bind-addr", "127.0.0.1:0",
			"--cluster.gossip.bind-addr", gossip, "--cluster.secret", "0123456789abcdef", "--log.level", "error"}
		if join != "" {
			args = append(args, "--cluster.join", join)
		}
		p.start(path, args...)
		return proxy, upstream
	}
	gossip := freeBenchAddr(p.b)
	proxy, upstream := node(gossip, "")
	if hop {
		p.awaitOpen(proxy)
		proxy, _ = node("127.0.0.1:0", gossip)
	}
	p.start(path, "agent", "tcp", "bench", p.service, "--connect.url", "http://"+upstream, "--connections", "1", "--access-log.disable", "--log.level", "error")
	p.addr = freeBenchAddr(p.b)
	p.start(path, "forward", "tcp", p.addr, "bench", "--connect.url", "http://"+proxy, "--log.level", "error")
	p.awaitOpen(p.addr)
}

// startHaproxies runs what users would put in between otherwise, that many in a row.
func (p *tcpPath) startHaproxies(count int) {
	path := "/usr/sbin/haproxy"
	if found, err := exec.LookPath("haproxy"); err == nil {
		path = found
	} else if _, err := os.Stat(path); err != nil {
		p.b.Skip("haproxy is not installed")
	}
	p.addr = p.service
	for i := range count {
		target := p.addr
		p.addr = freeBenchAddr(p.b)
		cfg := filepath.Join(p.b.TempDir(), fmt.Sprintf("haproxy%d.cfg", i))
		text := fmt.Sprintf("defaults\n\tmode tcp\n\ttimeout connect 5s\n\ttimeout client 1m\n\ttimeout server 1m\nlisten bench\n\tbind %s\n\tserver one %s\n", p.addr, target)
		if err := os.WriteFile(cfg, []byte(text), 0o600); err != nil {
			p.b.Fatal(err)
		}
		p.start(path, "-db", "-f", cfg)
		p.awaitOpen(p.addr)
	}
}

// awaitOpen waits until something listens.
func (p *tcpPath) awaitOpen(addr string) {
	p.b.Helper()
	for deadline := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("tcp", addr)
		if err == nil {
			c.Close()
			return
		}
		if time.Now().After(deadline) {
			p.b.Fatal(err)
		}
		<-time.After(5 * time.Millisecond)
	}
}
