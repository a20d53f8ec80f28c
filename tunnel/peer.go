package tunnel

import "net"

// NewPeerSession starts a session between two nodes over a connection on which
// each has proven to the other who it is; nothing may have been read from it
// behind the proof. It owns conn.
//
// It is a session as any other, with the control stream and without masks,
// which are there to protect proxies between (RFC 6455, section 10.3). The
// dialing side has the node's part: it opens the streams, for requests to the
// other node; the accepting side has the upstream's, and asks with Drain to be
// left, which the dialing one answers with Drained. A peer is asked for a sign
// of life when it was silent for 1 s, and is dead 1 s later; Options.Wheel is
// not used. Two goroutines run until the session ends.
func NewPeerSession(conn net.Conn, dialed bool, opt Options) *Session {
	tuneSocket(conn)
	c := newCarrier(conn, nil, dialed)
	c.plain = true
	return startSession(c, dialed, Peer{Features: []string{FeatureControl}}, opt)
}
