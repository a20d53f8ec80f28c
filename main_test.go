package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	flag.Parse()
	flag.Set("test.parallel", "4") // most tests of nodes wait for each other
	goleak.VerifyTestMain(m)
}

// lockedBuffer is an output that several goroutines write to.
type lockedBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// testProcess is piko without an operating system around it.
type testProcess struct {
	process
	out, err lockedBuffer
	sigs     chan os.Signal
}

// newTestProcess has the environment env, as NAME=value.
func newTestProcess(t *testing.T, env ...string) *testProcess {
	t.Helper()
	p := &testProcess{sigs: make(chan os.Signal, 2)}
	p.ctx = t.Context()
	p.stdout, p.stderr, p.signals = &p.out, &p.err, p.sigs
	p.getenv = func(name string) (string, bool) {
		for _, e := range env {
			if value, ok := strings.CutPrefix(e, name+"="); ok {
				return value, true
			}
		}
		return "", false
	}
	return p
}

// runPiko runs a command that ends by itself.
func runPiko(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	p := newTestProcess(t)
	ctx, cancel := context.WithTimeoutCause(p.ctx, 10*time.Second, errors.New("the test waited 10 s for the command to end"))
	defer cancel()
	p.ctx = ctx
	status = run(args, &p.process)
	return status, p.out.String(), p.err.String()
}

// writeFile makes a file in a directory of the test's own.
func writeFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

// eventually fails the test if check does not succeed within 10 s, with the
// last reason.
func eventually(t *testing.T, check func() error) {
	t.Helper()
	deadline := time.NewTimer(10 * time.Second)
	defer deadline.Stop()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		err := check()
		if err == nil {
			return
		}
		select {
		case <-tick.C:
		case <-deadline.C:
			t.Fatalf("never became true: %v", err)
		}
	}
}

func TestExitStatusOfUsageErrorsIs2WithARemedy(t *testing.T) {
	for _, tt := range []struct {
		name string
		args []string
		want []string // in stderr
	}{
		{"no command", nil, []string{`"server"`, "Try: piko --help"}},
		{"unknown command", []string{"sevrer"}, []string{"sevrer", `did you mean "server"`, "Try: piko --help"}},
		{"unknown flag", []string{"server", "--proxy.bind-adr", ":1"}, []string{`did you mean "--proxy.bind-addr"`, "Try: piko server --help"}},
		{"flag without its value", []string{"server", "--proxy.timeout"}, []string{"--proxy.timeout", "Try: piko server --help"}},
		{"duration without a unit", []string{"server", "--proxy.timeout", "10"}, []string{"--proxy.timeout", "write 10s", "Try: piko server --help"}},
		{"duration that is none", []string{"server", "--grace-period", "soon"}, []string{"--grace-period", `"soon" is not a duration`}},
		{"negative duration", []string{"server", "--grace-period=-1s"}, []string{"negative"}},
		{"port without a colon", []string{"server", "--proxy.bind-addr", "8000"}, []string{"--proxy.bind-addr", "write :8000"}},
		{"port too large", []string{"server", "--admin.bind-addr", ":80000"}, []string{"--admin.bind-addr", "0 to 65535"}},
		{"address that is none", []string{"server", "--upstream.bind-addr", "http://localhost:1"}, []string{"--upstream.bind-addr", "write it like"}},
		{"log level that is none", []string{"server", "--log.level", "verbose"}, []string{"--log.level", "verbose", "debug"}},
		{"size that is none", []string{"server", "--upstream.stream-window", "a lot"}, []string{"--upstream.stream-window", "512KiB"}},
		{"window too small", []string{"server", "--upstream.stream-window", "1KiB"}, []string{"--upstream.stream-window", "256KiB to 16MiB"}},
		{"delay longer than the grace period", []string{"server", "--shutdown-delay", "2m"}, []string{"--shutdown-delay", "--grace-period"}},
		{"node id with forbidden bytes", []string{"server", "--cluster.node-id", "a b"}, []string{"--cluster.node-id", "' '"}},
		{"allow and block list", []string{"server", "--proxy.access-log.request-headers.allow-list=a", "--proxy.access-log.request-headers.block-list=b"}, []string{"--proxy.access-log.request-headers"}},
		{"status of nothing", []string{"server", "status"}, []string{"Try: piko server status --help"}},
		{"status format that is none", []string{"server", "status", "upstream", "endpoints", "-o", "xml"}, []string{"yaml"}},
		{"agent without a command", []string{"agent"}, []string{"http", "start", "Try: piko agent --help"}},
		{"agent http without an address", []string{"agent", "http", "my-endpoint"}, []string{"<addr>", "Try: piko agent http --help"}},
		{"agent http with a bad endpoint", []string{"agent", "http", "a/b", "3000"}, []string{"a/b", "letters"}},
		{"agent http with a bad address", []string{"agent", "http", "e", "nonsense"}, []string{"nonsense"}},
		{"agent http with a bad url", []string{"agent", "http", "e", "3000", "--connect.url", "piko.example.com"}, []string{"--connect.url", "http://host:port"}},
		{"agent tcp with a bad endpoint", []string{"agent", "tcp", "a/b", "3000"}, []string{"a/b", "letters"}},
		{"agent tcp with a URL", []string{"agent", "tcp", "e", "http://localhost:3000"}, []string{"host:port"}},
		{"agent tcp with a PROXY protocol that is none", []string{"agent", "tcp", "e", "3000", "--proxy-protocol", "v3"}, []string{"--proxy-protocol", "v1"}},
		{"agent start without listeners", []string{"agent", "start"}, []string{"no listeners configured", "Try: piko agent start --help"}},
		{"certificate without key", []string{"agent", "http", "e", "3000", "--connect.tls.cert", "/x"}, []string{"--connect.tls.key"}},
		{"authorities that are not there", []string{"agent", "http", "e", "3000", "--connect.tls.root-cas", "/nowhere.pem"}, []string{"--connect.tls.root-cas", "no such file"}},
		{"file that is not there", []string{"server", "--config.path", "/nowhere.yaml"}, []string{"--config.path", "/nowhere.yaml", "no such file"}},
		{"shell that is none", []string{"completion", "tcsh"}, []string{"bash"}},
		{"config check without a file", []string{"config", "check"}, []string{"--config.path", "Try: piko config check --help"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			status, stdout, stderr := runPiko(t, tt.args...)
			if status != exitUsage {
				t.Errorf("exit status %d, want %d; stderr: %s", status, exitUsage, stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr does not say %q:\n%s", want, stderr)
				}
			}
			if stdout != "" {
				t.Errorf("stdout has %q, want nothing", stdout)
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %v, want at most 1 s", took)
			}
		})
	}
}

