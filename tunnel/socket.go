//go:build unix

package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"syscall"
)

// A socket reads and writes a TCP connection as that itself does, but with
// system calls of which the scheduler is not told: they never wait, so it need
// not be ready to go on without us. Told at each message after a pause, as one
// connection that is asked and answers makes them, it would wake its monitor
// thread, which then wakes every 20 µs: a fifth of what such messages cost.
//
// One goroutine may read and one write at the same time. What else is to be done
// to the connection is done to it.
type socket struct {
	// Static after construction.
	tcp *net.TCPConn
	raw syscall.RawConn
	// Made once, since closures cost allocations.
	read, write, try func(fd uintptr) bool

	in, out transfer // owned by who reads, by who writes
}

// A transfer is a Read or Write that is under way.
type transfer struct {
	head []byte // of Write: what goes before p
	p    []byte
	n    int
	err  error
}

// newSocket returns nil if nc is no TCP connection, or is under something else.
func newSocket(nc net.Conn) *socket {
	tcp := tcpConn(nc)
	if tcp == nil {
		return nil
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	s := &socket{tcp: tcp, raw: raw}
	s.read, s.write, s.try = s.readSome, s.writeAll, s.writeSome
	return s
}

// Read implements io.Reader.
func (s *socket) Read(p []byte) (int, error) {
	s.in = transfer{p: p}
	err := s.raw.Read(s.read)
	n, failed := s.in.n, s.in.err
	s.in = transfer{}
	switch {
	case err != nil:
		return 0, s.failed("read", err)
	case failed != nil:
		return 0, s.failed("read", os.NewSyscallError("read", failed))
	case n == 0 && len(p) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// Write implements io.Writer.
func (s *socket) Write(p []byte) (int, error) {
	s.out = transfer{p: p}
	err := s.raw.Write(s.write)
	return s.wrote(err)
}

// WritePair is Write for two pieces that need not be copied together. n counts
// both.
func (s *socket) WritePair(head, p []byte) (int, error) {
	s.out = transfer{head: head, p: p}
	err := s.raw.Write(s.write)
	return s.wrote(err)
}

// TryWrite is Write for as much as goes without waiting.
func (s *socket) TryWrite(p []byte) (int, error) {
	s.out = transfer{p: p}
	err := s.raw.Write(s.try)
	return s.wrote(err)
}

func (s *socket) wrote(err error) (int, error) {
	n, failed := s.out.n, s.out.err
	s.out = transfer{}
	switch {
	case err != nil:
		return n, s.failed("write", err)
	case failed != nil:
		return n, s.failed("write", os.NewSyscallError("write", failed))
	}
	return n, nil
}

// failed makes of err what the connection would have said.
func (s *socket) failed(op string, err error) error {
	if raw, ok := errors.AsType[*net.OpError](err); ok {
		err = raw.Err
	}
	return &net.OpError{Op: op, Net: "tcp", Source: s.tcp.LocalAddr(), Addr: s.tcp.RemoteAddr(), Err: err}
}

// readSome says false to be called again when there is something.
func (s *socket) readSome(fd uintptr) bool {
	s.in.n, s.in.err = readSocket(fd, s.in.p)
	return s.in.err != syscall.EAGAIN
}

// writeAll says false to be called again when there is room.
func (s *socket) writeAll(fd uintptr) bool {
	for t := &s.out; t.n < len(t.head)+len(t.p); {
		var n int
		var err error
		if t.n < len(t.head) {
			n, err = writeSocketPair(fd, t.head[t.n:], t.p)
		} else {
			n, err = writeSocket(fd, t.p[t.n-len(t.head):])
		}
		if err == syscall.EAGAIN {
			return false
		}
		t.n += n
		if t.err = err; err != nil {
			break
		}
	}
	return true
}

// writeSome always says that it is done, so that nobody waits.
func (s *socket) writeSome(fd uintptr) bool {
	s.out.n, s.out.err = writeSocket(fd, s.out.p)
	if s.out.err == syscall.EAGAIN {
		s.out.err = nil
	}
	return true
}
