//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package relay

import "syscall"

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
