package client

import (
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
)

// Metrics counts what a Client does, from its beginning on. The zero value is
// ready for use; any number of Clients, listeners and connections may share
// one. Read the fields at any time, with Load, and hand them to whatever
// gathers metrics:
//
//	expvar.Publish("piko_open", expvar.Func(func() any { return m.Open.Load() }))
type Metrics struct {
	Dials        atomic.Int64 // attempts to open a tunnel, and of Dial to open a connection
	DialFailures atomic.Int64 // those that failed; that a tunnel is not needed is no failure
	Lost         atomic.Int64 // tunnels that ended without having been left
	Reconnects   atomic.Int64 // times that a listener had a tunnel again after it had lost the last one
	Accepted     atomic.Int64 // connections that Accept has returned
	Dialled      atomic.Int64 // connections that Dial has returned
	Open         atomic.Int64 // connections of both kinds that have not been closed by this side
	BytesIn      atomic.Int64 // read from connections
	BytesOut     atomic.Int64 // written to connections
}

// The methods of a nil *Metrics count nothing.

func (m *Metrics) dialled(err error) {
	if m == nil {
		return
	}
	m.Dials.Add(1)
	if err != nil {
		m.DialFailures.Add(1)
	}
}

func (m *Metrics) lost() {
	if m != nil {
		m.Lost.Add(1)
	}
}

func (m *Metrics) reconnected() {
	if m != nil {
		m.Reconnects.Add(1)
	}
}

// accepted is what Accept returns for c.
func (m *Metrics) accepted(c stream) net.Conn {
	if m == nil {
		return c
	}
	m.Accepted.Add(1)
	return m.count(c)
}

// opened is what Dial returns for c.
func (m *Metrics) opened(c stream) net.Conn {
	if m == nil {
		return c
	}
	m.Dialled.Add(1)
	return m.count(c)
}

func (m *Metrics) count(c stream) net.Conn {
	m.Open.Add(1)
	return &countedConn{stream: c, metrics: m}
}

// stream is what connections through a tunnel, and those of Dial, can do.
type stream interface {
	net.Conn
	CloseWrite() error
	Reset()
}

// countedConn counts what goes through a connection.
type countedConn struct {
	stream
	metrics *Metrics
	closed  sync.Once
}

// Read counts what it reads.
func (c *countedConn) Read(p []byte) (int, error) {
	n, err := c.stream.Read(p)
	c.metrics.BytesIn.Add(int64(n))
	return n, err
}

// Write counts what it writes.
func (c *countedConn) Write(p []byte) (int, error) {
	n, err := c.stream.Write(p)
	c.metrics.BytesOut.Add(int64(n))
	return n, err
}

// Close counts the connection out.
func (c *countedConn) Close() error {
	c.end()
	return c.stream.Close()
}

// Reset counts the connection out.
func (c *countedConn) Reset() {
	c.end()
	c.stream.Reset()
}

// The other methods of a connection are those of what is counted, as far as
// that has them.

// Done is closed when the connection is of no more use; nil, which is never, if
// it cannot tell.
func (c *countedConn) Done() <-chan struct{} {
	if d, ok := c.stream.(interface{ Done() <-chan struct{} }); ok {
		return d.Done()
	}
	return nil
}

// ClientAddr is the client for which a node has opened the connection; not valid
// if nobody has said.
func (c *countedConn) ClientAddr() netip.AddrPort {
	if a, ok := c.stream.(interface{ ClientAddr() netip.AddrPort }); ok {
		return a.ClientAddr()
	}
	return netip.AddrPort{}
}

// ReadOr counts what it reads, and what take has taken.
func (c *countedConn) ReadOr(p []byte, take func(p []byte) (n int)) (int, error) {
	s, ok := c.stream.(interface {
		ReadOr(p []byte, take func(p []byte) (n int)) (int, error)
	})
	if !ok {
		return c.Read(p)
	}
	n, err := s.ReadOr(p, func(p []byte) int {
		n := take(p)
		c.metrics.BytesIn.Add(int64(n))
		return n
	})
	c.metrics.BytesIn.Add(int64(n))
	return n, err
}

// TryWrite counts what it writes: nothing, if the connection cannot try.
func (c *countedConn) TryWrite(p []byte) (n int) {
	if w, ok := c.stream.(interface{ TryWrite(p []byte) (n int) }); ok {
		n = w.TryWrite(p)
	}
	c.metrics.BytesOut.Add(int64(n))
	return n
}

// OnEnd has f called when the other side has ended the connection, if that can
// be known; see tunnel.Stream.
func (c *countedConn) OnEnd(f func()) {
	if s, ok := c.stream.(interface{ OnEnd(f func()) }); ok {
		s.OnEnd(f)
	}
}

func (c *countedConn) end() { c.closed.Do(func() { c.metrics.Open.Add(-1) }) }
