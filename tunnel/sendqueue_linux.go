package tunnel

import (
	"net"

	"golang.org/x/sys/unix"
)

func tcpSendQueue(c *net.TCPConn) (q sendQueue, ok bool) {
	raw, err := c.SyscallConn()
	if err != nil {
		return sendQueue{}, false
	}
	err = raw.Control(func(fd uintptr) {
		info, err := unix.GetsockoptTCPInfo(int(fd), unix.IPPROTO_TCP, unix.TCP_INFO)
		if err != nil {
			return
		}
		queued, err := unix.IoctlGetInt(int(fd), unix.SIOCOUTQ)
		if err != nil {
			return
		}
		q, ok = sendQueue{acked: info.Bytes_acked, queued: queued}, true
	})
	return q, ok && err == nil
}
