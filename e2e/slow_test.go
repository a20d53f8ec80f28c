//go:build e2e

package e2e

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// answering is a service of a page that is more than fits into a window and a socket's buffer
// on its way. It counts.
type answering struct {
	page                   string
	uploads, large, ranges atomic.Int32
}

func (s *answering) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPost:
		s.uploads.Add(1)
		io.Copy(io.Discard, r.Body)
	case r.Header.Get("Range") != "":
		s.ranges.Add(1)
	case r.URL.Path == "/large":
		s.large.Add(1)
		io.WriteString(w, s.page)
	}
}

func startAnswering(t testing.TB) (s *answering, addr string) {
	t.Helper()
	s = &answering{page: strings.Repeat("a page of a service ", 50_000)}
	web := httptest.NewServer(s)
	t.Cleanup(web.Close)
	return s, web.Listener.Addr().String()
}

// slowhttptest has 1,000 connections that send headers or bodies, or read, as slowly as they
// can, and says whether the server still answers others meanwhile.
func TestSlowClientsLeaveTheServiceAvailable(t *testing.T) {
	attacker := tool(t, "slowhttptest")
	s := startServer(t, "--proxy.domain", "test")
	service, addr := startAnswering(t)
	s.agent(t, "e", addr)
	target := "http://" + s.proxy
	cookie := []string{"-j", "a=b\r\nx-piko-endpoint: e"} // it has no flag for a header, but takes this value as it is
	for name, attacks := range map[string]map[string][]string{
		"headers": {
			"proxy":    append(cookie, "-H", "-u", target+"/"),
			"admin":    {"-H", "-u", "http://" + s.admin + "/metrics"},
			"upstream": {"-H", "-u", "http://" + s.upstream + "/"},
		},
		"bodies": {"proxy": append(cookie, "-B", "-s", "100000", "-u", target+"/")},
		"answers": {
			"read slowly": append(cookie, "-X", "-w", "10", "-y", "20", "-n", "1", "-z", "5", "-u", target+"/large"),
			"of ranges":   append(cookie, "-R", "-u", target+"/large"),
		},
	} {
		t.Run(name, func(t *testing.T) {
			var running sync.WaitGroup
			for on, args := range attacks {
				running.Go(func() { attackSlowly(t, attacker, on, args) })
			}
			attacked := make(chan struct{})
			go func() {
				running.Wait()
				close(attacked)
			}()
			for served := 0; ; served++ {
				if err := s.reachedAs("e.test"); err != nil {
					t.Errorf("a client meanwhile, after %d requests: %v", served, err)
				}
				select {
				case <-attacked:
					t.Logf("a client was served %d times meanwhile", served)
					return
				case <-time.After(20 * time.Millisecond):
				}
			}
		})
	}
	uploads, large, ranges := service.uploads.Load(), service.large.Load(), service.ranges.Load()
	if uploads < 100 || large < 100 || ranges < 100 {
		t.Errorf("the attacks did not reach the service: %d slow uploads, %d slow downloads, %d of ranges", uploads, large, ranges)
	}
}

var (
	available   = regexp.MustCompile(`serviceavailable:(YES|NO)`)
	colourCodes = regexp.MustCompile(`\x1b\[[0-9;]*m|[ \t]`)
)

// attackSlowly runs slowhttptest and wants it to find the service available all the time.
func attackSlowly(t *testing.T, attacker, on string, args []string) {
	cmd := exec.Command(attacker, append([]string{"-c", "1000", "-r", "500", "-i", "2", "-l", "3", "-p", "5"}, args...)...)
	out, err := cmd.CombinedOutput()
	text := colourCodes.ReplaceAllString(string(out), "")
	answers := available.FindAllStringSubmatch(text, -1)
	if len(answers) == 0 {
		t.Errorf("%s: slowhttptest does not say whether the service is available: %v\n%s", on, err, tail(text, 20))
	}
	for _, a := range answers {
		if a[1] != "YES" {
			t.Errorf("%s: the service was not available:\n%s", on, tail(text, 20))
			return
		}
	}
}

// reachedAs makes a request on a new connection.
func (s *server) reachedAs(host string) error {
	req, err := http.NewRequest(http.MethodGet, s.url("/"), nil)
	if err != nil {
		return err
	}
	req.Host, req.Close = host, true
	c := http.Client{Timeout: 5 * time.Second}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	if res.StatusCode != http.StatusOK {
		return fmt.Errorf("status %d", res.StatusCode)
	}
	return nil
}

// manyConns is how many idle connections a port has to bear, or as many as this machine lets
// both ends have.
func manyConns(t testing.TB) int {
	t.Helper()
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		t.Fatal(err)
	}
	n := 5000
	if most := int(min(l.Cur, 1<<30)) - 1000; most < n {
		t.Logf("only %d descriptors: %d connections", l.Cur, most)
		n = most
	}
	return n
}

