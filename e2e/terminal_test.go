//go:build e2e

package e2e

import (
	"bytes"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// pty is a program that runs in a terminal of its own.
type pty struct {
	t       testing.TB
	cmd     *exec.Cmd
	ours    *os.File // the terminal's other side
	its     *os.File // the terminal
	waited  chan struct{}
	drained chan struct{}

	mu  sync.Mutex
	out bytes.Buffer // guarded by mu: what it has drawn
}

// startInTerminal runs a program in a terminal of 100 columns and 30 rows.
func startInTerminal(t testing.TB, path string, args ...string) *pty {
	t.Helper()
	ours, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatalf("open a terminal: %v", err)
	}
	p := &pty{t: t, ours: ours, waited: make(chan struct{}), drained: make(chan struct{})}
	if err := unix.IoctlSetPointerInt(int(ours.Fd()), unix.TIOCSPTLCK, 0); err != nil {
		t.Fatalf("unlock the terminal: %v", err)
	}
	n, err := unix.IoctlGetInt(int(ours.Fd()), unix.TIOCGPTN)
	if err != nil {
		t.Fatalf("find the terminal: %v", err)
	}
	if p.its, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|syscall.O_NOCTTY, 0); err != nil {
		t.Fatalf("open the terminal: %v", err)
	}
	p.resize(100, 30)
	p.cmd = exec.Command(path, args...)
	p.cmd.Env = append(cleanEnvironment(), "TERM=xterm-256color")
	p.cmd.Stdin, p.cmd.Stdout, p.cmd.Stderr = p.its, p.its, p.its
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true, Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", path, err)
	}
	go p.read()
	go func() { p.cmd.Wait(); close(p.waited) }()
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		<-p.waited
		p.its.Close()
		<-p.drained // nobody has the terminal any more
		ours.Close()
		if t.Failed() {
			t.Logf("the terminal shows:\n%s", p.plain())
		}
	})
	return p
}

func (p *pty) read() {
	defer close(p.drained)
	buf := make([]byte, 32<<10)
	for {
		n, err := p.ours.Read(buf)
		p.mu.Lock()
		p.out.Write(buf[:n])
		p.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (p *pty) resize(columns, rows uint16) {
	p.t.Helper()
	if err := unix.IoctlSetWinsize(int(p.ours.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Col: columns, Row: rows}); err != nil {
		p.t.Fatalf("resize the terminal: %v", err)
	}
}

// modes are those of the terminal itself.
func (p *pty) modes() unix.Termios {
	p.t.Helper()
	m, err := unix.IoctlGetTermios(int(p.ours.Fd()), unix.TCGETS)
	if err != nil {
		p.t.Fatalf("read the terminal's modes: %v", err)
	}
	return *m
}

func (p *pty) all() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

var controls = regexp.MustCompile(`\x1b\[[0-9;?]*[A-Za-z]`)

// plain is what was drawn last, as text.
func (p *pty) plain() string {
	all := p.all()
	last := all[max(strings.LastIndex(all, "\x1b[?2026h"), 0):]
	return controls.ReplaceAllString(last, "")
}

func (p *pty) waitFor(what string, texts ...string) {
	p.t.Helper()
	eventually(p.t, 20*time.Second, what, func() error {
		for _, text := range texts {
			if !strings.Contains(p.plain(), text) {
				return fmt.Errorf("%q is not drawn", text)
			}
		}
		return nil
	})
}

// exit waits for the program's end and returns its status.
func (p *pty) exit() int {
	p.t.Helper()
	select {
	case <-p.waited:
	case <-time.After(20 * time.Second):
		p.t.Fatal("the program has not ended")
	}
	return p.cmd.ProcessState.ExitCode()
}

// TestSummaryInATerminal follows an agent as who has started it by hand sees it.
func TestSummaryInATerminal(t *testing.T) {
	t.Parallel()
	service := startWebhookService(t)
	s := startServer(t)
	page := freeAddr(t)
	p := startInTerminal(t, pikoBinary, "agent", "http", "hooks", service.Listener.Addr().String(), "--connect.url", "http://"+s.upstream,
		"--inspect", "--inspect.addr", page)
	modes := p.modes()
	p.waitFor("the endpoint is connected", "hooks -> "+service.Listener.Addr().String()+"   connected to ", "http://"+page, "Ctrl+C to stop")
	s.call(t, "GET", "/search", "")
	s.call(t, "POST", "/webhook", "{}")
	p.waitFor("the requests are shown", "Requests    2", "GET     404", "POST    500", "/webhook")
	p.resize(40, 10)
	eventually(t, 20*time.Second, "a smaller terminal is drawn on", func() error {
		for line := range strings.SplitSeq(p.plain(), "\r\n") {
			if line = strings.Trim(line, "\r"); len([]rune(line)) > 40 {
				return fmt.Errorf("a line of %d", len([]rune(line)))
			}
		}
		if n := strings.Count(p.plain(), "\r\n"); n > 9 {
			return fmt.Errorf("%d lines", n)
		}
		return nil
	})
	p.resize(100, 30)
	service.Close()
	if status := s.call(t, "GET", "/search", ""); status != http.StatusBadGateway {
		t.Errorf("status %d without a service", status)
	}
	eventually(t, 20*time.Second, "a warning of the log is there", func() error {
		if !strings.Contains(p.all(), "service unreachable") {
			return errNotYet
		}
		return nil
	})
	s.kill(t)
	p.waitFor("the loss of the server is shown", "reconnecting")
	if _, err := p.ours.WriteString("\x03"); err != nil {
		t.Fatal(err)
	}
	if status := p.exit(); status != 0 {
		t.Errorf("exit status %d", status)
	}
	p.waitFor("the last drawing stays", "stopped", "Requests    3")
	all := p.all()
	for _, mode := range []string{"?25", "?7"} {
		if strings.LastIndex(all, "\x1b["+mode+"h") < strings.LastIndex(all, "\x1b["+mode+"l") {
			t.Errorf("mode %s is left switched off", mode)
		}
	}
	if strings.Contains(all, "\x1b[?1049h") || p.modes() != modes {
		t.Error("the terminal is not as it was")
	}
	if strings.Contains(all, `"msg":`) {
		t.Error("lines of JSON are drawn")
	}
}

// TestPlainLogInATerminal is for who has asked for it.
func TestPlainLogInATerminal(t *testing.T) {
	t.Parallel()
	for _, args := range [][]string{{"--ui", "off"}, {"--log.format", "json"}} {
		p := startInTerminal(t, pikoBinary, append([]string{"agent", "http", "hooks", "1", "--connect.url", "http://" + freeAddr(t)}, args...)...)
		eventually(t, 20*time.Second, "a line of JSON is there", func() error {
			if !strings.Contains(p.all(), `"msg":"agent started"`) {
				return errNotYet
			}
			return nil
		})
		p.cmd.Process.Signal(syscall.SIGTERM)
		if status := p.exit(); status != 0 {
			t.Errorf("%v: exit status %d", args, status)
		}
		if strings.Contains(p.all(), "\x1b[") {
			t.Errorf("%v: something is drawn", args)
		}
	}
}
