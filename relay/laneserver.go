package relay

import (
	"context"
	"maps"
	"net"
	"net/http"
	"sync"
)

// LaneServer serves connections: plain requests by a Lane for each connection, and by net/http's server what that gives
// back. A connection comes back to the lanes with its next request that is plain.
type LaneServer struct {
	// Static after construction.
	ctx   context.Context
	slow  *http.Server
	conns *sync.WaitGroup
	lane  func() *Lane
	over  *handedOver
	cut   func() bool // ends what the end of ctx has begun

	// Guarded by mu.
	mu     sync.Mutex
	open   map[*Lane]LaneConn
	closed bool
}

// NewLaneServer returns a server whose requests end with ctx. It is for LaneConns: all others are slow's at once. lane makes
// the lane for a connection. conns counts the connections that lanes have: it is added to by Serve, and by slow for a
// connection of which its ConnState has not been told the end. Close must be called.
func NewLaneServer(ctx context.Context, slow *http.Server, conns *sync.WaitGroup, lane func() *Lane) *LaneServer {
	s := &LaneServer{ctx: ctx, slow: slow, conns: conns, lane: lane, over: newHandedOver(), open: make(map[*Lane]LaneConn)}
	next := slow.ConnState
	slow.ConnState = func(conn net.Conn, state http.ConnState) {
		if c := againOf(conn); c != nil && state == http.StateIdle {
			c.idle = true
		}
		if next != nil {
			next(conn, state)
		}
	}
	s.cut = context.AfterFunc(ctx, s.abort)
	return s
}

// Serve accepts connections until ln fails, and returns with its error: no connection is added then, but for those that
// slow gives back.
func (s *LaneServer) Serve(ln net.Listener) error {
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

// start carries the requests of a connection, of which something may have been read.
func (s *LaneServer) start(conn net.Conn, read []byte) {
	s.conns.Add(1)
	go s.serve(conn, read)
}

func (s *LaneServer) serve(conn net.Conn, read []byte) {
	defer s.conns.Done()
	lc, ok := conn.(LaneConn)
	if !ok {
		s.over.give(conn)
		return
	}
	l := s.lane()
	if !s.add(l, lc) {
		_ = conn.Close()
		return
	}
	left, back := l.Serve(s.ctx, lc, read)
	s.remove(l)
	if back {
		c := &readAgain{Conn: conn, left: left, back: s.start, filter: l.Filter}
		s.over.give(c.again())
	}
}

func (s *LaneServer) add(l *Lane, conn LaneConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return false
	}
	s.open[l] = conn
	return true
}

func (s *LaneServer) remove(l *Lane) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.open, l)
}

// Lanes is how many connections lanes have.
func (s *LaneServer) Lanes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.open)
}

// abort ends the requests under way.
func (s *LaneServer) abort() {
	s.mu.Lock()
	lanes := maps.Clone(s.open)
	s.mu.Unlock()
	for l := range lanes {
		l.Abort(context.Cause(s.ctx))
	}
}

// Close ends all connections at once, with what is under way on them. It does not wait.
func (s *LaneServer) Close() error {
	s.cut()
	s.mu.Lock()
	s.closed = true
	lanes := maps.Clone(s.open)
	s.mu.Unlock()
	for l, conn := range lanes {
		l.Abort(net.ErrClosed)
		_ = conn.Close()
	}
	return s.slow.Close()
}

// AcceptedConn is the connection that a LaneServer was given, of one that its http.Server has.
func AcceptedConn(conn net.Conn) net.Conn {
	if c := againOf(conn); c != nil {
		return c.Conn
	}
	return conn
}

// handedOver is the net.Listener of connections that lanes give away.
type handedOver struct {
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
}

func newHandedOver() *handedOver {
	return &handedOver{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// give hands a connection to the server, or closes it if that has ended.
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
func (h *handedOver) Addr() net.Addr { return streamAddress{} }

type streamAddress struct{}

func (streamAddress) Network() string { return "piko" }
func (streamAddress) String() string  { return "streams" }
