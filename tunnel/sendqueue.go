package tunnel

import (
	"net"
	"time"
)

// sendQueue is how far what was written to a connection has got.
type sendQueue struct {
	acked  uint64 // bytes that the other end's system has confirmed, ever
	queued int    // bytes that it has not, sent or not

	flying bool          // some of those were sent
	silent time.Duration // since the other end's system last said anything
}

// slowQueue is what a link that is worth its name carries within pongWithin.
const slowQueue = 16 << 10

// readSendQueue asks the connection, where the system can tell.
func readSendQueue(nc net.Conn) (sendQueue, bool) {
	nc = underneath(nc)
	if c, ok := nc.(interface{ sendQueue() sendQueue }); ok { // a test's
		return c.sendQueue(), true
	}
	if c := tcpConn(nc); c != nil {
		return tcpSendQueue(c)
	}
	return sendQueue{}, false
}

// stillSending says that a ping was sent at a time when the queue was before,
// and may not have arrived at now: the link is slow, but it moves. A peer that
// has vanished confirms nothing, and one that has stopped soon confirms nothing
// more.
func stillSending(before, now sendQueue) bool {
	return now.acked > before.acked && max(now.queued, before.queued) >= slowQueue
}
