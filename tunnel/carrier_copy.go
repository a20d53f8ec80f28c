package tunnel

import (
	"math/rand/v2"
	"sync"
	"time"
)

// connChunk is the largest message of a Conn. With its header, and that of the
// next message, it fits into 64 KiB.
const connChunk = 64<<10 - headroom

var connBuffers = sync.Pool{New: func() any { return new([headroom + connChunk]byte) }}

// writeCopy sends p, which is left as it is, as one message in one system call;
// it is at most connChunk long. It is writeMessage otherwise.
func (c *carrier) writeCopy(op byte, p []byte) error {
	b := connBuffers.Get().(*[headroom + connChunk]byte)
	defer connBuffers.Put(b)
	frame := c.copyFrame(b, op, p)
	c.wlock <- struct{}{}
	c.sendWaiting()
	err := c.writeWhole(frame)
	c.unlockWrite()
	return err
}

// writeWithin is writeCopy for what must not take longer than that, and says
// whether it was sent. Nothing may be written after it.
func (c *carrier) writeWithin(d time.Duration, op byte, p []byte) bool {
	b := connBuffers.Get().(*[headroom + connChunk]byte)
	defer connBuffers.Put(b)
	frame := c.copyFrame(b, op, p)
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case c.wlock <- struct{}{}:
	case <-t.C:
		return false
	}
	defer c.unlockWrite()
	_ = c.nc.SetWriteDeadline(time.Now().Add(d))
	return c.writeWhole(frame) == nil
}

// copyFrame makes a frame of p in b, masked if it must be.
func (c *carrier) copyFrame(b *[headroom + connChunk]byte, op byte, p []byte) []byte {
	whole := b[:headroom+len(p)]
	if !c.client {
		copy(whole[headroom:], p)
		return whole[putHeader(whole, op, nil):]
	}
	key := rand.Uint32() // see writeFrame
	maskCopy(whole[headroom:], p, key)
	return whole[putHeader(whole, op, &key):]
}
