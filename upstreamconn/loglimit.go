package upstreamconn

import (
	"sync"
	"time"
)

// A logLimit lets ten lines a second through, so that a peer that is refused
// again and again cannot fill the log. The zero value is ready.
type logLimit struct {
	// Guarded by mu.
	mu      sync.Mutex
	second  int64
	lines   int
	dropped int
}

const linesPerSecond = 10

// allow says whether a line may be written at now, and how many were not
// written since the last one that was.
func (l *logLimit) allow(now time.Time) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if s := now.Unix(); s != l.second {
		l.second, l.lines = s, 0
	}
	if l.lines == linesPerSecond {
		l.dropped++
		return false, 0
	}
	l.lines++
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
