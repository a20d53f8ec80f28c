package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	benchpkg "piko/bench"
)

func TestBenchFlagsAreChecked(t *testing.T) {
	good := benchHTTPCmd{benchLoad: benchLoad{Requests: 1, Clients: 1, Endpoints: 1, Upstreams: 1, Rounds: 1, Timeout: 1, Connect: benchConnect{Timeout: 1}}}
	if err := good.Validate(); err != nil {
		t.Errorf("good flags are refused: %v", err)
	}
	for name, spoil := range map[string]func(*benchHTTPCmd){
		"--requests":  func(c *benchHTTPCmd) { c.Requests = 0 },
		"--clients":   func(c *benchHTTPCmd) { c.Clients = -1 },
		"--endpoints": func(c *benchHTTPCmd) { c.Endpoints = 0 },
		"--size":      func(c *benchHTTPCmd) { c.Size = -1 },
		"--duration":  func(c *benchHTTPCmd) { c.Duration = -1 },
		"--rate":      func(c *benchHTTPCmd) { c.Rate = -1 },
		"--warmup":    func(c *benchHTTPCmd) { c.Warmup = -1 },
		"--rounds":    func(c *benchHTTPCmd) { c.Rounds = 0 },
		"--timeout":   func(c *benchHTTPCmd) { c.Timeout = 0 },
		"--upstreams": func(c *benchHTTPCmd) { c.Endpoints = 2 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("bad %s: error %v, want one that names it", name, err)
		}
	}
}

func TestBenchMeasuresANode(t *testing.T) {
	t.Parallel()
	cfg := loopbackServerConfig()
	node, err := newServer(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	process := fmt.Sprintf("node=%d", os.Getpid())
	bench := func(kind string, flags ...string) (status int, out string) {
		var stdout bytes.Buffer
		args := append([]string{"bench", kind, "--connect.upstream-url", "http://" + node.UpstreamAddr().String()}, flags...)
		status = run(args, demoProcess(t.Context(), &stdout, nil))
		return status, stdout.String()
	}
	proxy := "http://" + node.ProxyAddr().String()
	load := []string{"--requests", "60", "--clients", "4", "--endpoints", "3", "--upstreams", "5", "--json", "--connect.proxy-url", proxy}
	for _, c := range []struct {
		kind  string
		flags []string
	}{
		{"http", []string{"--size", "0"}},
		{"http", []string{"--size", "13"}},
		{"http", []string{"--size", "100000"}},
		{"grpc", nil},
		{"tcp", nil},
		{"tcp", []string{"--size", "100000", "--new-connection"}},
	} {
		status, out := bench(c.kind, append(load, c.flags...)...)
		var r benchpkg.Result
		if err := json.Unmarshal([]byte(out), &r); err != nil || status != exitOK || r.Requests != 60 || r.Failed != 0 {
			t.Errorf("bench %s %v: status %d, error %v, result %s", c.kind, c.flags, status, err, out)
		}
	}
	for _, c := range []struct {
		kind, want string
		flags      []string
	}{
		{"idle", `"lost": 0`, []string{"--tunnels", "5", "--hold", "0s"}},
		{"connect", `"back": 5`, []string{"--listeners", "5"}},
		{"cluster", `"unreachable": 0`, []string{"--endpoints", "3", "--pause", "0s", "--connect.proxy-url", proxy}},
	} {
		if status, out := bench(c.kind, append(c.flags, "--json")...); status != exitOK || !strings.Contains(out, c.want) {
			t.Errorf("bench %s: status %d, want %s in %s", c.kind, status, c.want, out)
		}
	}
	if status, out := bench("http", append(load, "--connect.proxy-url", "http://"+node.AdminAddr().String(), "--connect.timeout", "100ms")...); status != exitFailure || out != "" {
		t.Errorf("bench with a wrong proxy URL: status %d, result %q, want a failure and none", status, out)
	}

	// Against another: the echo service itself, without anything between.
	echo := freeLoopback(t)
	status, out := bench("http", append(load, "--serve", echo, "--against", "http://"+echo, "--header", "Host: a.example.com", "--rounds", "2", "--pid", process, "--against-pid", process)...)
	var c benchpkg.Comparison
	err = json.Unmarshal([]byte(out), &c)
	if runtime.GOOS == "linux" && (err != nil || status != exitOK || len(c.Rounds) != 2 || c.Ratios.Throughput <= 0) {
		t.Errorf("comparison: status %d, error %v, result %s", status, err, out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("node: %v", err)
	}
	if status, _ := bench("http", append(load, "--connect.timeout", "100ms")...); status != exitFailure {
		t.Errorf("bench without a server: status %d, want %d", status, exitFailure)
	}
}

// freeLoopback is an address that nobody listens on.
func freeLoopback(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}
