package tunnel

import "time"

// abortTime is how long Reset lets a Write that is under way end its message.
const abortTime = 50 * time.Millisecond

// resetReason is what the peer of a connection that was reset is told.
const resetReason = "connection reset"

// Close ends both sides: what was written still goes out, and the peer reads
// io.EOF behind it; what the peer sends afterwards is lost. It wakes who reads
// and waits for the peer to answer, for 1 s at most, or for 5 s if the
// connection takes no more bytes. As with TCP, who wants to be sure that all has
// arrived calls CloseWrite and reads to the end. It returns nil; closing again
// only waits.
func (c *Conn) Close() error {
	if !c.begin(nil) {
		c.wg.Wait()
		c.c.close(0, "")
		return nil
	}
	if c.endSide() {
		// If there is no room for it now: all that matters is on its way.
		if c.c.sendClose(closeNormal, "", errClosedHere) {
			c.awaitClose()
		}
		c.c.close(0, "")
	} else {
		c.c.abort(closeInternal, resetReason)
	}
	c.wg.Wait()
	return nil
}

// Reset ends the connection at once, both ways, such that the peer sees a
// failure: a close frame with code 1011 if there is room for one, and else a
// reset of the TCP connection. It does not wait, but wakes those who do. A
// goroutine of it may last for up to 1 s, for which Close waits.
func (c *Conn) Reset() {
	c.begin(func() { c.c.abort(closeInternal, resetReason) })
}

// begin starts the end of the connection, with f in a goroutine unless it is
// nil; false means that it has begun before. Reading ends.
func (c *Conn) begin(f func()) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return false
	}
	if f != nil {
		c.wg.Go(f)
	}
	c.closed = true
	c.timer.Stop()
	if c.linger != nil {
		c.linger.Stop()
	}
	if !c.eofSeen {
		_ = c.c.nc.SetReadDeadline(time.Unix(1, 0))
	}
	c.end()
	return true
}

// endSide ends our side for Close, if that was not done before, and reports
// whether it could. If a Write is under way and does not come to its end, it
// must not: the peer would take a part for the whole.
func (c *Conn) endSide() bool {
	t := time.NewTimer(controlTimeout)
	defer t.Stop()
	select {
	case c.writer <- struct{}{}:
	case <-t.C:
		return false
	}
	defer c.letWrite()
	c.mu.Lock()
	failed, open := c.err != nil || c.cut, c.half && !c.eofSent && !c.peerDone
	c.mu.Unlock()
	return !failed && (!open || c.c.writeWithin(controlTimeout, opText, eofPayload))
}

// awaitClose reads until the peer has closed, too: if we went first, what it
// says meanwhile would be answered by our system with a reset, which may cost
// the peer what it has not read yet.
func (c *Conn) awaitClose() {
	c.mu.Lock()
	draining := c.eofSeen
	c.mu.Unlock()
	until := time.Now().Add(closeTimeout)
	if draining {
		_ = c.c.nc.SetReadDeadline(until)
		c.wg.Wait()
		return
	}
	c.rmu.Lock() // Read has been woken
	defer c.rmu.Unlock()
	_ = c.c.nc.SetReadDeadline(until)
	var waste [smallBuffer]byte
	for {
		if _, err := c.c.Read(waste[:]); err != nil {
			return
		}
	}
}
