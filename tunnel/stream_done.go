package tunnel

import (
	"net"
	"net/netip"
)

// Done is closed once the stream is of no more use: either side has reset it,
// its session has ended, or Close was called here. It is for who neither reads
// nor writes at the moment. That both sides have ended in order does not close
// it.
func (s *Stream) Done() <-chan struct{} {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.done == nil {
		s.done = make(chan struct{})
		if s.closed || s.err != nil {
			s.over = true
			close(s.done)
		}
	}
	return s.done
}

// OnEnd has f called once the peer has ended its side, in order or not, or the
// stream is of no more use; at once if that is so. It is for who waits for
// something else meanwhile, and costs no goroutine. f is called with the
// stream's lock held: it must neither wait nor use the stream. It replaces the
// one before; nil is none.
func (s *Stream) OnEnd(f func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.onEnd = f
	if s.closed || s.finSeen || s.err != nil {
		s.ended()
	}
}

// ended calls what OnEnd was given. It needs mu.
func (s *Stream) ended() {
	if f := s.onEnd; f != nil {
		s.onEnd = nil
		f()
	}
}

// end closes what Done has returned. It needs mu, and is called once closed or
// err is set.
func (s *Stream) end() {
	s.ended()
	if s.done != nil && !s.over {
		s.over = true
		close(s.done)
	}
}

// ClientAddr is the client for which the node has opened the stream; not valid
// if it did not say, as v0.9.0 nodes never do and others not for streams that
// carry the requests of many.
func (s *Stream) ClientAddr() netip.AddrPort { return s.client }

// RemoteAddr is ClientAddr if that is known, and else the tunnel's.
func (s *Stream) RemoteAddr() net.Addr {
	if s.client.IsValid() {
		return net.TCPAddrFromAddrPort(s.client)
	}
	if c, ok := s.m.c.(interface{ RemoteAddr() net.Addr }); ok {
		return c.RemoteAddr()
	}
	return unknownAddr{}
}
