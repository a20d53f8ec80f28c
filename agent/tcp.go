package agent

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"time"

	"piko/accesslog"
	"piko/fault"
	"piko/proxyproto"
	"piko/relay"
)

// What a Listener's Protocol may be; empty is HTTP.
const (
	protocolHTTP = "http"
	protocolTCP  = "tcp"
)

// tcpAccessSubsystem is what the access log calls this part, as v0.9.0 does.
const tcpAccessSubsystem = "proxy.tcp.access"

// front is what serves the streams of a listener: lanes, an http.Server, or a tcpServer.
type front interface {
	// Serve accepts until the listener is closed.
	Serve(net.Listener) error
	// Close ends what ending the context of its requests leaves.
	Close() error
}

// newFront is what serves the listener's protocol; its work ends with base.
func (l *listener) newFront(base context.Context) front {
	if l.cfg.Protocol == protocolTCP {
		return &tcpServer{l: l, base: base}
	}
	if l.slow() {
		return l.server(base)
	}
	return newLanes(l, base)
}

// newTCPListener checks lc, whose endpoint is; the caller sets listen.
func newTCPListener(cfg *Config, lc Listener, log *slog.Logger, m *metrics, access io.Writer) (*listener, error) {
	switch lc.ProxyProtocol {
	case "", proxyproto.V1, proxyproto.V2:
	default:
		return nil, fmt.Errorf("unknown PROXY protocol %q: use v1 or v2", lc.ProxyProtocol)
	}
	if lc.TLS != nil || lc.GetTLS != nil {
		return nil, errors.New("TLS is for https services: what passes through a TCP listener is not touched")
	}
	service, err := newTCPService(&lc)
	if err != nil {
		return nil, err
	}
	l := &listener{
		cfg: lc, service: service, log: cmp.Or(cfg.TCPLog, log), metrics: m.listener(lc.Endpoint),
		connectTimeout: cfg.ConnectTimeout,
	}
	l.metrics.tcp = m.tcp.listener(lc.Endpoint)
	if access != nil {
		options := cfg.TCPAccessLog
		options.Subsystem = cmp.Or(options.Subsystem, tcpAccessSubsystem)
		l.access = accesslog.New(access, lc.AccessLog, options)
	}
	return l, nil
}

// checkHTTP finds what a listener that is not one for TCP cannot have.
func checkHTTP(lc *Listener) error {
	switch {
	case lc.Protocol != "" && lc.Protocol != protocolHTTP:
		return fmt.Errorf("unknown protocol %q: use http or tcp", lc.Protocol)
	case lc.ProxyProtocol != "":
		return errors.New("the PROXY protocol is for TCP listeners: an HTTP service finds the client in X-Forwarded-For")
	}
	return nil
}

// newTCPService parses l.Addr, which is a port or host:port.
func newTCPService(l *Listener) (*service, error) {
	hostport, err := parseHostPort(l.Addr)
	if err != nil {
		return nil, fmt.Errorf("invalid address of the service %q: give a port or host:port, such as 5432 or 10.0.0.5:5432", l.Addr)
	}
	s := &service{scheme: protocolTCP, host: hostport, dialTo: hostport}
	s.dialer = net.Dialer{
		Timeout:         orDefault(l.DialTimeout, defaultDialTimeout),
		KeepAliveConfig: keepAlive(l.KeepAlive),
	}
	return s, nil
}

// tcpServer forwards each stream of a listener over a connection of its own.
// The listener counts its goroutines.
type tcpServer struct {
	l    *listener
	base context.Context // connections are cut when it ends
}

// Serve implements front. It adds to the listener's connections by itself, so
// none is added once it has returned.
func (s *tcpServer) Serve(ln net.Listener) error {
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.l.conns.Add(1)
		s.l.active.Add(1)
		go s.l.serveTCP(s.base, conn)
	}
}

// Close implements front: the end of the context ends all.
func (s *tcpServer) Close() error { return nil }

