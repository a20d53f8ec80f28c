package main

import (
	"cmp"
	"context"
	"fmt"
	"io"
	stdlog "log"
	"log/slog"
	"slices"
	"strings"
	"sync/atomic"

	"piko/accesslog"
)

// logConfig is the log.* section.
type logConfig struct {
	Level      string   `default:"info" enum:"debug,info,warn,error" help:"Lowest level to log: debug, info, warn or error."`
	Subsystems []string `placeholder:"NAME" help:"Subsystems to log at every level, whatever log.level is, by their exact names as the log shows them; an example is proxy,upstream. May be repeated."`
	Format     string   `default:"json" enum:"json,text" help:"Format of log lines: json for machines, text for people."`
}

// slogLevel is the level that c asks for.
func (c logConfig) slogLevel() slog.Level { return parseLevel(c.Level) }

// parseLevel maps what the enum of a level flag lets through.
func parseLevel(s string) slog.Level {
	var l slog.Level
	_ = l.UnmarshalText([]byte(cmp.Or(s, "info")))
	return l
}

// subsystemKey is the attribute that says which part of piko logged a line.
const subsystemKey = "subsystem"

// newLogger writes lines to w in the shape that v0.9.0 gave them: keys level
// (lower case), ts, subsystem and msg. level may be set at any time, by anyone.
func newLogger(w io.Writer, cfg logConfig, level *slog.LevelVar) *slog.Logger {
	level.Set(cfg.slogLevel())
	opt := &slog.HandlerOptions{Level: slog.LevelDebug, ReplaceAttr: renameLogKeys}
	var out slog.Handler = slog.NewJSONHandler(w, opt)
	if cfg.Format == "text" {
		out = slog.NewTextHandler(w, opt)
	}
	h := &logHandler{out: out, plain: out, level: level, always: new(atomic.Pointer[[]string])}
	h.setSubsystems(cfg.Subsystems)
	return slog.New(h)
}

// renameLogKeys turns slog's time and level into v0.9.0's.
// Durations are text, as in v0.9.0: a bare number of nanoseconds helps nobody.
// Texts may have been a stranger's: see logText.
func renameLogKeys(groups []string, a slog.Attr) slog.Attr {
	switch {
	case a.Value.Kind() == slog.KindDuration:
		return slog.String(a.Key, a.Value.Duration().String())
	case a.Value.Kind() == slog.KindString:
		return slog.String(a.Key, logText(a.Value.String()))
	case a.Value.Kind() == slog.KindAny:
		if err, ok := a.Value.Any().(error); ok {
			return slog.String(a.Key, logText(err.Error()))
		}
	}
	switch {
	case len(groups) > 0:
	case a.Key == slog.TimeKey && a.Value.Kind() == slog.KindTime:
		return slog.String("ts", a.Value.Time().Format("2006-01-02T15:04:05.000Z07:00"))
	case a.Key == slog.LevelKey:
		if level, ok := a.Value.Any().(slog.Level); ok {
			return slog.String(slog.LevelKey, strings.ToLower(level.String()))
		}
	}
	return a
}

// takeStandardLog makes lines of the standard library's log ours, at debug:
// net/http's client of HTTP/2 has nowhere else to write, and writes a line for
// each frame of a kind that a service must not send.
func takeStandardLog(l *slog.Logger) {
	stdlog.SetFlags(0)
	stdlog.SetOutput(slog.NewLogLogger(subsystem(l, "net/http").Handler(), slog.LevelDebug).Writer())
}

// maxLogText is how much of one text a line has, in bytes.
const maxLogText = 4 << 10

// logText is s without what moves a terminal's cursor or ends a line: slog
// escapes what JSON must not hold, which leaves DEL and the control characters
// of ISO 6429. It is cut if it is long.
func logText(s string) string {
	if len(s) > maxLogText {
		s = strings.ToValidUTF8(s[:maxLogText], "") + "..."
	}
	if strings.IndexFunc(s, breaksLog) < 0 {
		return s
	}
	var b strings.Builder
	for _, r := range s {
		if breaksLog(r) {
			fmt.Fprintf(&b, "\\u%04x", r)
		} else {
			b.WriteRune(r)
		}
	}
	return b.String()
}

// breaksLog is about what slog lets through.
func breaksLog(r rune) bool {
	return r >= 0x7f && r < 0xa0 || r == 0x2028 || r == 0x2029 || r == 0xfeff
}

// logHandler decides by level and subsystem what is logged, and keeps one
// subsystem attribute a line, the last one that was set, in front of the others.
// Static after construction, but for the level and the subsystems.
type logHandler struct {
	out    slog.Handler // writes; has the subsystem and attrs
	level  *slog.LevelVar
	always *atomic.Pointer[[]string] // subsystems that are logged at every level; shared, and never written to

	subsystem string
	plain     slog.Handler // out as it was before any attribute
	attrs     []slog.Attr  // of this logger, without the subsystem
	grouped   bool         // a group is open: attributes are no longer ours
}

// Enabled is asked before every line: it takes no lock.
func (h *logHandler) Enabled(_ context.Context, l slog.Level) bool {
	return l >= h.level.Level() || h.subsystem != "" && slices.Contains(*h.always.Load(), h.subsystem)
}

// setSubsystems says for this handler and all that were made from it which
// subsystems are logged at every level. Any goroutine may call it.
func (h *logHandler) setSubsystems(names []string) { h.always.Store(new(slices.Clone(names))) }

func (h *logHandler) Handle(ctx context.Context, r slog.Record) error {
	return h.out.Handle(ctx, r)
}

func (h *logHandler) WithAttrs(attrs []slog.Attr) slog.Handler {
	next := *h
	if h.grouped {
		next.out = h.out.WithAttrs(attrs)
		return &next
	}
	next.attrs = slices.Clone(h.attrs)
	for _, a := range attrs {
		if a.Key == subsystemKey {
			next.subsystem = a.Value.String()
			continue
		}
		next.attrs = append(next.attrs, a)
	}
	next.out = h.plain
	if next.subsystem != "" {
		next.out = next.out.WithAttrs([]slog.Attr{slog.String(subsystemKey, next.subsystem)})
	}
	if len(next.attrs) > 0 {
		next.out = next.out.WithAttrs(next.attrs)
	}
	return &next
}

func (h *logHandler) WithGroup(name string) slog.Handler {
	next := *h
	next.out = h.out.WithGroup(name)
	next.grouped = true
	return &next
}

// accessOptions are those of the access log that calls itself name: it heeds the
// level and the subsystems of log, and has the same format.
func (c logConfig) accessOptions(log *slog.Logger, name string) accesslog.Options {
	return accesslog.Options{
		Subsystem: name,
		Text:      c.Format == "text",
		MinLevel:  enabledLevel{subsystem(log, name).Handler()},
	}
}

// enabledLevel is the lowest level that a handler lets through now.
type enabledLevel struct{ h slog.Handler }

// Level implements slog.Leveler.
func (e enabledLevel) Level() slog.Level {
	for _, l := range []slog.Level{slog.LevelDebug, slog.LevelInfo, slog.LevelWarn} {
		if e.h.Enabled(context.Background(), l) {
			return l
		}
	}
	return slog.LevelError
}

// subsystem is log with the name of the part that it is for.
func subsystem(log *slog.Logger, name string) *slog.Logger {
	return log.With(slog.String(subsystemKey, name))
}
