package tunnel

// TryWrite is Write for as much of p as goes without waiting, which may be
// nothing, and returns how much that was. Of a message that the connection takes
// only in part, a goroutine sends the rest; the next Write waits for it, and says
// what went wrong, if anything. Where nobody knows whether it would have to wait,
// as over TLS, TryWrite writes nothing.
func (c *Conn) TryWrite(p []byte) (n int) {
	select {
	case c.writer <- struct{}{}:
	default:
		return 0
	}
	defer c.letWrite()
	if len(p) == 0 || c.writeFails() != nil {
		return 0
	}
	p = p[:min(len(p), connChunk)]
	if !c.c.tryWrite(opBinary, p) {
		return 0
	}
	return len(p)
}

// tryWrite sends p, of at most connChunk, as one message, unless that would have
// to wait before it begins.
func (c *carrier) tryWrite(op byte, p []byte) (sent bool) {
	if !c.tryLockWrite() {
		return false
	}
	if c.sock == nil || c.ctl.err != nil || c.waiting.Load() { // what waits goes first
		c.unlockTried()
		return false
	}
	b := connBuffers.Get().(*[headroom + connChunk]byte)
	frame := c.copyFrame(b, op, p)
	n, err := c.sock.TryWrite(frame)
	if err != nil {
		c.endWrite(err) // of which the system tells only once
	}
	if n > 0 && n < len(frame) {
		c.finishLater(b, frame[n:])
		return true
	}
	connBuffers.Put(b)
	c.unlockTried()
	return n > 0
}

// unlockTried is unlockWrite for who must not wait.
func (c *carrier) unlockTried() {
	<-c.wlock
	if c.waiting.Load() {
		_ = c.sendControl(func() {})
	}
}

// finishLater writes the rest of a frame whose beginning is out, and then lets
// go of wlock and b.
func (c *carrier) finishLater(b *[headroom + connChunk]byte, rest []byte) {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.closed { // as is the connection, or will be at once
		<-c.wlock
		return
	}
	c.flushers.Go(func() {
		_ = c.writeWhole(rest)
		connBuffers.Put(b)
		c.unlockWrite()
	})
}
