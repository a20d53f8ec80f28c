package tunnel

import (
	"sync"
	"time"
)

var bigBuffers = sync.Pool{New: func() any { return new([bigBuffer]byte) }}

// fill reads more bytes behind those that wait in the buffer. Callers need no
// more at once than the small buffer holds.
func (c *carrier) fill() error {
	f := &c.in
	rest := f.buf[f.r:f.w]
	if f.more {
		if f.big == nil {
			f.big = bigBuffers.Get().(*[bigBuffer]byte)
		}
		f.buf = f.big[:]
	} else {
		f.buf = f.small[:]
	}
	f.r, f.w = 0, copy(f.buf, rest)
	if !f.more {
		f.release()
	}
	n, err := c.receive(f.buf[f.w:])
	f.w += n
	f.more = f.w == len(f.buf)
	if n > 0 {
		return nil // if there was an error, it comes again
	}
	return err
}

// release gives the big buffer back; nothing in it is needed any more.
func (f *frameReader) release() {
	if f.big != nil {
		bigBuffers.Put(f.big)
		f.big = nil
	}
}

// receiveInto reads up to n bytes into p. What p has behind them takes the next
// frame's header too, which saves the system call that would fetch it alone. A
// Conn takes no more than that: payload that came along would be given to the
// caller alone, in a piece of a few bytes.
func (c *carrier) receiveInto(p []byte, n int) (int, error) {
	f := &c.in
	ahead := len(f.buf)
	if f.exact {
		ahead = min(f.header, ahead)
	}
	k, err := c.receive(p[:min(len(p), n+ahead)])
	f.r, f.w, f.more = 0, 0, false
	if k > n {
		f.w = copy(f.buf, p[n:k])
		f.more = f.w == len(f.buf)
		k = n
	}
	return k, err
}

// receive reads from the connection. Any byte is life.
func (c *carrier) receive(p []byte) (int, error) {
	n, err := c.r.Read(p)
	if n > 0 {
		c.received.Add(uint64(n))
		c.last.Store(int64(time.Since(c.epoch)))
	}
	return n, err
}
