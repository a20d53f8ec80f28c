package agent

import (
	"errors"
	"net"
)

// readAgain is a stream of which something has been read already. Its other
// methods are those of the stream, as far as that has them.
type readAgain struct {
	net.Conn
	left []byte // comes first; owned by the reader
}

// Read implements net.Conn.
func (c *readAgain) Read(p []byte) (int, error) {
	if len(c.left) == 0 {
		return c.Conn.Read(p)
	}
	n := copy(p, c.left)
	if c.left = c.left[n:]; len(c.left) == 0 {
		c.left = nil
	}
	return n, nil
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

// TryWrite is the stream's: nothing is written if that cannot try.
func (c *readAgain) TryWrite(p []byte) (n int) {
	if s, ok := c.Conn.(interface{ TryWrite(p []byte) (n int) }); ok {
		n = s.TryWrite(p)
	}
	return n
}

// CloseWrite ends our side of the stream.
func (c *readAgain) CloseWrite() error {
	if s, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return s.CloseWrite()
	}
	return errors.ErrUnsupported
}

// Reset ends the stream as a failure.
func (c *readAgain) Reset() { reset(c.Conn) }

// Done is closed when the stream is of no more use; nil, which is never, if it
// cannot tell.
func (c *readAgain) Done() <-chan struct{} {
	if s, ok := c.Conn.(interface{ Done() <-chan struct{} }); ok {
		return s.Done()
	}
	return nil
}
