//go:build unix

package listen

import (
	"math"
	"syscall"
)

// descriptorLimit is how many descriptors the process may have; 0 if there is
// no limit that could be met. Go has raised it to the hard limit.
func descriptorLimit() int {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil || uint64(l.Cur) > math.MaxInt32 {
		return 0
	}
	return int(l.Cur)
}
