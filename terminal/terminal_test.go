package terminal

import (
	"encoding/json"
	"fmt"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// emulator is a terminal that understands what a Screen writes, and fails the
// test with the rest.
type emulator struct {
	t *testing.T

	mu            sync.Mutex // guards all below
	columns, rows int
	lines         []string // all that were ever there
	top, row, col int      // of the screen; the cursor
	wrap, shown   bool
	written       int
}

func newEmulator(t *testing.T, columns, rows int) *emulator {
	return &emulator{t: t, columns: columns, rows: rows, lines: []string{""}, wrap: true, shown: true}
}

func (e *emulator) size() (int, int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.columns, e.rows
}

func (e *emulator) Write(p []byte) (int, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.written++
	s := string(p)
	for s != "" {
		if !strings.HasPrefix(s, "\x1b[") {
			r, n := utf8.DecodeRuneInString(s)
			e.put(r)
			s = s[n:]
			continue
		}
		end := strings.IndexFunc(s[2:], func(r rune) bool { return r >= 'A' && r <= 'z' && r != '[' && r != '?' }) + 2
		e.control(s[2:end], s[end])
		s = s[end+1:]
	}
	return len(p), nil
}

func (e *emulator) put(r rune) {
	switch {
	case r == '\r':
		e.col = 0
	case r == '\n':
		e.row++
		for e.row >= len(e.lines) {
			e.lines = append(e.lines, "")
		}
		e.top = max(e.top, e.row-e.rows+1)
	case r < ' ' || r == 0x7f:
		e.t.Errorf("control character %q", r)
	default:
		if e.col >= e.columns {
			if !e.wrap {
				e.t.Errorf("a line is too long: %q", e.lines[e.row])
				return
			}
			e.put('\r')
			e.put('\n')
		}
		line := []rune(e.lines[e.row])
		for len(line) <= e.col {
			line = append(line, ' ')
		}
		line[e.col] = r
		e.lines[e.row] = string(line)
		e.col++
	}
}

func (e *emulator) control(args string, final byte) {
	n := 0
	fmt.Sscan(args, &n)
	switch {
	case final == 'm':
	case args == "?7" && (final == 'l' || final == 'h'):
		e.wrap = final == 'h'
	case args == "?25" && (final == 'l' || final == 'h'):
		e.shown = final == 'h'
	case args == "?2026":
	case final == 'A':
		if e.row-n < e.top {
			e.t.Errorf("the cursor goes %d up from line %d of the screen", n, e.row-e.top)
		}
		e.row = max(e.row-n, e.top)
	case final == 'K':
		e.lines[e.row] = string([]rune(e.lines[e.row])[:min(e.col, len([]rune(e.lines[e.row])))])
	case final == 'J' && args == "":
		e.lines[e.row] = string([]rune(e.lines[e.row])[:min(e.col, len([]rune(e.lines[e.row])))])
		e.lines = e.lines[:e.row+1]
	case final == 'J' && args == "2":
		for i := e.top; i < len(e.lines); i++ {
			e.lines[i] = ""
		}
	case final == 'H':
		e.row, e.col = e.top, 0
	default:
		e.t.Errorf("unknown control sequence %q%c", args, final)
	}
}

// writes is how often something was drawn.
func (e *emulator) writes() int {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.written
}

// text is all that the terminal has shown and not cleared.
func (e *emulator) text() string {
	e.mu.Lock()
	defer e.mu.Unlock()
	if !e.wrap || !e.shown {
		e.t.Error("a mode of the terminal is left changed")
	}
	return strings.TrimRight(strings.Join(e.lines, "\n"), "\n")
}

// access is a line of the access log.
func access(method, path string, status int, took string) string {
	quoted, _ := json.Marshal(path)
	return fmt.Sprintf(`{"level":"info","ts":"2026-02-03T04:05:06.789Z","subsystem":"proxy.http.access","msg":"request","request":{"proto":"HTTP/1.1","method":%q,"host":"h","path":%s,"request_headers":{},"response_headers":{},"status":%d,"duration":%q,"bytes_in":0,"bytes_out":1,"endpoint":"my-endpoint","client":"192.0.2.1"}}`+"\n", method, quoted, status, took)
}

func config(e *emulator) Config {
	return Config{
		Version: "v1.0.0", Server: "http://localhost:8001", Size: e.size, Colour: true,
		Listeners: []Listener{{"my-endpoint", "3000", "http"}},
	}
}

func TestScreen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEmulator(t, 80, 24)
		s := New(e, config(e))
		step := func() { time.Sleep(drawInterval + time.Millisecond); synctest.Wait() }
		s.SetInspector("http://127.0.0.1:4040")
		step()
		if got := e.text(); !strings.Contains(got, "my-endpoint -> 3000   connecting") || strings.Contains(got, "05:06") {
			t.Errorf("at first:\n%s", got)
		}
		s.SetConnection("my-endpoint", Connection{Phase: "reconnecting", Reason: "connection refused", Retry: time.Now().Add(3 * time.Second)})
		step()
		if got := e.text(); !strings.Contains(got, "reconnecting, again in 3s: connection refused") {
			t.Errorf("without a server:\n%s", got)
		}
		time.Sleep(2500 * time.Millisecond)
		step()
		if got := e.text(); !strings.Contains(got, "again in 1s") {
			t.Errorf("two seconds later:\n%s", got)
		}
		s.SetConnection("my-endpoint", Connection{Phase: "connected", Tunnels: 1, Node: "node-b", Up: true})
		s.SetConnection("my-endpoint", Connection{Phase: "connected", Tunnels: 2, Node: "node-a", Up: true})
		s.Access().Write([]byte(access("GET", "/old", 200, "1.2345ms")))
		s.Access().Write([]byte(access("POST", "/new\x1b[2J\u202e", 500, "2.5s")))
		time.Sleep(time.Second)
		step()
		want := `piko agent v1.0.0   Ctrl+C to stop

Server      http://localhost:8001
Inspector   http://127.0.0.1:4040
Requests    2, 0.5 a second

my-endpoint -> 3000   connected, 2 tunnels to node-a, node-b

04:05:06  POST    500      2.5s  /new·[2J·  192.0.2.1
04:05:06  GET     200     1.2ms  /old  192.0.2.1`
		local := time.Date(2026, 2, 3, 4, 5, 6, 0, time.UTC).Local().Format(time.TimeOnly)
		want = strings.ReplaceAll(want, "04:05:06", local)
		if got := e.text(); got != want {
			t.Errorf("got\n%s\nwant\n%s", got, want)
		}
		s.Log().Write([]byte("a warning\nand another\n"))
		step()
		if got := e.text(); got != "a warning\nand another\n"+want {
			t.Errorf("with lines of the log:\n%s", got)
		}
		before := e.writes()
		time.Sleep(time.Minute)
		synctest.Wait()
		if n := e.writes() - before; n > rateSeconds+1 {
			t.Errorf("drawn %d times in a minute in which nothing has happened", n)
		}
		s.Stopping("received interrupt")
		step()
		if got := e.text(); !strings.Contains(got, "stopping: received interrupt") {
			t.Errorf("stopping:\n%s", got)
		}
		s.Close()
		s.Log().Write([]byte("the end\r\n"))
		if got := e.text(); !strings.HasSuffix(got, "/old  192.0.2.1\nthe end") || !strings.Contains(got, "stopped") || strings.Count(got, "piko agent") != 1 {
			t.Errorf("at the end:\n%s", got)
		}
	})
}

