//go:build linux && !race

package relay

import (
	"syscall"
	"unsafe"
)

// readSocket and writeSocket are system calls that do not wait.

func readSocket(fd uintptr, p []byte) (int, error)  { return rawTransfer(syscall.SYS_READ, fd, p) }
func writeSocket(fd uintptr, p []byte) (int, error) { return rawTransfer(syscall.SYS_WRITE, fd, p) }

func rawTransfer(call, fd uintptr, p []byte) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(unsafe.Pointer(unsafe.SliceData(p))), uintptr(len(p)))
		switch errno {
		case 0:
			return int(n), nil
		case syscall.EINTR:
		case syscall.EAGAIN:
			return 0, syscall.EAGAIN
		default:
			return 0, errno
		}
	}
}
