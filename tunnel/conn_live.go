package tunnel

import "time"

// A connLife is what a Conn knows of its peer's life. A peer that does not
// answer need not be dead: its application may not read just now, and then the
// ping waits behind what it has not read, for as long as that takes. So the
// peer's system is asked, which confirms what it is sent.
type connLife struct {
	pinged time.Time // the last time; zero if the peer was heard since, or nobody waits for it
	queue  sendQueue // just before
}

// watch is run by the timer.
func (c *Conn) watch() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || c.err != nil {
		return
	}
	wait, alive := c.look(time.Now())
	if !alive {
		_ = c.fail(ErrDead)
		c.wg.Go(func() { c.c.close(0, "") })
		return
	}
	c.timer.Reset(max(wait, timerTick))
}

// look pings the peer if it is time, and says when to look again, or that the
// peer is dead. It needs mu, and does not wait.
func (c *Conn) look(now time.Time) (wait time.Duration, alive bool) {
	l, last := &c.life, c.c.lastRead()
	switch {
	case !c.reading.Load(): // what the peer says may lie unread: it need not say more
		l.pinged = time.Time{}
		return idleBeforePing, true
	case l.pinged.IsZero() || !last.Before(l.pinged):
		l.pinged = time.Time{}
		if idle := now.Sub(last); idle < idleBeforePing {
			return idleBeforePing - idle, true
		}
	default:
		if q, ok := readSendQueue(c.c.nc); ok && unconfirmed(l.queue, q) {
			return 0, false
		}
		if now.Sub(l.pinged) < idleBeforePing {
			return pongWithin, true
		}
	}
	l.pinged = now
	l.queue, _ = readSendQueue(c.c.nc)
	_ = c.c.ping() // an error is seen by who reads
	return pongWithin, true
}

// unconfirmed says that the peer's system has had bytes to confirm ever since a
// time at which the queue was before, and has said nothing for as long as a peer
// may be silent: a window that is closed is no such case.
func unconfirmed(before, now sendQueue) bool {
	return now.acked == before.acked && now.flying && now.silent >= pongWithin
}
