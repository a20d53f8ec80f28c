package relay

import (
	"net"
	"syscall"
)

// tcpClose is the state of a socket that was reset, and of one on which both sides have ended.
const tcpClose = 7

// systemReset is not resetMet if the peer had ended in order before the reset, which nobody has been told then.
func systemReset(c net.Conn) resetVerdict {
	tcp := tcpConn(underneath(c))
	if tcp == nil {
		return resetNot
	}
	raw, err := tcp.SyscallConn()
	if err != nil {
		return resetNot
	}
	verdict := resetNot
	_ = raw.Control(func(fd uintptr) {
		// The first byte of struct tcp_info.
		info, err := syscall.GetsockoptInet4Addr(int(fd), syscall.IPPROTO_TCP, syscall.TCP_INFO)
		if err != nil || info[0] != tcpClose {
			return
		}
		untold, err := syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_ERROR)
		if err == nil && untold == 0 {
			verdict = resetMet
		}
	})
	return verdict
}
