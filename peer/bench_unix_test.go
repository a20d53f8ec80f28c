//go:build unix

package peer

import (
	"syscall"
	"time"
)

// cpuTime is what this process has used, callers and callees together.
func cpuTime() time.Duration {
	var u syscall.Rusage
	if syscall.Getrusage(syscall.RUSAGE_SELF, &u) != nil {
		return 0
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
