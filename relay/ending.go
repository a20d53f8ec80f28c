package relay

import (
	"errors"
	"io"
	"net"
	"time"
)

// closeConn closes a connection in order. A TLS connection would take up to 5 s to say so.
func closeConn(c io.Closer) {
	if d, ok := c.(interface{ SetWriteDeadline(time.Time) error }); ok && tcpConn(c) == nil {
		_ = d.SetWriteDeadline(time.Now().Add(goodbye))
	}
	_ = c.Close()
}

// resetConn ends a connection so that the other side sees a failure, and wakes who reads or writes it. It does not wait.
func resetConn(c io.Closer) {
	switch r := c.(type) {
	case resetter:
		r.Reset()
		return
	case interface{ Abort() }:
		r.Abort()
		return
	}
	if nc, ok := c.(net.Conn); ok {
		c = underneath(nc)
	}
	if l, ok := c.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = c.Close()
}

func setDeadline(c any, t time.Time) error {
	if d, ok := c.(interface{ SetDeadline(time.Time) error }); ok {
		return d.SetDeadline(t)
	}
	return errors.ErrUnsupported
}

func setReadDeadline(c any, t time.Time) error {
	if d, ok := c.(interface{ SetReadDeadline(time.Time) error }); ok {
		return d.SetReadDeadline(t)
	}
	return errors.ErrUnsupported
}

// closeWrite ends our side of a connection. What has no half-close says errors.ErrUnsupported.
func closeWrite(w any) error {
	if cw, ok := w.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}
