package relay

import (
	"errors"
	"io"
	"net"
	"sync/atomic"
)

// readAgain is a stream in the hands of net/http's server, of which something has
// been read already. It goes back to the lanes with the next request that is for
// them: to net/http it ends before that. Its other methods are those of the
// stream, as far as that has them.
type readAgain struct {
	// Static.
	net.Conn
	back   func(conn net.Conn, read []byte) // takes the stream back
	filter LaneFilter                       // of the lane that it was in, which is over

	// Owned by the reader, and by whoever closes for it.
	left []byte // comes first
	size int    // of net/http's buffer
	idle bool   // no request is under way

	returned atomic.Bool // left is the lanes'
	closed   atomic.Bool
}

// Read implements net.Conn.
func (c *readAgain) Read(p []byte) (int, error) {
	if c.size == 0 {
		c.size = len(p) // all of the buffer, which is empty
	}
	if c.returned.Load() {
		return 0, io.EOF
	}
	if len(c.left) == 0 {
		n, err := c.Conn.Read(p)
		// Only into an empty buffer net/http reads as much as it holds: what is read now is all that it would have of the
		// next request.
		if c.idle && len(p) == c.size && Plain(p[:n], c.filter) {
			c.left = append([]byte(nil), p[:n]...)
			c.returned.Store(true)
			return 0, io.EOF
		}
		c.idle = c.idle && n == 0
		return n, err
	}
	c.idle = false
	n := copy(p, c.left)
	if c.left = c.left[n:]; len(c.left) == 0 {
		c.left = nil
	}
	return n, nil
}

// Close implements net.Conn: a stream that was returned goes on.
func (c *readAgain) Close() error {
	if c.closed.Swap(true) || !c.returned.Load() {
		return c.Conn.Close()
	}
	c.back(c.Conn, c.left)
	return nil
}

// ReadOr is the stream's, behind what comes first.
func (c *readAgain) ReadOr(p []byte, take func(p []byte) (n int)) (int, error) {
	s, ok := c.Conn.(interface {
		ReadOr(p []byte, take func(p []byte) (n int)) (int, error)
	})
	if !ok || len(c.left) > 0 {
		return c.Read(p)
	}
	return s.ReadOr(p, take)
}

// tryingAgain is a readAgain whose stream is trying.
type tryingAgain struct{ *readAgain }

// TryWrite is the stream's.
func (c tryingAgain) TryWrite(p []byte) (n int) { return c.Conn.(trying).TryWrite(p) }

// again returns a connection for net/http's server.
func (c *readAgain) again() net.Conn {
	if _, ok := c.Conn.(trying); ok {
		return tryingAgain{c}
	}
	return c
}

// againOf is the readAgain that a connection of net/http's server is; nil if it is another.
func againOf(conn net.Conn) *readAgain {
	switch c := conn.(type) {
	case *readAgain:
		return c
	case tryingAgain:
		return c.readAgain
	}
	return nil
}

// CloseWrite ends our side of the stream.
func (c *readAgain) CloseWrite() error {
	if s, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return s.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset ends the stream as a failure.
func (c *readAgain) Reset() { resetConn(c.Conn) }

// Done is closed when the stream is of no more use; nil, which is never, if it
// cannot tell.
func (c *readAgain) Done() <-chan struct{} {
	if s, ok := c.Conn.(interface{ Done() <-chan struct{} }); ok {
		return s.Done()
	}
	return nil
}