func TestHelpAndVersionSucceed(t *testing.T) {
	for _, tt := range []struct {
		args []string
		want []string
	}{
		{[]string{"--help"}, []string{"Usage: piko <command>", "piko agent http my-endpoint 3000", "server status upstream endpoints"}},
		{[]string{"help", "server"}, []string{"Usage: piko server [flags]"}},
		{[]string{"server", "--help"}, []string{
			"Usage: piko server [flags]", "--proxy.bind-addr HOST:PORT", "[default: :8000, env: PIKO_PROXY_BIND_ADDR]",
			"--proxy.http.read-timeout", "--upstream.stream-window", "--cluster.node-id-prefix", "--shutdown-delay", "--config.path FILE", "Examples:", "SIGHUP"}},
		{[]string{"server", "--proxy.timeout", "1s", "-h"}, []string{"Usage: piko server [flags]"}},
		{[]string{"server", "status", "upstream", "endpoints", "--help"}, []string{"--server.url URL", "http://localhost:8002", "yaml|json|table"}},
		{[]string{"agent", "http", "--help"}, []string{
			"Usage: piko agent http <endpoint> <addr> [flags]", "--connect.url URL", "--connect.tls.root-cas", "--connect.proxy-url",
			"--access-log.level", "--timeout DURATION", "--http-client.max-idle-conns", "Examples:"}},
		{[]string{"agent", "start", "--help"}, []string{"listeners:", "--connect.token", "SIGHUP"}},
		{[]string{"agent", "tcp", "--help"}, []string{"Usage: piko agent tcp <endpoint> <addr> [flags]", "--proxy-protocol off|v1|v2", "piko agent tcp my-database 5432"}},
		{[]string{"forward", "tcp", "--help"}, []string{"Usage: piko forward tcp <addr> <endpoint> [flags]", "--connect.token-file FILE", "piko forward tcp 5432 my-database"}},
		{[]string{"forward", "start", "--help"}, []string{"ports:", "token_file:", "SIGHUP"}},
		{[]string{"--version"}, []string{"piko "}},
		{[]string{"version"}, []string{"piko ", "go1."}},
	} {
		t.Run(strings.Join(tt.args, " "), func(t *testing.T) {
			status, stdout, stderr := runPiko(t, tt.args...)
			if status != exitOK || stderr != "" {
				t.Errorf("exit status %d, stderr %q; want 0 and nothing", status, stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stdout, want) {
					t.Errorf("stdout does not say %q:\n%s", want, stdout)
				}
			}
		})
	}
}

