//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package relay

import (
	"io"
	"os"
	"syscall"
)

// socket looks at an idle socket without reading it. One goroutine at a time.
type socket struct {
	raw   syscall.RawConn
	peek  func(fd uintptr) bool // made once, since a closure costs an allocation
	quiet bool
	b     [1]byte
}

// watchSocket returns nil if the connection has no socket.
func watchSocket(sc syscall.Conn) quieter {
	raw, err := sc.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{raw: raw}
	s.peek = s.look
	return s
}

// Quiet reports whether the socket is open and has nothing to read. It takes one system call and never waits.
func (s *socket) Quiet() bool {
	s.quiet = false
	return s.raw.Read(s.peek) == nil && s.quiet
}

// look always says that it is done, so that Read never waits.
func (s *socket) look(fd uintptr) bool {
	_, _, err := syscall.Recvfrom(int(fd), s.b[:], syscall.MSG_PEEK|syscall.MSG_DONTWAIT)
	s.quiet = err == syscall.EAGAIN || err == syscall.EINTR
	return true
}

// socketPieces returns nil if src is not a socket, and nothing but that: its reader must be the socket's own.
func socketPieces(src io.Reader) pieces {
	tcp := tcpConn(src)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	w := &waiting{raw: raw}
	w.read = w.tryRead
	return w
}

// waiting reads a socket and has no buffer while it waits. It takes the system calls that Read takes.
type waiting struct {
	raw  syscall.RawConn
	read func(fd uintptr) bool // made once, since a closure costs an allocation
	buf  *[]byte
	n    int
	err  error
}

func (w *waiting) next() ([]byte, error) {
	if err := w.raw.Read(w.read); err != nil {
		return nil, err
	}
	switch {
	case w.err != nil:
		return nil, os.NewSyscallError("read", w.err)
	case w.n == 0:
		return nil, io.EOF
	}
	return (*w.buf)[:w.n], nil
}

// tryRead says false to be called again when there is something.
func (w *waiting) tryRead(fd uintptr) bool {
	if w.buf == nil {
		w.buf = pumpBuffers.Get().(*[]byte)
	}
	w.n, w.err = readSocket(fd, (*w.buf)[:pumpPiece])
	if w.err == syscall.EAGAIN {
		w.release()
		return false
	}
	return true
}

func (w *waiting) release() {
	if w.buf != nil {
		pumpBuffers.Put(w.buf)
		w.buf = nil
	}
}
