//go:build e2e

package e2e

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test started. It is killed when the test ends, and what it
// wrote is shown when the test failed.
type process struct {
	// Static after start.
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	stdout string // path
	stderr string // path
	exited chan struct{}

	// Written before exited is closed, then only read.
	exitedAt time.Time
}

// start runs a program. Its output goes to files rather than pipes, so that nothing of what
// it wrote before it died is lost and a slow test never blocks it.
func start(t testing.TB, name string, env []string, path string, args ...string) *process {
	t.Helper()
	return startLoggingTo(t, nil, name, env, path, args...)
}

// startLoggingTo is start with another standard error than the file that lines reads.
func startLoggingTo(t testing.TB, other *os.File, name string, env []string, path string, args ...string) *process {
	t.Helper()
	dir := t.TempDir()
	p := &process{
		t: t, name: name,
		cmd:    exec.Command(path, args...),
		stdout: filepath.Join(dir, "stdout"),
		stderr: filepath.Join(dir, "stderr"),
		exited: make(chan struct{}),
	}
	stdout, stderr := create(t, p.stdout), create(t, p.stderr)
	defer stdout.Close()
	defer stderr.Close()
	p.cmd.Stdout, p.cmd.Stderr = stdout, cmp.Or(other, stderr)
	p.cmd.Env = append(cleanEnvironment(), env...)
	// Nothing of a test that crashed may go on holding ports.
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go p.reap()
	t.Cleanup(p.cleanup)
	return p
}

// cleanEnvironment is ours without what would change how piko behaves.
func cleanEnvironment() []string {
	var env []string
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		upper := strings.ToUpper(name)
		if strings.HasPrefix(upper, "PIKO_") || strings.HasSuffix(upper, "_PROXY") || upper == "NOTIFY_SOCKET" {
			continue
		}
		env = append(env, v)
	}
	return env
}

func create(t testing.TB, path string) *os.File {
	t.Helper()
	f, err := os.OpenFile(path, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatalf("create output file: %v", err)
	}
	return f
}

func (p *process) reap() {
	_ = p.cmd.Wait() // the status is read from ProcessState
	p.exitedAt = time.Now()
	close(p.exited)
}

func (p *process) cleanup() {
	_ = p.cmd.Process.Kill()
	<-p.exited
	if p.t.Failed() {
		p.t.Logf("--- %s (%s), %v\n%s", p.name, strings.Join(p.cmd.Args, " "), p.cmd.ProcessState, tail(p.readOutput(), 25))
	}
}

// tail returns the last n lines of s that are not about a request that went well, each cut
// to a length that keeps a failure readable.
func tail(s string, n int) string {
	lines := strings.Split(strings.TrimSuffix(s, "\n"), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool {
		return containsAll(l, []string{`"msg":"request"`, `"status":200`})
	})
	if cut := len(lines) - n; cut > 0 {
		lines = append([]string{fmt.Sprintf("(%d earlier lines)", cut)}, lines[cut:]...)
	}
	for i, l := range lines {
		if len(l) > 300 {
			lines[i] = l[:300] + " ..."
		}
	}
	return strings.Join(lines, "\n")
}

func (p *process) readOutput() string {
	return string(readFile(p.t, p.stdout)) + string(readFile(p.t, p.stderr))
}

func readFile(t testing.TB, path string) []byte {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Errorf("read output: %v", err)
	}
	return b
}

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %v to %s: %v", sig, p.name, err)
	}
}

// wait returns the exit status (-1 if a signal ended it) and fails the test if the process
// is still there after the given time.
func (p *process) wait(t testing.TB, within time.Duration) int {
	t.Helper()
	select {
	case <-p.exited:
		return p.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		t.Fatalf("%s has not ended within %v", p.name, within)
		return -1
	}
}

func (p *process) running() bool {
	select {
	case <-p.exited:
		return false
	default:
		return true
	}
}

// kill ends the process as kill -9 does and waits until it is gone.
func (p *process) kill(t testing.TB) {
	t.Helper()
	p.signal(t, syscall.SIGKILL)
	p.wait(t, 10*time.Second)
}

// stop ends the process with SIGTERM and wants exit status 0.
func (p *process) stop(t testing.TB, within time.Duration) {
	t.Helper()
	p.signal(t, syscall.SIGTERM)
	if code := p.wait(t, within); code != 0 {
		t.Errorf("%s ended with status %d after SIGTERM, want 0", p.name, code)
	}
}

// memory returns a line of /proc/PID/status in bytes, such as VmHWM, the most resident
// memory so far, or VmRSS.
func (p *process) memory(t testing.TB, key string) int64 {
	t.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.cmd.Process.Pid))
	if err != nil {
		t.Fatalf("read memory of %s: %v", p.name, err)
	}
	for l := range strings.Lines(string(status)) {
		if rest, ok := strings.CutPrefix(l, key+":"); ok {
			kib, err := strconv.ParseInt(strings.Fields(rest)[0], 10, 64)
			if err != nil {
				t.Fatalf("read memory of %s: %v", p.name, err)
			}
			return kib << 10
		}
	}
	t.Fatalf("read memory of %s: no %s", p.name, key)
	return 0
}

// eventually polls until check returns nil, and fails the test with its last error when that
// never happens.
func eventually(t testing.TB, within time.Duration, what string, check func() error) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		err := check()
		if err == nil {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%s: not within %v: %v", what, within, err)
		}
		<-time.After(10 * time.Millisecond)
	}
}

// errNotYet is for an eventually whose check has nothing more to say.
var errNotYet = errors.New("not yet")
