package tunnel

import (
	"net"
	"time"
)

// tuneSocket prepares the TCP connection under nc, if there is one, for a peer
// that has vanished. (That small frames leave at once the net package sees to.)
func tuneSocket(nc net.Conn) {
	if conn := tcpConn(underneath(nc)); conn != nil {
		// Sessions ping on their own; this is for what does not.
		conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	}
}

// hurrySocket prepares the TCP connection under nc, if there is one, for a
// session, whose peer has to read: a ping waits behind little, and a peer that
// vanished while bytes were on their way is noticed.
func hurrySocket(nc net.Conn) {
	if conn := tcpConn(underneath(nc)); conn != nil {
		platformOptions(conn)
	}
}

// underneath is the transport below TLS, and below whatever else shows it.
func underneath(nc net.Conn) net.Conn {
	for {
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = above.NetConn()
	}
}

// tcpConn is the socket whose bytes are those of nc, with nothing between; nil
// if there is none. It may not be closed but through nc.
func tcpConn(nc net.Conn) *net.TCPConn {
	switch c := nc.(type) {
	case *net.TCPConn:
		return c
	case interface{ TCPConn() *net.TCPConn }:
		return c.TCPConn()
	}
	return nil
}

// resetOnClose has the TCP connection under nc reset when it is closed.
func resetOnClose(nc net.Conn) {
	if conn, ok := underneath(nc).(interface{ SetLinger(sec int) error }); ok {
		_ = conn.SetLinger(0)
	}
}
