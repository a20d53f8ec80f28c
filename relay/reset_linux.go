package relay

import (
	"net"
	"syscall"
)

// tcpClose is the state of a socket that was reset, and of one on which both sides have ended.
const tcpClose = 7

// metReset reports whether a connection that has just read the end of what it gets may in truth have been reset, and
// a write been told so: the error is given only once, and whoever asks later is told that all is over in order. It is not
// so if the peer had ended in order before the reset, which nobody has been told then.
func metReset(c net.Conn) bool {
	tcp := tcpConn(underneath(c))
	if tcp == nil {
		return false
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return false
	}
	met := false
	_ = raw.Control(func(fd uintptr) {
		// The first byte of struct tcp_info.
		info, err := syscall.GetsockoptInet4Addr(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil || info[0] != tcpClose {
			return
		}
		untold, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		met = err == nil && untold == 0
	})
	return met
}
