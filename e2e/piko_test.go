//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os/exec"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// server is a running `piko server`.
type server struct {
	*process
	proxy, upstream, admin string // host:port
	args                   []string
}

// startServer starts a node on ports of its own and returns when it says that it is ready.
func startServer(t testing.TB, args ...string) *server {
	t.Helper()
	s := &server{proxy: freeAddr(t), upstream: freeAddr(t), admin: freeAddr(t), args: args}
	s.start(t)
	return s
}

// start starts the node, again on the same ports if it ran before.
func (s *server) start(t testing.TB) {
	t.Helper()
	s.startWith(t, nil)
	s.waitReady(t)
}

func (s *server) startWith(t testing.TB, env []string) {
	t.Helper()
	s.process = start(t, "server", env, pikoBinary, append([]string{
		"server", "--proxy.bind-addr", s.proxy, "--upstream.bind-addr", s.upstream, "--admin.bind-addr", s.admin,
		"--cluster.gossip.bind-addr", "127.0.0.1:0",
	}, s.args...)...)
	t.Cleanup(s.process.checkLog)
}

func (s *server) waitReady(t testing.TB) {
	t.Helper()
	eventually(t, 10*time.Second, "the node is ready", func() error {
		if !s.running() {
			return fmt.Errorf("it ended: %v", s.cmd.ProcessState)
		}
		_, err := fetch("http://" + s.admin + "/ready")
		return err
	})
}

// endpoints returns how many upstreams this node has for each endpoint.
func (s *server) endpoints() (map[string]int, error) {
	body, err := fetch("http://" + s.admin + "/status/upstream/endpoints")
	if err != nil {
		return nil, err
	}
	var counts map[string]int
	if err := json.Unmarshal(body, &counts); err != nil {
		return nil, fmt.Errorf("read endpoints: %w", err)
	}
	return counts, nil
}

// waitUpstreams waits until the node has n upstreams for the endpoint.
func (s *server) waitUpstreams(t testing.TB, endpoint string, n int, within time.Duration) {
	t.Helper()
	eventually(t, within, fmt.Sprintf("%d upstreams on %q", n, endpoint), func() error {
		counts, err := s.endpoints()
		if err == nil && counts[endpoint] != n {
			err = fmt.Errorf("there are %d", counts[endpoint])
		}
		return err
	})
}

// agent starts `piko agent http` towards this node and returns when it is registered.
func (s *server) agent(t testing.TB, endpoint, addr string, args ...string) *process {
	t.Helper()
	counts, err := s.endpoints()
	if err != nil {
		t.Fatalf("read endpoints: %v", err)
	}
	p := startAgent(t, "http://"+s.upstream, endpoint, addr, args...)
	s.waitUpstreams(t, endpoint, counts[endpoint]+1, 10*time.Second)
	return p
}

// startAgent starts `piko agent http` and does not wait for anything.
func startAgent(t testing.TB, url, endpoint, addr string, args ...string) *process {
	t.Helper()
	p := start(t, "agent", nil, pikoBinary, append([]string{"agent", "http", endpoint, addr, "--connect.url", url}, args...)...)
	t.Cleanup(p.checkLog)
	return p
}

// url is where a client finds path on the proxy port.
func (s *server) url(path string) string { return "http://" + s.proxy + path }

// goroutines returns how many the node has.
func (s *server) goroutines() (int, error) {
	body, err := fetch("http://" + s.admin + "/debug/pprof/goroutine?debug=1")
	if err != nil {
		return 0, err
	}
	return firstNumber(`goroutine profile: total (\d+)`, body)
}

func firstNumber(pattern string, body []byte) (int, error) {
	m := regexp.MustCompile(pattern).FindSubmatch(body)
	if m == nil {
		return 0, fmt.Errorf("find %s: not there", pattern)
	}
	return strconv.Atoi(string(m[1]))
}

// fetch reads a URL with a new connection and wants status 200.
func fetch(url string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	req.Close = true
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("status %s: %s", res.Status, body)
	}
	return body, err
}

// result is how a program ended that ran to its end.
type result struct {
	code           int
	stdout, stderr string
	took           time.Duration
}

// piko runs the program to its end.
func piko(t testing.TB, args ...string) result {
	t.Helper()
	return run(t, 60*time.Second, nil, pikoBinary, args...)
}

// run runs a program to its end, killing it after the given time, which fails the test. It may
// be called by goroutines other than the test's.
func run(t testing.TB, limit time.Duration, stdin io.Reader, path string, args ...string) result {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.Env = cleanEnvironment()
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var stdout, stderr strings.Builder
	cmd.Stdin, cmd.Stdout, cmd.Stderr = stdin, &stdout, &stderr
	began := time.Now()
	err := cmd.Run()
	if ctx.Err() != nil {
		t.Errorf("run %s %q: not ended within %v\n%s%s", path, args, limit, stdout.String(), stderr.String())
	}
	if _, exited := errors.AsType[*exec.ExitError](err); err != nil && !exited && ctx.Err() == nil {
		t.Errorf("run %s %q: %v", path, args, err)
	}
	// Of a program that could not be started there is no state, which ExitCode takes for -1.
	return result{cmd.ProcessState.ExitCode(), stdout.String(), stderr.String(), time.Since(began)}
}

// nextPort is the last port that freeAddr looked at.
var nextPort atomic.Uint32

// freeAddr returns a local address that nothing listens on. It stays below the range that
// the kernel takes for outgoing connections, so that none of them can take it before the
// process under test does, and it can be bound again after a restart.
func freeAddr(t testing.TB) string {
	t.Helper()
	nextPort.CompareAndSwap(0, 10000+uint32(time.Now().UnixNano()/1000%8000))
	for range 2000 {
		addr := fmt.Sprintf("127.0.0.1:%d", nextPort.Add(1))
		if l, err := net.Listen("tcp", addr); err == nil {
			l.Close()
			return addr
		}
	}
	t.Fatal("find a free port: none")
	return ""
}
