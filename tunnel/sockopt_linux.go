package tunnel

import (
	"net"
	"time"

	"golang.org/x/sys/unix"
)

const (
	// notSentLowat is how much the kernel takes that it has not sent: what a
	// ping has to wait behind, instead of megabytes.
	notSentLowat = 128 << 10

	// userTimeout is how long sent bytes may stay unacknowledged, or a window
	// closed: as long as a peer may be silent.
	userTimeout = 15 * time.Second
)

// platformOptions sets what only this system has. A failure is no reason to do
// without the tunnel.
func platformOptions(conn *net.TCPConn) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return
	}
	raw.Control(func(fd uintptr) {
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_NOTSENT_LOWAT, notSentLowat)
		unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
	})
}
