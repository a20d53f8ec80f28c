//go:build linux || darwin || freebsd || netbsd || openbsd || dragonfly

package relay

import (
	"net"
	"syscall"
)

// AwaitReset waits until the peer of c has reset it, and then reports true. It reports false when c's read deadline has
// come or c is closed, and where nobody can know. Nothing is read from c: what arrives stays there, and an end in order
// is none, for the peer may still read. That c was reset nobody else is told.
func AwaitReset(c net.Conn) bool {
	tcp := tcpConn(c)
	if tcp == nil {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	err = raw.Read(func(fd uintptr) bool {
		// Who reads would get what came before, first.
		failed, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		return err != nil || failed != 0 // or to be called when there is news
	})
	return err == nil
}