func TestFailuresExitWith1AndOneLine(t *testing.T) {
	taken, err := openTCP("test", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	for _, tt := range []struct {
		name string
		args []string
		want []string
	}{
		{"port in use", []string{"server", "--proxy.bind-addr", taken.Addr().String()}, []string{taken.Addr().String(), "--proxy.bind-addr", "address already in use", "another process"}},
		{"address of another machine", []string{"server", "--proxy.bind-addr", "192.0.2.1:0"}, []string{"192.0.2.1:0", "no network interface"}},
		{"host that is none", []string{"server", "--proxy.bind-addr", "no-such-host.invalid:0"}, []string{"no-such-host.invalid", "--proxy.bind-addr"}},
		{"status of a node that is not there", []string{"server", "status", "upstream", "endpoints", "--server.url", "http://127.0.0.1:1"}, []string{"http://127.0.0.1:1"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			began := time.Now()
			status, _, stderr := runPiko(t, tt.args...)
			if status != exitFailure {
				t.Errorf("exit status %d, want %d", status, exitFailure)
			}
			if strings.Count(stderr, "piko: ") != 1 {
				t.Errorf("stderr has not one line of ours:\n%s", stderr)
			}
			for _, want := range tt.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("stderr does not say %q:\n%s", want, stderr)
				}
			}
			if took := time.Since(began); took > time.Second {
				t.Errorf("took %v, want at most 1 s", took)
			}
		})
	}
}

// startRun runs a command in the background until the test's end.
func startRun(t *testing.T, p *testProcess, args ...string) (status <-chan int) {
	t.Helper()
	out := make(chan int, 1)
	ctx, cancel := context.WithCancel(p.ctx)
	p.ctx = ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		out <- run(args, &p.process)
	}()
	t.Cleanup(func() {
		cancel()
		<-ended
	})
	return out
}

const interrupt = syscall.SIGINT

var anyPorts = []string{"--proxy.bind-addr=127.0.0.1:0", "--upstream.bind-addr=127.0.0.1:0", "--admin.bind-addr=127.0.0.1:0", "--cluster.gossip.bind-addr=127.0.0.1:0"}

func TestFirstSignalStopsInGoodOrder(t *testing.T) {
	t.Parallel()
	p := newTestProcess(t)
	status := startRun(t, p, append([]string{"server"}, anyPorts...)...)
	eventually(t, func() error { return logged(p, "node ready") })
	p.sigs <- syscall.SIGTERM
	if got := <-status; got != exitOK {
		t.Errorf("exit status %d, want 0", got)
	}
	for _, msg := range []string{"node started", "node draining", "received terminated", "node stopped"} {
		if err := logged(p, msg); err != nil {
			t.Error(err)
		}
	}
}

func logged(p *testProcess, msg string) error {
	if text := p.err.String(); !strings.Contains(text, msg) {
		return fmt.Errorf("the log does not say %q:\n%s", msg, text)
	}
	return nil
}

// stuckWriter is standard error as a pipe that nobody reads.
type stuckWriter chan struct{}

func (s stuckWriter) Write([]byte) (int, error) { <-s; return 0, io.ErrClosedPipe }

func TestLogThatNobodyReadsHoldsUpNothing(t *testing.T) {
	t.Parallel()
	path, receive := systemd(t)
	p := newTestProcess(t, "NOTIFY_SOCKET="+path)
	stuck := make(stuckWriter)
	t.Cleanup(func() { close(stuck) }) // last: after the program has ended
	p.stderr = stuck
	status := startRun(t, p, append([]string{"server"}, anyPorts...)...)
	if got := receive(); !strings.HasPrefix(got, "READY=1") {
		t.Fatalf("got %q, want READY", got)
	}
	p.sigs <- interrupt
	select {
	case got := <-status:
		if got != exitOK {
			t.Errorf("exit status %d, want 0", got)
		}
	case <-time.After(10 * time.Second):
		t.Fatal("the server does not end")
	}
}
