package listen

import (
	"sync"
	"time"
)

// linesPerSecond bounds what strangers can have a port write into the log.
const linesPerSecond = 5

// lineLimit lets linesPerSecond lines a second through. The zero value is ready.
type lineLimit struct {
	// Guarded by mu.
	mu      sync.Mutex
	second  int64
	lines   int
	dropped int
}

// allow says whether a line may be written at now, and how many were not
// written since the last one that was.
func (l *lineLimit) allow(now time.Time) (ok bool, dropped int) {
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
