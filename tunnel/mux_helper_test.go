package tunnel

import (
	"io"
	"slices"
	"sync"
	"sync/atomic"
)

// brokenWriter fails to write once told so.
type brokenWriter struct {
	bareConn
	broken atomic.Bool
}

func (c *brokenWriter) writeMessage(b []byte) error {
	if c.broken.Load() {
		return io.ErrShortWrite
	}
	return c.bareConn.writeMessage(b)
}

// gatedConn is a connection whose peer says nothing, and takes a message only
// when told to.
type gatedConn struct {
	messages chan []byte
	once     sync.Once
	closed   chan struct{}
	init     sync.Once
}

func (c *gatedConn) gone() chan struct{} {
	c.init.Do(func() { c.closed = make(chan struct{}) })
	return c.closed
}

func (c *gatedConn) Read([]byte) (int, error) {
	<-c.gone()
	return 0, io.EOF
}

func (c *gatedConn) writeMessage(b []byte) error {
	select {
	case c.messages <- slices.Clone(b[headroom:]):
		return nil
	case <-c.gone():
		return io.ErrClosedPipe
	}
}

func (c *gatedConn) close(uint16, string) {
	gone := c.gone()
	c.once.Do(func() { close(gone) })
}

// next takes a message; waiting writers go on.
func (c *gatedConn) next() []byte { return <-c.messages }
