package agent

import (
	"context"
	"net"
	"net/http"
	"sync"

	"piko/fault"
	"piko/relay"
)

// lanes serves the streams of a listener: plain requests by relay.Lane, which
// follows the bounds of their messages and parses nothing else. A stream with a
// request that needs more is net/http's from that request on.
type lanes struct {
	// Static after construction.
	l    *listener
	base context.Context // requests end with it
	slow *http.Server    // gets what is handed over
	over *handedOver
	cut  func() bool // ends what the end of base has begun

	// Guarded by mu.
	mu     sync.Mutex
	open   map[*lane]struct{}
	closed bool
}

// lane is a stream in the hands of a relay.Lane.
type lane struct {
	relay.Lane
	conn relay.LaneConn
}

// newLanes is a listener's server; its requests end with base.
func newLanes(l *listener, base context.Context) *lanes {
	s := &lanes{
		l: l, base: base, slow: l.server(base), over: newHandedOver(), open: make(map[*lane]struct{}),
	}
	s.cut = context.AfterFunc(base, s.abort)
	return s
}

// slow reports whether no request of the listener can be a lane's.
func (l *listener) slow() bool {
	return l.wrapped || l.tracer != nil || l.service.speaks == UpstreamHTTP2
}

// Serve implements front. It adds to the listener's connections by itself, so
// none is added once it and Close have returned.
func (s *lanes) Serve(ln net.Listener) error {
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = s.slow.Serve(s.over)
	}()
	defer func() { <-served }()
	defer s.over.Close()
	for {
		conn, err := ln.Accept()
		if err != nil {
			return err
		}
		s.start(conn, nil)
	}
}

// start carries the requests of a stream, of which something may have been read.
// Where it is not called by Serve, the listener counts a connection.
func (s *lanes) start(conn net.Conn, read []byte) {
	s.l.conns.Add(1)
	go s.serve(conn, read)
}

func (s *lanes) serve(conn net.Conn, read []byte) {
	defer s.l.conns.Done()
	lc, ok := conn.(relay.LaneConn)
	if !ok {
		s.over.give(conn)
		return
	}
	la := &lane{conn: lc}
	la.Pool, la.Keeper = s.l.upstream.http1, &keeper{l: s.l, base: s.base}
	la.Prefix, la.Query = s.l.service.prefix, s.l.service.query
	la.Drop = fault.HeaderError
	if !s.add(la) {
		_ = conn.Close()
		return
	}
	left, back := la.Serve(s.base, lc, read)
	s.remove(la)
	if back {
		s.over.give(&readAgain{Conn: conn, left: left, back: s.start})
	}
}

func (s *lanes) add(la *lane) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[la] = struct{}{}
	return true
}

func (s *lanes) remove(la *lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, la)
}

// list is a copy.
func (s *lanes) list() []*lane {
	s.mu.Lock()
	defer s.mu.Unlock()
	list := make([]*lane, 0, len(s.open))
	for la := range s.open {
		list = append(list, la)
	}
	return list
}

// abort ends the requests under way.
func (s *lanes) abort() {
	for _, la := range s.list() {
		la.Abort(context.Cause(s.base))
	}
}

// Close implements front.
func (s *lanes) Close() error {
	s.cut()
	s.mu.Lock()
	s.closed = true
	s.mu.Unlock()
	for _, la := range s.list() {
		la.Abort(net.ErrClosed)
		_ = la.conn.Close()
	}
	return s.slow.Close()
}

// handedOver is the net.Listener of streams that lanes give away.
type handedOver struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedOver() *handedOver {
	return &handedOver{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands a stream to the server, or closes it if that has ended.
func (h *handedOver) give(conn net.Conn) {
	select {
	case h.conns <- conn:
	case <-h.closed:
		_ = conn.Close()
	}
}

// Accept implements net.Listener.
func (h *handedOver) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (h *handedOver) Close() error {
	h.once.Do(func() { close(h.closed) })
	return nil
}

// Addr implements net.Listener.
func (h *handedOver) Addr() net.Addr { return address{} }

type address struct{}

func (address) Network() string { return "piko" }
func (address) String() string  { return "streams" }
