//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package relay

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// writing writes a socket with system calls of which the scheduler is not told, as they never wait. One goroutine at a
// time.
type writing struct {
	// Static after construction.
	tcp      *net.TCPConn
	raw      syscall.RawConn
	all, try func(fd uintptr) bool // made once, since a closure costs an allocation

	p   []byte
	n   int
	err error // kept, since the system tells it only once
}

// socketWriter returns dst itself if it is not a socket.
func socketWriter(dst io.Writer) io.Writer {
	tcp := tcpConn(dst)
	if tcp == nil {
		return dst
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return dst
	}
	w := &writing{tcp: tcp, raw: raw}
	w.all, w.try = w.writeAll, w.writeSome
	return w
}

// Write implements io.Writer.
func (w *writing) Write(p []byte) (int, error) {
	if w.err != nil {
		return 0, w.failed(os.NewSyscallError("write", w.err))
	}
	w.p, w.n = p, 0
	err := w.raw.Write(w.all)
	w.p = nil
	if err != nil {
		return w.n, w.failed(err)
	}
	if w.err != nil {
		return w.n, w.failed(os.NewSyscallError("write", w.err))
	}
	return w.n, nil
}

// TryWrite implements trying.
func (w *writing) TryWrite(p []byte) int {
	if w.err != nil {
		return 0
	}
	w.p, w.n = p, 0
	_ = w.raw.Write(w.try) // what is wrong with our end, Write will be told, too
	w.p = nil
	return w.n
}

// failed makes of err what the connection would have said.
func (w *writing) failed(err error) error {
	if raw, ok := errors.AsType[*net.OpError](err); ok {
		err = raw.Err
	}
	return &net.OpError{Op: "write", Net: "tcp", Source: w.tcp.LocalAddr(), Addr: w.tcp.RemoteAddr(), Err: err}
}

// writeAll says false to be called again when there is room.
func (w *writing) writeAll(fd uintptr) bool {
	for w.n < len(w.p) {
		n, err := writeSocket(fd, w.p[w.n:])
		if err == syscall.EAGAIN {
			return false
		}
		w.n += n
		if w.err = err; err != nil {
			break
		}
	}
	return true
}

// writeSome always says that it is done, so that nobody waits.
func (w *writing) writeSome(fd uintptr) bool {
	n, err := writeSocket(fd, w.p)
	if w.n = n; err != nil && err != syscall.EAGAIN {
		w.err = err
	}
	return true
}
