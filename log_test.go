package main

import (
	"bytes"
	"encoding/json"
	"errors"
	stdlog "log"
	"log/slog"
	"regexp"
	"strings"
	"testing"
	"time"
)

// logLine logs with write and returns the line.
func logLine(t *testing.T, cfg logConfig, write func(*slog.Logger)) string {
	t.Helper()
	var out bytes.Buffer
	var level slog.LevelVar
	write(newLogger(&out, cfg, &level))
	return out.String()
}

func TestLogLineHasTheKeysOfV090(t *testing.T) {
	line := logLine(t, logConfig{Level: "info"}, func(log *slog.Logger) {
		subsystem(log.With("node_id", "n1"), "proxy").Info("hello", "count", 2, "took", time.Second, slog.Group("request", slog.String("level", "x")))
	})
	var got map[string]any
	if err := json.Unmarshal([]byte(line), &got); err != nil {
		t.Fatalf("%v: %s", err, line)
	}
	ts, _ := got["ts"].(string)
	if !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)$`).MatchString(ts) {
		t.Errorf("ts is %q", ts)
	}
	delete(got, "ts")
	want := `{"count":2,"level":"info","msg":"hello","node_id":"n1","request":{"level":"x"},"subsystem":"proxy","took":"1s"}`
	if text, _ := json.Marshal(got); string(text) != want {
		t.Errorf("got %s, want %s", text, want)
	}
}

func TestLogTextIsForPeople(t *testing.T) {
	line := logLine(t, logConfig{Level: "info", Format: "text"}, func(log *slog.Logger) { subsystem(log, "main").Warn("hello") })
	if !strings.Contains(line, "level=warn") || !strings.Contains(line, "subsystem=main") || !strings.Contains(line, "msg=hello") {
		t.Errorf("got %s", line)
	}
}

func TestLogLevelsAndSubsystems(t *testing.T) {
	for _, tt := range []struct {
		name string
		cfg  logConfig
		log  func(*slog.Logger)
		want bool
	}{
		{"info at info", logConfig{Level: "info"}, func(l *slog.Logger) { l.Info("x") }, true},
		{"debug at info", logConfig{Level: "info"}, func(l *slog.Logger) { l.Debug("x") }, false},
		{"debug at debug", logConfig{Level: "debug"}, func(l *slog.Logger) { l.Debug("x") }, true},
		{"warn at error", logConfig{Level: "error"}, func(l *slog.Logger) { l.Warn("x") }, false},
		{"debug of a chosen subsystem", logConfig{Level: "error", Subsystems: []string{"proxy"}}, func(l *slog.Logger) { subsystem(l, "proxy").Debug("x") }, true},
		{"debug of another subsystem", logConfig{Level: "error", Subsystems: []string{"proxy"}}, func(l *slog.Logger) { subsystem(l, "proxy.http").Debug("x") }, false},
		{"the last subsystem holds", logConfig{Level: "error", Subsystems: []string{"proxy"}}, func(l *slog.Logger) { subsystem(subsystem(l, "proxy"), "upstream").Debug("x") }, false},
		{"zero value", logConfig{}, func(l *slog.Logger) { l.Info("x") }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if got := logLine(t, tt.cfg, tt.log) != ""; got != tt.want {
				t.Errorf("logged: %v, want %v", got, tt.want)
			}
		})
	}
}

func TestLogHasOneSubsystem(t *testing.T) {
	line := logLine(t, logConfig{}, func(log *slog.Logger) {
		subsystem(subsystem(log, "proxy").With("a", 1), "proxy.http").WithGroup("g").With("b", 2).Info("x", "c", 3)
	})
	if strings.Count(line, `"subsystem"`) != 1 || !strings.Contains(line, `"subsystem":"proxy.http","a":1,"g":{"b":2,"c":3}`) {
		t.Errorf("got %s", line)
	}
}

func TestLogLevelCanBeSwitched(t *testing.T) {
	var out bytes.Buffer
	var level slog.LevelVar
	log := subsystem(newLogger(&out, logConfig{Level: "info"}, &level), "proxy")
	access := logConfig{}.accessOptions(log, "proxy.access")
	log.Debug("before")
	if got := access.MinLevel.Level(); got != slog.LevelInfo {
		t.Errorf("the access log's level is %v, want info", got)
	}
	level.Set(slog.LevelDebug)
	log.Debug("after")
	if got := access.MinLevel.Level(); got != slog.LevelDebug {
		t.Errorf("the access log's level is %v, want debug", got)
	}
	if text := out.String(); strings.Contains(text, "before") || !strings.Contains(text, "after") {
		t.Errorf("got %s", text)
	}
}

func TestAccessLogOfAChosenSubsystemIsLoggedAtEveryLevel(t *testing.T) {
	var level slog.LevelVar
	cfg := logConfig{Level: "error", Subsystems: []string{"proxy.access"}}
	log := newLogger(&bytes.Buffer{}, cfg, &level)
	if got := cfg.accessOptions(log, "proxy.access").MinLevel.Level(); got != slog.LevelDebug {
		t.Errorf("level %v, want debug", got)
	}
	if got := cfg.accessOptions(log, "other").MinLevel.Level(); got != slog.LevelError {
		t.Errorf("level %v, want error", got)
	}
}

// Whoever makes the standard library write lines, such as a service with odd
// HTTP/2 frames, fills no log but that of who asks for it.
func TestStandardLogIsDebug(t *testing.T) {
	out, flags := stdlog.Writer(), stdlog.Flags()
	t.Cleanup(func() {
		stdlog.SetOutput(out)
		stdlog.SetFlags(flags)
	})
	for level, want := range map[string]string{"info": "", "debug": `"subsystem":"net/http"`} {
		var stderr lockedBuffer
		p := newTestProcess(t)
		p.stderr = &stderr
		p.logger(logConfig{Level: level, Format: "json"})
		stdlog.Print("a line of the library")
		p.logs.Load().out.Close()
		if got := stderr.String(); want == "" && got != "" || !strings.Contains(got, want) {
			t.Errorf("at %s the log is %q", level, got)
		}
	}
}

// TestLogTextsCannotBreakALine has what a stranger may have us log, as text and
// as error, in both formats.
func TestLogTextsCannotBreakALine(t *testing.T) {
	bad := "a\r\nb\x00\x1b[31m\x7f\u0085\u009b31m\u2028\u2029\ufeff\xff" + strings.Repeat("x", 1<<20)
	for _, format := range []string{"json", "text"} {
		line := logLine(t, logConfig{Level: "info", Format: format}, func(log *slog.Logger) {
			subsystem(log, "proxy").Info(bad, "text", bad, "error", errors.New(bad), slog.Group("g", slog.String("text", bad)))
		})
		if strings.Count(line, "\n") != 1 || len(line) > 5*maxLogText {
			t.Errorf("%s: %d lines, %d bytes", format, strings.Count(line, "\n"), len(line))
		}
		for _, r := range strings.TrimSuffix(line, "\n") {
			if r < 0x20 || breaksLog(r) {
				t.Errorf("%s: a raw %U", format, r)
			}
		}
	}
	if s := "plain text, ä and \U0001f600"; logText(s) != s {
		t.Errorf("%q became %q", s, logText(s))
	}
}
