package tunnel

import "time"

// A stream whose preamble is to come is known to nobody but the read loop, so
// that none who accepts ever waits for a peer that is slow. Such streams count
// as ones that wait to be accepted, and are reset after lingerTime.

// awaitGreeting needs mu.
func (m *mux) awaitGreeting(s *Stream) {
	s.unheard, s.greeting = true, true
	m.greeting++
	m.lingerLocked(s)
}

// greet hands s to accept if its preamble is complete; f is the frame that came.
// It is called by the read loop.
func (m *mux) greet(s *Stream, f muxFrame) {
	ready, err := s.takePreamble()
	switch {
	case ready:
		s.unheard = false
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.greeted(s) && m.err == nil {
			m.backlog = append(m.backlog, s)
			m.acceptable.Signal()
		}
	case err != nil, f.has(flagFIN), f.has(flagRST):
		s.unheard = false
		s.Reset()
	}
}

// greeted notes that s waits no more, and reports whether it did. It needs mu.
func (m *mux) greeted(s *Stream) bool {
	if !s.greeting {
		return false
	}
	s.greeting = false
	s.lingerUntil = time.Time{}
	if m.greeting--; m.greeting == 0 && m.noMore {
		m.acceptable.Broadcast()
	}
	return true
}

// takePreamble takes the preamble off what has arrived; false is that it is not
// complete.
func (s *Stream) takePreamble() (bool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	var b [1 + maxMeta]byte
	n := 0
	for c := s.first; c != nil && n < len(b); c = c.next {
		n += copy(b[n:], c.unread())
	}
	client, size, err := parseMeta(b[:n])
	if size == 0 || err != nil {
		return false, err
	}
	s.client = client
	s.skip(size)
	return true, nil
}

// skip takes n bytes off what has arrived, of which there are as many. It needs
// mu, and that nobody reads or fills.
func (s *Stream) skip(n int) {
	s.consume(n)
	for n > 0 {
		c := s.first
		k := min(n, len(c.unread()))
		c.r += k
		n -= k
		if len(c.unread()) == 0 {
			s.unlinkFirst()
			c.free()
		}
	}
}
