package tunnel

import (
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// memConn is a connection in memory for synctest bubbles, whose network can
// vanish: what is written then fills the buffer of the sender and arrives never.
type memConn struct {
	in, out *memHalf
}

// memBuffer is what a half holds on its way, as a socket's buffers do.
const memBuffer = 256 << 10

// memPair returns the two ends.
func memPair() (a, b *memConn) {
	x, y := newMemHalf(), newMemHalf()
	return &memConn{x, y}, &memConn{y, x}
}

// vanish makes the network between both ends disappear.
func (c *memConn) vanish() {
	for _, h := range []*memHalf{c.in, c.out} {
		h.set(func(h *memHalf) { h.lost, h.lostAt = true, time.Now() })
	}
}

func (c *memConn) Read(p []byte) (int, error)  { return c.in.read(p) }
func (c *memConn) Write(p []byte) (int, error) { return c.out.write(p) }

func (c *memConn) Close() error {
	c.in.set(func(h *memHalf) { h.readerGone = true })
	c.out.set(func(h *memHalf) { h.writerGone = true })
	return nil
}

func (c *memConn) sendQueue() sendQueue {
	c.out.mu.Lock()
	defer c.out.mu.Unlock()
	q := sendQueue{acked: c.out.taken, queued: len(c.out.buf)}
	if c.out.lost && q.queued > 0 { // else the other end's system has it, whether or not somebody reads
		q.flying, q.silent = true, time.Since(c.out.lostAt)
	}
	return q
}

func (c *memConn) LocalAddr() net.Addr  { return unknownAddr{} }
func (c *memConn) RemoteAddr() net.Addr { return unknownAddr{} }

func (c *memConn) SetDeadline(t time.Time) error {
	c.SetReadDeadline(t)
	return c.SetWriteDeadline(t)
}

func (c *memConn) SetReadDeadline(t time.Time) error {
	c.in.setDeadline(&c.in.rdeadline, t)
	return nil
}

func (c *memConn) SetWriteDeadline(t time.Time) error {
	c.out.setDeadline(&c.out.wdeadline, t)
	return nil
}

// memHalf is one direction.
type memHalf struct {
	// Guarded by mu.
	mu                     sync.Mutex
	cond                   *sync.Cond
	buf                    []byte
	readerGone, writerGone bool
	lost                   bool
	lostAt                 time.Time
	stopped                bool   // the reader's process is
	taken                  uint64 // bytes that were read
	rdeadline, wdeadline   memDeadline
}

type memDeadline struct {
	timer  *time.Timer
	passed bool
}

func newMemHalf() *memHalf {
	h := &memHalf{}
	h.cond = sync.NewCond(&h.mu)
	return h
}

func (h *memHalf) set(f func(*memHalf)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	f(h)
	h.cond.Broadcast()
}

func (h *memHalf) setDeadline(d *memDeadline, t time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
		d.timer = nil
	}
	d.passed = false
	if t.IsZero() {
		return
	}
	if !t.After(time.Now()) {
		d.passed = true
		h.cond.Broadcast()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(time.Until(t), func() {
		h.mu.Lock()
		defer h.mu.Unlock()
		if d.timer == timer {
			d.passed = true
			h.cond.Broadcast()
		}
	})
	d.timer = timer
}

func (h *memHalf) read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.readerGone:
			return 0, net.ErrClosed
		case h.rdeadline.passed:
			return 0, os.ErrDeadlineExceeded
		case h.lost, h.stopped:
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.taken += uint64(n)
			h.cond.Broadcast()
			return n, nil
		case h.writerGone:
			return 0, io.EOF
		}
		h.cond.Wait()
	}
}

func (h *memHalf) write(p []byte) (n int, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for {
		switch {
		case h.writerGone:
			return n, net.ErrClosed
		case h.readerGone && !h.lost:
			return n, io.ErrClosedPipe
		case h.wdeadline.passed:
			return n, os.ErrDeadlineExceeded
		}
		k := min(len(p)-n, memBuffer-len(h.buf))
		h.buf = append(h.buf, p[n:n+k]...)
		h.cond.Broadcast()
		if n += k; n == len(p) {
			return n, nil
		}
		h.cond.Wait()
	}
}

// memListener accepts what dial connects.
type memListener struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

func newMemListener() *memListener {
	return &memListener{conns: make(chan net.Conn), done: make(chan struct{})}
}

func (l *memListener) dial() *memConn {
	a, b := memPair()
	l.conns <- b
	return a
}

func (l *memListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *memListener) Close() error {
	l.once.Do(func() { close(l.done) })
	return nil
}

func (l *memListener) Addr() net.Addr { return unknownAddr{} }

// slowConn reads so many bytes a second.
type slowConn struct {
	*memConn
	rate int
}

func (c *slowConn) Read(p []byte) (int, error) {
	n, err := c.memConn.Read(p[:min(len(p), 1<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.rate))
	return n, err
}