// flood opens so many connections that say something, or nothing, and then wait. from is the
// address that they come from, if that matters.
func flood(t testing.TB, addr string, n int, say, from string) (end func()) {
	t.Helper()
	d := net.Dialer{Timeout: 10 * time.Second}
	if from != "" {
		d.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	conns := make([]net.Conn, n)
	var dialling sync.WaitGroup
	for part := range 16 {
		dialling.Go(func() {
			for i := part; i < n; i += 16 {
				nc, err := d.Dial("tcp", addr)
				if err != nil {
					t.Errorf("connection %d to %s: %v", i, addr, err)
					return
				}
				io.WriteString(nc, say)
				conns[i] = nc
			}
		})
	}
	dialling.Wait()
	end = sync.OnceFunc(func() {
		for _, nc := range conns {
			if nc != nil {
				nc.Close()
			}
		}
	})
	t.Cleanup(end)
	return end
}

// 5,000 connections that say nothing, on each port in turn: all ports go on answering.
func TestManyIdleConnectionsOnEachPort(t *testing.T) {
	n := manyConns(t)
	gossip := freeAddr(t)
	s := startServer(t, "--cluster.gossip.bind-addr", gossip, "--proxy.domain", "test")
	_, addr := startAnswering(t)
	s.agent(t, "e", addr)
	before := s.memory(t, "VmRSS")
	for _, port := range []struct{ name, addr, from string }{{"proxy", s.proxy, ""}, {"upstream", s.upstream, ""}, {"admin", s.admin, ""}, {"gossip", gossip, "127.0.0.2"}} {
		t.Run(port.name, func(t *testing.T) {
			end := flood(t, port.addr, n, "", port.from)
			if err := s.reachedAs("e.test"); err != nil {
				t.Errorf("a request: %v", err)
			}
			if _, err := fetch("http://" + s.admin + "/ready"); err != nil {
				t.Errorf("the admin port: %v", err)
			}
			a := startAgent(t, "http://"+s.upstream, "new-"+port.name, "127.0.0.1:1")
			s.waitUpstreams(t, "new-"+port.name, 1, 10*time.Second)
			a.kill(t)
			if port.name == "gossip" {
				startServer(t, "--cluster.join", gossip).kill(t)
			}
			t.Logf("%d connections cost %.1f KiB each", n, float64(s.memory(t, "VmRSS")-before)/1024/float64(n))
			end()
		})
	}
}

// limited starts a node that may have so many descriptors.
func limited(t testing.TB, files int, args ...string) *server {
	t.Helper()
	s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t)}
	s.process = start(t, "server", nil, tool(t, "prlimit"), append([]string{
		fmt.Sprintf("--nofile=%d:%d", files, files), pikoBinary, "server", "--cluster.gossip.bind-addr", "127.0.0.1:0",
		"--proxy.bind-addr", s.proxy, "--upstream.bind-addr", s.upstream, "--admin.bind-addr", s.admin,
	}, args...)...)
	t.Cleanup(s.process.checkLog)
	s.waitReady(t)
	return s
}

// cpuTime is what the process has used of the processors.
func (p *process) cpuTime(t testing.TB) time.Duration {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("read times of %s: %v", p.name, err)
	}
	// Behind the name, which may have spaces: the state, then numbers; see proc(5).
	fields := strings.Fields(string(b[strings.LastIndexByte(string(b), ')')+1:]))
	var ticks time.Duration
	for _, f := range fields[11:13] { // in user and kernel mode, in hundredths of a second
		n, err := strconv.Atoi(f)
		if err != nil {
			t.Fatalf("read times of %s: %v", p.name, err)
		}
		ticks += time.Duration(n)
	}
	return ticks * 10 * time.Millisecond
}

// A node of 200 descriptors and 1,000 clients whose requests take for ever: operators are
// answered all the time, the node does not spin and says what is wrong, and clients are served
// again as soon as there are descriptors.
func TestOutOfDescriptors(t *testing.T) {
	release := make(chan struct{})
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/wait" {
			select {
			case <-release:
			case <-r.Context().Done():
			}
		}
	}))
	t.Cleanup(service.Close)
	t.Cleanup(sync.OnceFunc(func() { close(release) }))
	s := limited(t, 200, "--proxy.domain", "test")
	s.agent(t, "e", service.Listener.Addr().String())

	for name, say := range map[string]string{
		"busy":   "GET /wait HTTP/1.1\r\nHost: e.test\r\n\r\n",
		"silent": "",
	} {
		t.Run(name, func(t *testing.T) {
			end := flood(t, s.proxy, 1000, say, "")
			from, used := time.Now(), s.cpuTime(t)
			for range 20 {
				began := time.Now()
				if _, err := fetch("http://" + s.admin + "/health"); err != nil {
					t.Fatalf("the admin port: %v", err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("the admin port answers after %v", took)
				}
				<-time.After(50 * time.Millisecond)
			}
			if used := s.cpuTime(t) - used; used > time.Since(from)/2 {
				t.Errorf("the node used %v of the processors in %v", used, time.Since(from))
			}
			if name == "busy" {
				metrics, err := fetch("http://" + s.admin + "/metrics")
				if err != nil {
					t.Fatal(err)
				}
				if n, err := firstNumber(`piko_port_accept_errors_total\{error="descriptors",port="proxy"\} (\d+)`, metrics); err != nil || n == 0 {
					t.Errorf("%d times were there no descriptors, %v", n, err)
				}
				if !strings.Contains(s.readOutput(), "connections wait") {
					t.Error("the log does not say that connections wait")
				}
				end()
			}
			began := time.Now()
			eventually(t, 5*time.Second, "clients are served again", func() error { return s.reachedAs("e.test") })
			t.Logf("%s: served again after %v", name, time.Since(began).Round(time.Millisecond))
			end()
		})
	}
	s.stop(t, 20*time.Second)
}
