//go:build unix && (!linux || race)

package tunnel

import "syscall"

// readSocket and writeSocket are system calls that do not wait.

func readSocket(fd uintptr, p []byte) (int, error) {
	return again(func() (int, error) { return syscall.Read(int(fd), p) })
}

func writeSocket(fd uintptr, p []byte) (int, error) {
	return again(func() (int, error) { return syscall.Write(int(fd), p) })
}

// writeSocketPair is writeSocket for two pieces, of which the first is not empty.
func writeSocketPair(fd uintptr, a, b []byte) (int, error) {
	n, err := writeSocket(fd, a)
	if err != nil || n < len(a) {
		return n, err
	}
	m, err := writeSocket(fd, b)
	if err == syscall.EAGAIN {
		return n, nil // it comes again
	}
	return n + m, err
}

// again repeats what a signal has interrupted.
func again(call func() (int, error)) (int, error) {
	for {
		if n, err := call(); err != syscall.EINTR {
			return max(n, 0), err
		}
	}
}
