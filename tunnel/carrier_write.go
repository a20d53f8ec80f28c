package tunnel

import (
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"time"
)

// What writers get after a close frame.
var (
	errClosedHere    = fmt.Errorf("write websocket: %w", net.ErrClosed)
	errClosedByOther = fmt.Errorf("write websocket: closed by the peer: %w", io.EOF)
)

// writeMessage sends b[headroom:] as one message, in one system call. It uses
// b[:headroom] and, on the client's side, masks the payload in place; the
// caller has b back when it returns. An error ends all writing. Writers wait
// for each other, and for nothing else but the connection.
func (c *carrier) writeMessage(b []byte) error {
	if len(b) <= headroom {
		return nil
	}
	c.wlock <- struct{}{}
	c.sendWaiting()
	err := c.writeFrame(opBinary, b)
	c.unlockWrite()
	return err
}

// unlockWrite lets go of wlock, and sends what came up meanwhile: whoever did
// not get the lock has left it to us.
func (c *carrier) unlockWrite() {
	<-c.wlock
	for c.waiting.Load() && c.tryLockWrite() {
		c.sendWaiting()
		<-c.wlock
	}
}

func (c *carrier) tryLockWrite() bool {
	select {
	case c.wlock <- struct{}{}:
		return true
	default:
		return false
	}
}

// writeFrame sends one frame; wlock is held.
func (c *carrier) writeFrame(op byte, b []byte) error {
	var key *uint32
	if c.client && !c.plain {
		// The runtime's generator: ChaCha8, seeded by the system, one for each
		// thread. RFC 6455, section 10.3, asks for keys that cannot be foreseen.
		k := rand.Uint32()
		key = &k
		maskBytes(b[headroom:], k)
	}
	return c.writeWhole(b[putHeader(b, op, key):])
}

// writeWhole sends a frame that is ready; wlock is held.
func (c *carrier) writeWhole(frame []byte) error {
	if c.ctl.err != nil {
		return c.ctl.err
	}
	n, err := c.w.Write(frame)
	return c.wrote(n, err)
}

// wrote takes up how a write has ended; wlock is held.
func (c *carrier) wrote(n int, err error) error {
	c.sent.Add(uint64(max(n, 0)))
	if err == nil {
		return nil
	}
	// Part of a frame may be out: the next one would be read as its rest.
	c.endWrite(err)
	if n > 0 {
		return &partlySentError{err}
	}
	return err
}

// partlySentError is a write that broke when some of the message was out. The
// peer may act on what it got.
type partlySentError struct{ err error }

func (e *partlySentError) Error() string { return e.err.Error() }
func (e *partlySentError) Unwrap() error { return e.err }

// endWrite makes all further writing fail; wlock is held.
func (c *carrier) endWrite(err error) {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.err == nil {
		c.ctl.err = err
	}
}

// ping asks the peer for a sign of life. It goes out before any message that is
// not being written yet; nobody waits for it here. An error says that writing
// has ended.
func (c *carrier) ping() error {
	return c.sendControl(func() { c.ctl.ping = true })
}

// answerPing answers the latest ping; earlier ones that still wait are given up.
// The reader must not wait here, or two peers could wait for each other.
func (c *carrier) answerPing(payload []byte) {
	c.sendControl(func() {
		c.ctl.pong = true
		c.ctl.pongPayload = append(c.ctl.pongPayload[:0], payload...)
	})
}

// sendControl records what is to be sent and sees to it that somebody sends it:
// whoever writes just now, or else a goroutine that lives as long as it takes.
func (c *carrier) sendControl(set func()) error {
	c.ctl.mu.Lock()
	defer c.ctl.mu.Unlock()
	if c.ctl.err != nil {
		return c.ctl.err
	}
	if c.ctl.closed {
		return net.ErrClosed
	}
	set()
	c.waiting.Store(true)
	if c.tryLockWrite() {
		c.flushers.Go(c.flushControl)
	}
	return nil
}

// flushControl sends the waiting control frames; it was given wlock.
func (c *carrier) flushControl() {
	if !c.in.exact { // the peer of a Conn may leave everything unread for as long as it likes
		c.nc.SetWriteDeadline(time.Now().Add(controlTimeout))
	}
	c.sendWaiting()
	c.ctl.mu.Lock()
	c.nc.SetWriteDeadline(c.ctl.writeDeadline)
	c.ctl.mu.Unlock()
	c.unlockWrite()
}

// sendWaiting sends the ping and the pong that wait, if any; wlock is held.
func (c *carrier) sendWaiting() {
	if !c.waiting.Load() {
		return
	}
	c.ctl.mu.Lock()
	c.waiting.Store(false)
	ping, pong := c.ctl.ping, c.ctl.pong
	c.ctl.ping, c.ctl.pong = false, false
	var b [headroom + maxControl]byte
	n := headroom + copy(b[headroom:], c.ctl.pongPayload)
	c.ctl.mu.Unlock()
	if pong {
		c.writeFrame(opPong, b[:n])
	}
	if ping {
		c.writeFrame(opPing, b[:headroom])
	}
}

// sendClose sends a close frame, if it can within 1 s, and ends writing with
// why. It reports whether the connection took a close frame, now or before.
func (c *carrier) sendClose(code uint16, reason string, why error) bool {
	until := time.Now().Add(closeTimeout)
	timeout := time.NewTimer(closeTimeout)
	defer timeout.Stop()
	select {
	case c.wlock <- struct{}{}:
	case <-timeout.C:
		return false
	}
	defer func() { <-c.wlock }()
	if c.closeSent {
		return true
	}
	c.nc.SetWriteDeadline(until)
	var b [headroom + maxControl]byte
	binary.BigEndian.PutUint16(b[headroom:], code)
	n := headroom + 2 + copy(b[headroom+2:], reason)
	c.closeSent = c.writeFrame(opClose, b[:n]) == nil
	c.endWrite(why)
	return c.closeSent
}

// writeBuffers are for Write, which must leave its argument as it is.
var writeBuffers = sync.Pool{New: func() any { return new([headroom + writeChunk]byte) }}

// Write sends p in messages of up to 32 KiB.
func (c *carrier) Write(p []byte) (n int, err error) {
	b := writeBuffers.Get().(*[headroom + writeChunk]byte)
	defer writeBuffers.Put(b)
	for n < len(p) {
		m := copy(b[headroom:], p[n:])
		if err := c.writeMessage(b[:headroom+m]); err != nil {
			return n, err
		}
		n += m
	}
	return n, nil
}

// abort is close for a peer that must not take what it got for the whole: it
// does not wait for a peer that does not read, and where there is no room for
// the close frame the connection is reset.
func (c *carrier) abort(code uint16, reason string) {
	t := time.NewTimer(abortTime)
	defer t.Stop()
	select {
	case c.wlock <- struct{}{}:
		<-c.wlock
	case <-t.C:
		_ = c.nc.SetWriteDeadline(time.Unix(1, 0)) // breaks a write in the middle of its frame
	}
	if !c.sendClose(code, reason, errClosedHere) {
		resetOnClose(c.nc)
		code = 0
	}
	c.close(code, reason)
}