func TestEverySizeIsFilledAndNoMore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEmulator(t, 80, 24)
		cfg := config(e)
		for i := range 50 {
			cfg.Listeners = append(cfg.Listeners, Listener{fmt.Sprintf("endpoint-%d", i), "localhost:3000", "tcp"})
		}
		s := New(e, cfg)
		defer s.Close()
		for i := range 100 {
			s.Access().Write([]byte(access("GET", "/"+strings.Repeat("long/", 50), 200+i, "1ms")))
		}
		for _, size := range [][2]int{{80, 24}, {200, 60}, {40, 10}, {20, 5}, {5, 3}, {1, 2}, {1, 1}, {0, 0}, {80, 24}} {
			e.mu.Lock()
			e.columns, e.rows = size[0], size[1]
			if e.columns == 0 { // a terminal that does not know
				e.columns, e.rows = 80, 24
			}
			e.lines, e.top, e.row, e.col = []string{""}, 0, 0, 0
			e.mu.Unlock()
			s.Resized()
			time.Sleep(drawInterval)
			synctest.Wait()
			got := e.text()
			if n := strings.Count(got, "\n") + 1; n > e.rows-1 && got != "" || e.rows > 10 && n != e.rows-1 && n < 12 {
				t.Errorf("%v: %d lines:\n%s", size, n, got)
			}
			s.Access().Write([]byte(access("GET", "/", 200, "1ms"))) // drawn over, not below
			time.Sleep(drawInterval)
			synctest.Wait()
			if again := e.text(); strings.Count(again, "\n") != strings.Count(got, "\n") {
				t.Errorf("%v: drawn again:\n%s", size, again)
			}
			if size[0] == 80 && !strings.Contains(got, "more; 0 of 51 are connected") {
				t.Errorf("%v:\n%s", size, got)
			}
		}
	})
}

func TestLogOfManyLinesIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		e := newEmulator(t, 200, 24)
		s := New(e, config(e))
		synctest.Wait()
		e.mu.Lock() // the terminal is stopped
		line := []byte(strings.Repeat("x", 99) + "\n")
		for range 2 * maxPending / len(line) {
			s.Log().Write(line)
		}
		s.mu.Lock()
		if n := len(s.pending); n > maxPending {
			t.Errorf("%d bytes wait", n)
		}
		s.mu.Unlock()
		e.mu.Unlock()
		s.Close()
		if got := e.text(); !strings.Contains(got, "lines of the log were too many") {
			t.Errorf("nobody is told:\n%.300s", got)
		}
	})
}

func TestLinesOfTCPAndWebSockets(t *testing.T) {
	v := view{endpoints: map[string]*Connection{}}
	v.count([]byte(`{"ts":"2026-02-03T04:05:06.789Z","msg":"connection opened","request":{"proto":"tcp"}}`))
	if v.open != 1 || v.requests != 0 {
		t.Errorf("%d open, %d requests", v.open, v.requests)
	}
	v.count([]byte(`{"ts":"2026-02-03T04:05:06.789Z","msg":"connection closed","request":{"proto":"tcp","endpoint":"db","duration":"1m0s","bytes_in":3,"bytes_out":4}}`))
	if got := v.line(v.requestLines(9)[0], 80); v.open != 0 || !strings.Contains(got, "tcp          1m0s  db  3 bytes in, 4 out") {
		t.Errorf("%d open, %q", v.open, got)
	}
	v.count([]byte("no JSON\n"))
	if n := len(v.requestLines(9)); n != 1 {
		t.Errorf("%d lines", n)
	}
}