// serveTCP joins a stream with a connection of its own to the service until
// both ways have ended, one has failed, or ctx ends.
func (l *listener) serveTCP(ctx context.Context, client net.Conn) {
	defer l.conns.Done()
	c := &tcpConn{l: l, client: client, from: clientAddr(client), start: time.Now()}
	l.metrics.tcp.open.Inc()
	defer c.finish()
	service, err := c.dial(ctx)
	if err != nil {
		// Never an end in order: to the client it would be an answer of no bytes.
		reset(client)
		c.fail(ctx, err)
		return
	}
	l.answered()
	c.log(accesslog.Opened)
	c.received, c.sent, c.err = relay.Splice(ctx, client, service)
}

// tcpConn is one connection on its way; it belongs to its goroutine.
type tcpConn struct {
	l      *listener
	client net.Conn
	from   netip.AddrPort // the client; invalid if nobody has said
	start  time.Time

	status         int   // 0, or 502 if the service was not reached
	received, sent int64 // bytes from the client, and to it
	err            error // nil if both ways ended in order
}

// dial connects to the service and tells it who the client is, if it wants to
// know. The dial time-out covers both.
func (c *tcpConn) dial(ctx context.Context) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, c.l.service.dialer.Timeout)
	defer cancel()
	defer cancelWith(c.client, cancel)()
	conn, err := c.l.service.dial(ctx)
	if err != nil || c.l.cfg.ProxyProtocol == "" {
		return conn, err
	}
	// A new socket takes so few bytes without waiting; the deadline is for the
	// principle.
	deadline, _ := ctx.Deadline()
	conn.SetWriteDeadline(deadline)
	if _, err := conn.Write(proxyproto.Header(c.l.cfg.ProxyProtocol, c.from, addrPort(conn.RemoteAddr()))); err != nil {
		reset(conn)
		return nil, &dialError{fmt.Errorf("write PROXY header: %w", err)}
	}
	conn.SetWriteDeadline(time.Time{})
	return conn, nil
}

// cancelWith calls cancel when the client is gone, if the stream can tell,
// until the returned func is called.
func cancelWith(client net.Conn, cancel func()) (stop func()) {
	s, ok := client.(interface{ Done() <-chan struct{} })
	if !ok {
		return func() {}
	}
	over, ended := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(ended)
		select {
		case <-s.Done():
			cancel()
		case <-over:
		}
	}()
	return func() { close(over); <-ended }
}

// fail takes up that there is no connection to the service.
func (c *tcpConn) fail(ctx context.Context, err error) {
	c.err = err
	switch {
	case ctx.Err() != nil:
		c.err = context.Cause(ctx)
	case errors.Is(err, context.Canceled): // the client has gone meanwhile
	default:
		c.status = fault.UpstreamUnreachable.Status()
		c.l.unanswered(fault.New(fault.UpstreamUnreachable, err))
	}
}

// finish counts and logs the connection.
func (c *tcpConn) finish() {
	c.l.active.Add(-1)
	c.l.metrics.tcp.done(c)
	c.log(accesslog.Closed)
}

// log writes a line to the access log.
func (c *tcpConn) log(kind accesslog.Kind) {
	if !c.l.access.Enabled(c.status) {
		return
	}
	rec := accesslog.Record{
		Kind: kind, Proto: protocolTCP,
		Endpoint: c.l.cfg.Endpoint, Upstream: c.l.service.host,
		Status: c.status, BytesIn: c.received, BytesOut: c.sent, Duration: time.Since(c.start),
	}
	if c.from.IsValid() {
		rec.Client = c.from.String()
	}
	if c.err != nil {
		rec.Err = c.err.Error()
	}
	c.l.access.Log(&rec)
}

// clientAddr is who is at the other end of a stream, if the node has said so.
func clientAddr(stream net.Conn) netip.AddrPort {
	if s, ok := stream.(interface{ ClientAddr() netip.AddrPort }); ok {
		return s.ClientAddr()
	}
	return netip.AddrPort{}
}

// addrPort is the address of a TCP connection, as short as it can be written.
func addrPort(a net.Addr) netip.AddrPort {
	if tcp, ok := a.(*net.TCPAddr); ok {
		ap := tcp.AddrPort()
		return netip.AddrPortFrom(ap.Addr().Unmap().WithZone(""), ap.Port())
	}
	return netip.AddrPort{}
}

// reset ends a connection so that the other side sees a failure, and wakes
// those who read or write it.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }:
		c.Reset()
		return
	case *net.TCPConn:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
