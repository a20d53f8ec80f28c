//go:build unix

package listen

import (
	"math"
	"syscall"

	"golang.org/x/sys/unix"
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

// probeDescriptor is the lowest number that is free.
func probeDescriptor(fd uintptr) (int, error) {
	n, err := unix.FcntlInt(fd, unix.F_DUPFD_CLOEXEC, 0)
	if err == nil {
		err = unix.Close(n)
	}
	return n, err
}
