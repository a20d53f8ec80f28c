//go:build e2e

package e2e

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"
)

// lines returns what the process has logged so far, a line at a time.
func (p *process) lines() []string {
	var lines []string
	for l := range strings.Lines(string(readFile(p.t, p.stderr))) {
		if strings.HasSuffix(l, "\n") || !p.running() { // the last line may still be on its way
			lines = append(lines, strings.TrimSuffix(l, "\n"))
		}
	}
	return lines
}

// waitLog waits for a log line that contains all of want (in any case) and returns it.
func (p *process) waitLog(t testing.TB, why string, want ...string) string {
	t.Helper()
	var found string
	eventually(t, 30*time.Second, p.name+" logs "+why, func() error {
		if lines := p.grep(want...); len(lines) > 0 {
			found = lines[0]
			return nil
		}
		return fmt.Errorf("no log line has all of %q", want)
	})
	return found
}

// grep returns the log lines that contain all of want, in any case.
func (p *process) grep(want ...string) []string {
	var found []string
	for _, l := range p.lines() {
		if containsAll(strings.ToLower(l), want) {
			found = append(found, l)
		}
	}
	return found
}

func containsAll(s string, want []string) bool {
	for _, w := range want {
		if !strings.Contains(s, strings.ToLower(w)) {
			return false
		}
	}
	return true
}

// checkLog wants every line that the process logged to be one JSON object without a control
// byte, and none to be a stack trace: whatever clients send must not break the log.
func (p *process) checkLog() {
	p.t.Helper()
	for i, l := range p.lines() {
		if err := checkLogLine(l); err != nil {
			p.t.Errorf("%s, log line %d: %v: %.300q", p.name, i+1, err, l)
		}
	}
}

func checkLogLine(line string) error {
	if i := strings.IndexFunc(line, func(r rune) bool { return r < 0x20 || r >= 0x7f && r < 0xa0 }); i >= 0 {
		return fmt.Errorf("raw control byte at %d", i)
	}
	if strings.ContainsAny(line, "\u2028\u2029\ufeff") {
		return errors.New("raw line separator")
	}
	var fields map[string]any
	d := json.NewDecoder(bytes.NewReader([]byte(line)))
	if err := d.Decode(&fields); err != nil {
		return fmt.Errorf("no JSON object: %w", err)
	}
	if d.More() {
		return errors.New("more than one JSON object")
	}
	for _, key := range []string{"ts", "level", "subsystem", "msg"} {
		if _, ok := fields[key].(string); !ok {
			return fmt.Errorf("key %q is missing", key)
		}
	}
	return nil
}
