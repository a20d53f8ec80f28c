package tunnel

import (
	"encoding/binary"
	"math/rand/v2"
	"sync"
	"time"
)

// connChunk is the largest message of a Conn. With its header, and that of the
// next message, it fits into 64 KiB.
const connChunk = 64<<10 - headroom

// wideWrite is from where on two pieces in one call are cheaper than a copy.
const wideWrite = 16 << 10

var connBuffers = sync.Pool{New: func() any { return new([headroom + connChunk]byte) }}

// writeCopy sends p, which is left as it is, as one message in one system call;
// it is at most connChunk long. It is writeMessage otherwise.
func (c *carrier) writeCopy(op byte, p []byte) error {
	if !c.client && len(p) >= wideWrite && c.sock != nil {
		return c.writePair(op, p)
	}
	b := connBuffers.Get().(*[headroom + connChunk]byte)
	defer connBuffers.Put(b)
	frame := c.copyFrame(b, op, p)
	c.wlock <- struct{}{}
	c.sendWaiting()
	err := c.writeWhole(frame)
	c.unlockWrite()
	return err
}

// writePair is writeCopy for what need not be masked, and so not be copied.
func (c *carrier) writePair(op byte, p []byte) error {
	c.wlock <- struct{}{}
	defer c.unlockWrite()
	c.sendWaiting()
	if c.ctl.err != nil {
		return c.ctl.err
	}
	n, err := c.sock.WritePair(appendHeader(c.pairHead[:0], op, len(p)), p)
	return c.wrote(n, err)
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

// writeEnd sends the end of our data. If the peer has ended before, that is the
// end of all, and a close frame goes with it.
func (c *carrier) writeEnd(last bool) error {
	var space [64]byte
	b := c.appendControl(space[:0], opText, eofPayload)
	if last {
		b = c.appendControl(b, opClose, normalClose)
	}
	c.wlock <- struct{}{}
	c.sendWaiting()
	err := c.writeWhole(b)
	if err == nil && last {
		c.closeSent = true
		c.endWrite(errClosedHere)
	}
	c.unlockWrite()
	return err
}

// normalClose is the payload of a close frame for no reason.
var normalClose = binary.BigEndian.AppendUint16(nil, closeNormal)

// appendControl appends a frame of at most 125 bytes.
func (c *carrier) appendControl(b []byte, op byte, p []byte) []byte {
	var frame [headroom + maxControl]byte
	whole := frame[:headroom+copy(frame[headroom:], p)]
	var key *uint32
	if c.client {
		k := rand.Uint32() // see writeFrame
		key = &k
		maskBytes(whole[headroom:], k)
	}
	return append(b, whole[putHeader(whole, op, key):]...)
}
