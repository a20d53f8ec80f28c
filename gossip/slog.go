package gossip

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"sync"
	"time"
)

// newLogger is memberlist's logger: its lines go where ours go. Its levels speak of
// what it does, not of what the operator must do; and strangers on the port can
// make it write an error a packet, so of each level one line a second gets through.
func newLogger(to *slog.Logger) *log.Logger {
	return log.New(&lineWriter{to: to}, "", 0)
}

// levels are memberlist's, as they begin its lines, and ours.
var levels = []struct {
	prefix string
	level  slog.Level
}{
	{"[DEBUG] ", slog.LevelDebug}, {"[INFO] ", slog.LevelDebug}, {"[WARN] ", slog.LevelInfo}, {"[ERR] ", slog.LevelWarn}, {"[ERROR] ", slog.LevelWarn},
}

// lineWriter is called with one line at a time.
type lineWriter struct {
	// Static after construction.
	to *slog.Logger

	// Guarded by mu.
	mu         sync.Mutex
	last       map[slog.Level]time.Time
	suppressed map[slog.Level]int
}

const linePause = time.Second

// Write logs one line.
func (w *lineWriter) Write(line []byte) (int, error) {
	n, level := len(line), slog.LevelInfo
	for _, l := range levels {
		if rest, ok := bytes.CutPrefix(line, []byte(l.prefix)); ok {
			line, level = rest, l.level
			break
		}
	}
	if !w.to.Enabled(context.Background(), level) {
		return n, nil
	}
	suppressed, ok := w.allow(level, time.Now())
	if !ok {
		return n, nil
	}
	attrs := []slog.Attr{}
	if suppressed > 0 {
		attrs = append(attrs, slog.Int("suppressed", suppressed))
	}
	const maxLine = 512
	line = bytes.TrimSpace(bytes.TrimPrefix(line, []byte("memberlist: ")))
	w.to.LogAttrs(context.Background(), level, "memberlist: "+string(line[:min(len(line), maxLine)]), attrs...)
	return n, nil
}

func (w *lineWriter) allow(level slog.Level, now time.Time) (suppressed int, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.last == nil {
		w.last, w.suppressed = make(map[slog.Level]time.Time), make(map[slog.Level]int)
	}
	if now.Sub(w.last[level]) < linePause {
		w.suppressed[level]++
		return 0, false
	}
	suppressed = w.suppressed[level]
	w.last[level], w.suppressed[level] = now, 0
	return suppressed, true
}
