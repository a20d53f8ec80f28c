package suites

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// process is a program that a test started. It is killed when the test ends, and the end of
// what it wrote is shown when the test failed.
type process struct {
	// Static after start.
	t      testing.TB
	name   string
	cmd    *exec.Cmd
	output string // path
	exited chan struct{}
}

// start runs a program whose output goes to a file.
func start(t testing.TB, name, path string, args ...string) *process {
	t.Helper()
	output := filepath.Join(t.TempDir(), name)
	f, err := os.Create(output)
	if err != nil {
		t.Fatalf("create output file: %v", err)
	}
	defer f.Close()
	p := &process{t: t, name: name, cmd: command(path, args...), output: output, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = f, f
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", name, err)
	}
	go func() {
		_ = p.cmd.Wait() // the status is read from ProcessState
		close(p.exited)
	}()
	t.Cleanup(p.cleanup)
	return p
}

// command is a program without what would change how piko behaves, which ends with us.
func command(path string, args ...string) *exec.Cmd {
	cmd := exec.Command(path, args...)
	for _, v := range os.Environ() {
		name, _, _ := strings.Cut(v, "=")
		if name = strings.ToUpper(name); !strings.HasPrefix(name, "PIKO_") && !strings.HasSuffix(name, "_PROXY") {
			cmd.Env = append(cmd.Env, v)
		}
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (p *process) cleanup() {
	_ = p.cmd.Process.Kill()
	<-p.exited
	b, err := os.ReadFile(p.output)
	if bytes.Contains(b, []byte(dataRace)) {
		p.t.Errorf("%s has a data race:\n%.8000s", p.name, b[bytes.Index(b, []byte(dataRace)):])
	}
	if !p.t.Failed() {
		return
	}
	lines := strings.Split(strings.TrimSpace(string(b)), "\n")
	lines = slices.DeleteFunc(lines, func(l string) bool { // of requests there are thousands
		return strings.Contains(l, `"level":"info"`) && strings.Contains(l, `"msg":"request"`)
	})
	p.t.Logf("--- %s (%s), %v, %v\n%s", p.name, strings.Join(p.cmd.Args, " "), p.cmd.ProcessState, err,
		strings.Join(lines[max(0, len(lines)-25):], "\n"))
}

// dataRace is how reports of the race detector begin.
const dataRace = "WARNING: DATA RACE"

func (p *process) signal(t testing.TB, sig syscall.Signal) {
	t.Helper()
	if err := p.cmd.Process.Signal(sig); err != nil {
		t.Fatalf("send %v to %s: %v", sig, p.name, err)
	}
}

// wait waits for the end of the process and returns its exit status, -1 if a signal ended it.
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

// eventually polls until check returns nil, and fails the test with its last error when that
// does not happen within the given time.
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
