package listen

import (
	"container/list"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"
)

// Conn is a connection of a Listener. It has the methods of a *net.TCPConn that
// people look for, but no NetConn: what is closed below it would not be counted.
type Conn struct {
	net.Conn // of the listener below

	// Static after it was handed out.
	l        *Listener
	remote   net.Addr   // the client's; not that of a load balancer that has said whose connection it is
	addr     netip.Addr // of remote, without zone, IPv4 as such; invalid if it is no IP address
	viaProxy bool       // it begins with a PROXY header
	plain    bool       // no TLS on a port that has it

	first   byte // was read already
	unread  bool // first has to be read again; owned by the reader
	isOver  atomic.Bool
	quiet   atomic.Int64 // since when nothing is under way on it, in Unix nanoseconds; 0: something is
	limited atomic.Bool  // restricted

	// Guarded by l.mu.
	next, prev   *Conn
	entered      bool       // it is in l.conns
	isKnown      bool       // remote and addr are the client's
	isPeer       bool       // Trust was called
	counted      bool       // for MaxConnections
	countedAs    netip.Addr // for MaxPerSource, and the bounds of restricted ones; invalid: for none
	isRestricted bool       // counts for maxRestricted
	reason       string     // why it is
	end          *time.Timer
	looking      *list.Element
}

func newConn(l *Listener, nc net.Conn) *Conn {
	c := &Conn{Conn: nc, l: l, remote: nc.RemoteAddr()}
	c.addr = ipOf(c.remote)
	c.viaProxy = contains(l.opt.ProxyProtocolFrom, c.addr)
	c.quiet.Store(time.Now().UnixNano())
	return c
}

// ipOf is the address as lists know it; invalid if it is none of IP.
func ipOf(a net.Addr) netip.Addr {
	if tcp, ok := a.(*net.TCPAddr); ok {
		return tcp.AddrPort().Addr().Unmap().WithZone("")
	}
	return netip.Addr{}
}

// RemoteAddr is the client's address: that in the PROXY header, if there was one.
func (c *Conn) RemoteAddr() net.Addr { return c.remote }

// Plain says that the client speaks no TLS on a port that has it.
func (c *Conn) Plain() bool { return c.plain }

// Restricted says that the connection was refused, and open only for as long as
// it takes another node to prove that it is one.
func (c *Conn) Restricted() bool { return c.limited.Load() }

// Trust says that another node is at the other end: the connection counts for no
// limit any more, and is no longer restricted.
func (c *Conn) Trust() {
	c.l.exempt(c)
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	err := c.Conn.Close()
	if !c.isOver.Swap(true) {
		c.l.leave(c)
	}
	return err
}

// Read implements net.Conn.
func (c *Conn) Read(p []byte) (int, error) {
	if !c.unread || len(p) == 0 {
		return c.Conn.Read(p)
	}
	c.unread = false
	p[0] = c.first
	return 1, nil
}

// peek waits for the first byte, which will be read again.
func (c *Conn) peek() (byte, error) {
	if c.unread {
		return c.first, nil
	}
	var b [1]byte
	if _, err := io.ReadFull(c.Conn, b[:]); err != nil {
		return 0, err
	}
	c.first, c.unread = b[0], true
	return c.first, nil
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	if limit := c.l.opt.WriteTimeout; limit > 0 {
		_ = c.Conn.SetWriteDeadline(time.Now().Add(limit))
	}
	return c.Conn.Write(p)
}

// ReadFrom implements io.ReaderFrom, for what the system can copy by itself.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	if to, ok := c.Conn.(io.ReaderFrom); ok && c.l.opt.WriteTimeout == 0 {
		return to.ReadFrom(r)
	}
	return io.Copy(struct{ io.Writer }{c}, r)
}

// CloseWrite ends our side of the connection.
func (c *Conn) CloseWrite() error {
	if cw, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return cw.CloseWrite()
	}
	return errors.ErrUnsupported
}

// SetLinger is that of net.TCPConn.
func (c *Conn) SetLinger(sec int) error {
	if l, ok := c.Conn.(interface{ SetLinger(sec int) error }); ok {
		return l.SetLinger(sec)
	}
	return errors.ErrUnsupported
}

// SyscallConn implements syscall.Conn.
func (c *Conn) SyscallConn() (syscall.RawConn, error) {
	if sc, ok := c.Conn.(syscall.Conn); ok {
		return sc.SyscallConn()
	}
	return nil, errors.ErrUnsupported
}

// TCPConn is the socket, for who can make more of it than of a net.Conn; nil if
// there is none, or if not all that was read from it was read from c. Only c may
// be closed.
func (c *Conn) TCPConn() *net.TCPConn {
	if c.unread {
		return nil
	}
	tcp, _ := c.Conn.(*net.TCPConn)
	return tcp
}

// under is the Conn below what a Listener has handed out; nil if there is none.
func under(nc net.Conn) *Conn {
	for {
		if c, ok := nc.(*Conn); ok {
			return c
		}
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		nc = above.NetConn()
	}
}

// connKey is the key of a Conn in the context of its requests.
type connKey struct{}

// ConnContext is for an http.Server's field of that name: ConnState finds the
// connection again.
func ConnContext(ctx context.Context, nc net.Conn) context.Context {
	if c := under(nc); c != nil {
		return context.WithValue(ctx, connKey{}, c)
	}
	return ctx
}

// ConnState is the connection that a request came on, for what is to be known
// of it: it must not be read, written or closed. nil without ConnContext.
func ConnState(ctx context.Context) *Conn {
	c, _ := ctx.Value(connKey{}).(*Conn)
	return c
}

// SetState is for an http.Server's ConnState: idle connections can be closed
// when something is short.
func SetState(nc net.Conn, state http.ConnState) {
	c := under(nc)
	if c == nil {
		return
	}
	quiet := int64(0)
	if state == http.StateIdle || state == http.StateNew {
		quiet = time.Now().UnixNano()
	}
	c.quiet.Store(quiet)
}
