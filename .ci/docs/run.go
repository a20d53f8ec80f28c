package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	_ "embed"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed prelude.sh
var prelude string

const (
	blockTime = 30 * time.Second
	pageTime  = 3 * time.Minute
	shownTail = 4000 // bytes of an output in a report
)

// environment is what all pages have in common. Static after newEnvironment.
type environment struct {
	dir      string   // temporary: bin/ with piko, and one directory for each page
	root     string   // the repository
	self     string   // this program
	vars     []string // of the pages' shells
	isolated bool     // there are namespaces
}

// newEnvironment builds piko and finds out what the machine allows.
func newEnvironment(ctx context.Context) (*environment, error) {
	dir, err := os.MkdirTemp("", "piko-docs")
	if err != nil {
		return nil, err
	}
	e := &environment{dir: dir}
	if e.self, err = os.Executable(); err != nil {
		return nil, err
	}
	if e.root, err = os.Getwd(); err != nil {
		return nil, err
	}
	// The same objects wherever a page builds, and as those of the static build: no directory is in them.
	flags := strings.TrimSpace(os.Getenv("GOFLAGS") + " -trimpath")
	build := exec.CommandContext(ctx, "go", "build", "-o", filepath.Join(dir, "bin", "piko"), ".")
	build.Env = append(os.Environ(), "GOFLAGS="+flags, "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build piko: %w\n%s", err, out)
	}
	e.vars = []string{
		"PATH=" + filepath.Join(dir, "bin") + ":" + os.Getenv("PATH") + ":/usr/sbin:/sbin",
		"GOFLAGS=" + flags, "CGO_ENABLED=0", "GOPROXY=off", "TERM=dumb", "LANG=C.UTF-8", "DOCS_RUNNER=" + e.self,
	}
	for _, name := range []string{"GOCACHE", "GOMODCACHE", "GOPATH"} {
		value, err := output(ctx, "go", "env", name)
		if err != nil {
			return nil, err
		}
		e.vars = append(e.vars, name+"="+value)
	}
	e.isolated = isolate(exec.CommandContext(ctx, e.self, insideArg, "true")).Run() == nil
	return e, nil
}

// run runs a page. The report has the blocks that were not run, and the one that failed.
func (e *environment) run(ctx context.Context, p *page) (report string, n counts) {
	dir, err := os.MkdirTemp(e.dir, "page")
	if err != nil {
		return err.Error() + "\n", counts{failed: 1}
	}
	var notes strings.Builder
	steps := e.choose(p, &notes, &n)
	if n.failed == 0 && len(steps) > 0 {
		r := &pageRun{environment: e, page: p, dir: dir, steps: steps}
		if err := r.run(ctx); err != nil {
			n.failed++
			fmt.Fprintf(&notes, "%v\n", err)
		}
		n.run += r.done
	}
	return notes.String(), n
}

// choose leaves out what cannot be run here.
func (e *environment) choose(p *page, notes io.Writer, n *counts) (steps []step) {
	for _, s := range p.steps {
		if missing := e.missing(s.needs); missing != "" && s.kind != notRun {
			s.kind, s.why = notRun, missing+" is not installed"
			if os.Getenv("CI") == "true" {
				n.failed++
			}
		}
		if s.kind == notRun {
			n.skipped++
			fmt.Fprintf(notes, "    %s:%d: not run: %s\n", p.file, s.line, s.why)
			continue
		}
		steps = append(steps, s)
	}
	return steps
}

// missing is the first of the programs that is not there.
func (e *environment) missing(programs []string) string {
	path, _, _ := strings.Cut(strings.TrimPrefix(e.vars[0], "PATH="), "\x00")
next:
	for _, name := range programs {
		for _, dir := range filepath.SplitList(path) {
			if info, err := os.Stat(filepath.Join(dir, name)); err == nil && !info.IsDir() && info.Mode()&0o111 != 0 {
				continue next
			}
		}
		return name
	}
	return ""
}

// pageRun is one run of a page. Owned by the goroutine that runs it.
type pageRun struct {
	*environment
	page  *page
	dir   string
	steps []step

	at     int    // the step that has begun last, -1: none
	line   int    // of that step, in which a command has failed; 0: unknown
	failed string // the command
	done   int    // steps that have ended well
}

