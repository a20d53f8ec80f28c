package listen

import (
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// notSentLowat is how much the kernel takes for a client beyond what is under
// way to it, in bytes. Without a bound it takes megabytes, 2.5 on loopback, for
// each client that reads nothing: a thousand of them put all TCP connections of
// the machine under memory pressure, in which a window is a few bytes. What was
// sent and not acknowledged does not count, so that it bounds no throughput.
const notSentLowat = 128 << 10

// boundSendBuffer sets it. A failure is no reason to do without the connection.
func boundSendBuffer(nc net.Conn) {
	sc, ok := nc.(syscall.Conn)
	if !ok {
		return
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return
	}
	_ = raw.Control(func(fd uintptr) {
		_ = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
	})
}
