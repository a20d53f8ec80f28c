package tunnel

import (
	"net"
	"time"

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
		q = sendQueue{
			acked: info.Bytes_acked, queued: queued,
			flying: info.Unacked > 0, silent: time.Duration(info.Last_ack_recv) * time.Millisecond,
		}
		ok = true
	})
	return q, ok && err == nil
}
