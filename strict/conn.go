// Package strict refuses HTTP/1 requests whose end two parsers could see in different places, in front of net/http's
// server, which mends some of them before a handler sees anything: a Content-Length beside a Transfer-Encoding, two
// Content-Lengths, folded lines, lines that end with LF alone, a Transfer-Encoding in HTTP/1.0, spaces behind a chunk's
// size. Behind a proxy that reads them otherwise each is a way to smuggle a request past it.
//
// A Conn stands between the connection and the server. It follows the bounds of the messages in what the client sends and
// nothing else: it parses no URL and judges no name. Bytes pass as they come and at once, so that latency, time-outs,
// slow clients and `Expect: 100-continue` are what they are without it. When the end of a line proves that the message
// is ambiguous, Conn makes that line one which net/http refuses, ends the head behind it, and lets nothing more
// through. So it is net/http that answers 400, after the requests that were pipelined before, and closes the connection;
// in a body, reading that fails.
//
// HTTP/2 with prior knowledge is recognised by its preface and passes. What follows a request that asks for another
// protocol may be that protocol: it is not looked at before net/http goes on to read another request.
package strict

import (
	"crypto/tls"
	"errors"
	"io"
	"net"
	"slices"
	"sync/atomic"
)

// Conn is a connection whose reader is net/http's server. One goroutine may read at a time, as of any net.Conn that
// net/http has; all else is safe for concurrent use. Use NewConn.
type Conn struct {
	net.Conn
	waits atomic.Pointer[waits] // nil when the connection was taken over

	// Owned by the reader.
	framing
	kept []byte // was read from Conn behind a head that asks for another protocol
	tail string // comes instead of what the client sends; only when refused
	raw  bool   // nothing is judged any more
}

// refusal ends the line, and the head, that was refused. The first CR is one that must not be in any line.
const refusal = "\r\r\n\r\n"

// NewConn returns a *Conn around nc; if nc has a method ConnectionState, as a *tls.Conn, so has what is returned, and
// net/http tells handlers. The server's ConnState hook has to call Hijacked when a connection is taken over.
func NewConn(nc net.Conn) net.Conn {
	w := newWaits(nc)
	if s, ok := nc.(stater); ok {
		c := &secureConn{Conn: Conn{Conn: nc}, stater: s}
		c.preface = -1 // below TLS it is ALPN that says so
		w.tellWrite = true
		c.waits.Store(w)
		return c
	}
	c := &Conn{Conn: nc}
	c.waits.Store(w)
	return c
}

type stater interface{ ConnectionState() tls.ConnectionState }

// secureConn is a Conn over TLS.
type secureConn struct {
	Conn
	stater
}

// Hijacked says that the connection belongs to another protocol now: all bytes pass, those too that came already. It is
// called from http.Server's ConnState hook with http.StateHijacked.
func (c *Conn) Hijacked() {
	c.raw = true
	if w := c.waits.Swap(nil); w != nil {
		w.settle()
	}
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (n int, err error) {
	switch {
	case len(c.kept) > 0:
		if n = copy(p, c.kept); n == len(c.kept) {
			c.kept = nil
		} else {
			c.kept = c.kept[n:]
		}
	case c.refused:
		return c.end(p)
	default:
		n, err = c.readBelow(p)
	}
	if n == 0 || c.raw {
		return n, err
	}
	if !c.peekOver(len(p)) {
		return c.end(p)
	}
	if n = c.judge(p[:n]); c.refused || len(c.kept) > 0 {
		err = nil // it will come again
	}
	return n, err
}

// peekOver is called before size bytes at most are judged. A byte alone behind a head that asks for another protocol is
// what net/http reads while the handler is at work, to learn whether the client is there; it gives it to whoever takes the
// connection over. More is read for the next request: then that byte is its first, and may be wrong already.
func (c *Conn) peekOver(size int) bool {
	if c.state != stOpen || size == 1 && !c.peeked {
		return true
	}
	c.state = stStart
	if c.peeked {
		c.peeked = false
		c.follow(c.peek[:])
	}
	if c.refused {
		c.tail, c.kept = refusal, nil
	}
	return !c.refused
}

// end gives net/http the end of what was refused.
func (c *Conn) end(p []byte) (int, error) {
	if len(c.tail) == 0 && len(p) > 0 {
		return 0, io.EOF
	}
	n := copy(p, c.tail)
	c.tail = c.tail[n:]
	return n, nil
}

// judge follows what was read and returns how much of it is net/http's.
func (c *Conn) judge(p []byte) int {
	if c.state == stOpen {
		c.peeked, c.peek[0] = true, p[0]
		return len(p)
	}
	n := c.follow(p)
	switch {
	case c.preface == len(http2Preface):
		c.raw = true
	case c.refused:
		c.tail, c.kept = refusal, nil
	case n < len(p):
		c.kept = slices.Concat(p[n:], c.kept)
	}
	return n
}

// NetConn returns the connection below, for socket options and to end it: reading it could miss bytes.
func (c *Conn) NetConn() net.Conn { return c.Conn }

// TCPConn returns the TCP connection below if reading and writing that is the same from now on: the connection was taken
// over, and nothing of it is here. Otherwise it is nil.
func (c *Conn) TCPConn() *net.TCPConn {
	if !c.raw || len(c.kept) > 0 {
		return nil
	}
	switch nc := c.Conn.(type) {
	case *net.TCPConn:
		return nc
	case interface{ TCPConn() *net.TCPConn }:
		return nc.TCPConn()
	}
	return nil
}

// CloseWrite ends our side of the connection; errors.ErrUnsupported if that has no half-close.
func (c *Conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
