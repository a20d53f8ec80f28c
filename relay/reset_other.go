//go:build !linux && !windows

package relay

import "net"

// systemReset: BSD's sockets tell the first of a reset, and then speak of an end to who reads, of EPIPE to who writes.
func systemReset(c net.Conn) resetVerdict {
	if tcpConn(underneath(c)) == nil {
		return resetNot
	}
	return resetMaybe
}
