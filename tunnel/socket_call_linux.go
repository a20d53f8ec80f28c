//go:build linux && !race

package tunnel

import (
	"syscall"
	"unsafe"
)

// readSocket and writeSocket are system calls that do not wait.

func readSocket(fd uintptr, p []byte) (int, error)  { return rawTransfer(syscall.SYS_READ, fd, p) }
func writeSocket(fd uintptr, p []byte) (int, error) { return rawTransfer(syscall.SYS_WRITE, fd, p) }

// writeSocketPair is writeSocket for two pieces, of which the first is not empty.
func writeSocketPair(fd uintptr, a, b []byte) (int, error) {
	parts := [2]syscall.Iovec{{Base: unsafe.SliceData(a)}, {Base: unsafe.SliceData(b)}}
	parts[0].SetLen(len(a))
	parts[1].SetLen(len(b))
	return rawCall(syscall.SYS_WRITEV, fd, unsafe.Pointer(&parts), len(parts))
}

func rawTransfer(call, fd uintptr, p []byte) (int, error) {
	return rawCall(call, fd, unsafe.Pointer(unsafe.SliceData(p)), len(p))
}

func rawCall(call, fd uintptr, p unsafe.Pointer, n int) (int, error) {
	for {
		n, _, errno := syscall.RawSyscall(call, fd, uintptr(p), uintptr(n))
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