// run writes the script and follows it.
func (r *pageRun) run(ctx context.Context) error {
	work, err := r.prepare()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, pageTime)
	defer cancel()
	events, w, err := os.Pipe()
	if err != nil {
		return err
	}
	defer events.Close()
	cmd := isolate(exec.CommandContext(ctx, r.self, insideArg, "bash", filepath.Join(r.dir, "page.sh")))
	if !r.isolated {
		cmd = exec.CommandContext(ctx, "bash", filepath.Join(r.dir, "page.sh"))
		cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	}
	var rest bytes.Buffer
	cmd.Dir, cmd.Env, cmd.ExtraFiles, cmd.Stdout, cmd.Stderr = work, r.pageVars(), []*os.File{w}, &rest, &rest
	// The whole group: what a block has started ends with it. With namespaces the kernel ends all.
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 5 * time.Second
	if err := cmd.Start(); err != nil {
		w.Close()
		return err
	}
	w.Close()
	ended := make(chan error, 1)
	go func() {
		err := cmd.Wait()
		// What is left holds the other end of events.
		syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
		ended <- err
	}()
	late := r.follow(ctx, events, cancel)
	if err := <-ended; err == nil {
		return nil
	} else if late == "" {
		late = err.Error()
	}
	return r.explain(late, rest.String())
}

// pageVars are the variables of the page's shell.
func (r *pageRun) pageVars() []string {
	home := filepath.Join(r.dir, "home")
	return append(r.vars[:len(r.vars):len(r.vars)], "HOME="+home, "CURL_HOME="+home, "DOCS="+r.dir, "TMPDIR="+filepath.Join(r.dir, "tmp"))
}

// follow reads what the shell says of its steps, and kills it when one takes too long.
func (r *pageRun) follow(ctx context.Context, events io.Reader, kill func()) (late string) {
	r.at = -1
	lines := make(chan string)
	go func() {
		defer close(lines)
		for scan := bufio.NewScanner(events); scan.Scan(); {
			lines <- scan.Text()
		}
	}()
	limit := time.NewTimer(blockTime)
	defer limit.Stop()
	for {
		select {
		case line, ok := <-lines:
			if !ok {
				return late
			}
			if r.note(line) {
				within := blockTime
				if r.at < len(r.steps) && r.steps[r.at].within > 0 {
					within = r.steps[r.at].within
				}
				limit.Reset(within)
			}
		case <-limit.C:
			late = "it took too long"
			kill()
		case <-ctx.Done():
			for range lines {
			}
			return cmp.Or(late, "the page took too long, or was interrupted")
		}
	}
}

// note takes one line from the shell, and says whether a step has begun.
func (r *pageRun) note(line string) bool {
	word, rest, _ := strings.Cut(line, " ")
	switch word {
	case "begin":
		r.at, _ = strconv.Atoi(rest)
		r.line, r.failed = 0, ""
		return true
	case "end":
		if k := r.steps[r.at].kind; k == runBlock || k == runBackground {
			r.done++
		}
	case "line":
		// The last one is the block's own: those of functions come before it.
		at, command, _ := strings.Cut(rest, " ")
		if n, ok := strings.CutPrefix(at, fmt.Sprintf("step.%d:", r.at)); ok {
			r.line, _ = strconv.Atoi(n)
			r.failed = command
		}
	}
	return false
}

// explain is the error of a page: where, what, and what it said.
func (r *pageRun) explain(why, rest string) error {
	var b strings.Builder
	switch {
	case r.at < 0:
		fmt.Fprintf(&b, "%s: FAILED: %s\n%s", r.page.file, why, rest)
	case r.at >= len(r.steps):
		fmt.Fprintf(&b, "%s: FAILED at the page's end: %s\n", r.page.file, why)
	default:
		s := r.steps[r.at]
		fmt.Fprintf(&b, "%s:%d: FAILED: %s\n%s", r.page.file, s.line+max(0, r.line-1), why, indent(s.text, "    | "))
		if r.failed != "" {
			fmt.Fprintf(&b, "  the command: %s\n", r.failed)
		}
	}
	if said := tail(filepath.Join(r.dir, "out."+strconv.Itoa(r.at))); said != "" {
		b.WriteString("  said:\n" + indent(said, "    "))
	}
	others, _ := filepath.Glob(filepath.Join(r.dir, "background.*"))
	for _, file := range others {
		if said := tail(file); said != "" {
			fmt.Fprintf(&b, "  what ran in the background (%s) said:\n%s", strings.TrimPrefix(filepath.Ext(file), "."), indent(said, "    "))
		}
	}
	return fmt.Errorf("%s", strings.TrimSuffix(b.String(), "\n"))
}

// tail is the end of a file.
func tail(file string) string {
	text, _ := os.ReadFile(file)
	return string(text[max(0, len(text)-shownTail):])
}

func indent(text, with string) string {
	var b strings.Builder
	for line := range strings.Lines(text) {
		b.WriteString(with + strings.TrimSuffix(line, "\n") + "\n")
	}
	return b.String()
}
