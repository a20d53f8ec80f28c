package tunnel

import (
	"net"
	"time"
)

// tuneSocket prepares the TCP connection under nc, if there is one: small
// frames leave at once, a ping waits behind little, and a peer that vanished
// while bytes were on their way is noticed.
func tuneSocket(nc net.Conn) {
	if t, ok := nc.(interface{ NetConn() net.Conn }); ok {
		nc = t.NetConn()
	}
	conn, ok := nc.(*net.TCPConn)
	if !ok {
		return
	}
	conn.SetNoDelay(true)
	// The session pings on its own; this is for what has none.
	conn.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true, Idle: 30 * time.Second, Interval: 10 * time.Second, Count: 3})
	platformOptions(conn)
}
