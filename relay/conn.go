package relay

import (
	"bytes"
	"io"
	"net"
	"syscall"
	"time"
)

// conn is a connection of a Pool.
type conn struct {
	// Static after construction.
	pool  *Pool
	nc    net.Conn
	quiet quieter // tells whether an idle connection is fit; nil if that cannot be known

	// Owned by the pool's mu while idle, by the exchange otherwise.
	idleSince time.Time
	reused    bool

	// Owned by the reader of the exchange. buf is nil while idle: an idle connection holds no buffer.
	buf    []byte
	pooled *[]byte
	r, w   int // buf[r:w] was read and not yet used
}

// quieter is a connection that knows whether it is as it was left: nothing to read, not ended.
type quieter interface{ Quiet() bool }

// resetter is a connection that can be ended so that the other side sees a failure rather than an end.
type resetter interface{ Reset() }

func newConn(p *Pool, nc net.Conn) *conn {
	c := &conn{pool: p, nc: nc}
	if q, ok := nc.(quieter); ok {
		c.quiet = q
	} else if sc, ok := underneath(nc).(syscall.Conn); ok {
		c.quiet = watchSocket(sc)
	}
	return c
}

// underneath is the transport below TLS, and below whatever else shows it.
func underneath(nc net.Conn) net.Conn {
	for {
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nc
		}
		nc = above.NetConn()
	}
}

// tcpConn is the socket whose bytes are those of c, with nothing between; nil if there is none. It may not be closed but
// through c.
func tcpConn(c any) *net.TCPConn {
	switch c := c.(type) {
	case *net.TCPConn:
		return c
	case interface{ TCPConn() *net.TCPConn }:
		return c.TCPConn()
	}
	return nil
}

// fit reports whether an idle connection can carry another request: it is young enough, still open, and nothing came
// that nobody asked for. Below TLS any waiting byte is such: what comes there on an idle connection is its end.
func (c *conn) fit() bool {
	if d := c.pool.idleTimeout(); d >= 0 && time.Since(c.idleSince) >= d {
		return false
	}
	return c.quiet == nil || c.quiet.Quiet()
}

// abort ends the connection so that readers and writers of it fail at once. It does not block: closing a TLS
// connection would try to say goodbye for up to 5 s, so what is below it is closed.
func (c *conn) abort() {
	if r, ok := c.nc.(resetter); ok {
		r.Reset()
		return
	}
	_ = underneath(c.nc).Close()
}

// close ends a connection that nobody uses.
func (c *conn) close() {
	if _, ok := c.nc.(resetter); ok {
		_ = c.nc.Close()
		return
	}
	_ = underneath(c.nc).Close()
}

// hold makes the read buffer ready for an exchange.
func (c *conn) hold() {
	c.pooled = readBuffers.Get().(*[]byte)
	c.buf, c.r, c.w = *c.pooled, 0, 0
}

// drop gives the read buffer back.
func (c *conn) drop() {
	if c.pooled != nil {
		readBuffers.Put(c.pooled)
	}
	c.buf, c.pooled, c.r, c.w = nil, nil, 0, 0
}

func (c *conn) buffered() int { return c.w - c.r }

// fill reads more into the buffer, which grows up to limit bytes if it is full.
func (c *conn) fill(limit int) error {
	if c.r > 0 {
		c.w = copy(c.buf, c.buf[c.r:c.w])
		c.r = 0
	}
	if c.w == len(c.buf) {
		if len(c.buf) >= limit {
			return errTooLong
		}
		bigger := make([]byte, min(2*len(c.buf), limit))
		copy(bigger, c.buf)
		if c.pooled != nil {
			readBuffers.Put(c.pooled)
		}
		c.buf, c.pooled = bigger, nil
	}
	return c.more()
}

// more reads into the free end of the buffer, of which there must be some.
func (c *conn) more() error {
	for range 100 {
		n, err := c.nc.Read(c.buf[c.w:])
		c.w += n
		if n > 0 {
			return nil
		}
		if err != nil {
			return err
		}
	}
	return io.ErrNoProgress
}

// head returns the next head or trailer section with the empty line that ends it. It is valid until the next read.
func (c *conn) head(limit int) ([]byte, error) {
	seen := 0
	for {
		if n := headLength(c.buf[c.r:c.w], seen); n > limit {
			return nil, errTooLong
		} else if n > 0 {
			h := c.buf[c.r : c.r+n]
			c.r += n
			return h, nil
		}
		seen = c.buffered()
		if err := c.fill(limit); err != nil {
			return nil, err
		}
	}
}

// headLength is the length of the head that b starts with, 0 if its end is not in b; no end is in the first seen bytes.
func headLength(b []byte, seen int) int {
	for i := max(0, seen-2); ; {
		j := bytes.IndexByte(b[i:], '\n')
		if j < 0 {
			return 0
		}
		i += j + 1
		switch {
		case len(b) > i && b[i] == '\n':
			return i + 1
		case len(b) > i+1 && b[i] == '\r' && b[i+1] == '\n':
			return i + 2
		}
	}
}

// read gives what is buffered, else reads straight into p.
func (c *conn) read(p []byte) (int, error) {
	if c.r < c.w {
		n := copy(p, c.buf[c.r:c.w])
		c.r += n
		return n, nil
	}
	if len(p) >= len(c.buf) {
		return c.nc.Read(p)
	}
	c.r, c.w = 0, 0
	if err := c.more(); err != nil {
		return 0, err
	}
	return c.read(p)
}
