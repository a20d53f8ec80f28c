package relay

import (
	"errors"
	"fmt"
	"net"
)

// ErrNotHTTP2 is what opening a connection of an HTTP2Pool fails with if the other side took it and then did not begin
// as HTTP/2 does.
var ErrNotHTTP2 = errors.New("service does not speak HTTP/2")

const (
	frameHeader  = 9
	typeSettings = 4
)

// firstFrame is a connection that tells when the other side's first frame was dealt with: its settings, which say how
// many streams it takes. Before, all of a burst would go to one connection, and come back refused.
type firstFrame struct {
	net.Conn
	known chan struct{} // closed when err is known
	err   error

	// Owned by the reader.
	head []byte // the first bytes, up to frameHeader
	seen int    // bytes that came
	over bool   // known is closed
}

func newFirstFrame(nc net.Conn) *firstFrame {
	return &firstFrame{Conn: nc, known: make(chan struct{})}
}

// Read implements net.Conn. It is called again when what it gave was dealt with.
func (c *firstFrame) Read(p []byte) (int, error) {
	if c.over {
		return c.Conn.Read(p)
	}
	if len(c.head) == frameHeader && c.seen >= frameHeader+frameLength(c.head) {
		c.tell(nil)
	}
	n, err := c.Conn.Read(p)
	if !c.over {
		c.look(p[:n], err)
	}
	return n, err
}

func frameLength(head []byte) int { return int(head[0])<<16 | int(head[1])<<8 | int(head[2]) }

func (c *firstFrame) look(b []byte, err error) {
	c.seen += len(b)
	c.head = append(c.head, b[:min(len(b), frameHeader-len(c.head))]...)
	switch {
	case len(c.head) == frameHeader && c.head[3] != typeSettings:
		c.tell(ErrNotHTTP2)
	case err != nil:
		c.tell(fmt.Errorf("%w: %w", ErrNotHTTP2, err))
	}
}

func (c *firstFrame) tell(err error) {
	c.err, c.over = err, true
	close(c.known)
}

// Close ends the connection without a goodbye below it, which could block.
func (c *firstFrame) Close() error {
	if _, ok := c.Conn.(resetter); ok {
		return c.Conn.Close()
	}
	return underneath(c.Conn).Close()
}
