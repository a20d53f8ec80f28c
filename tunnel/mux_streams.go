package tunnel

import (
	"maps"
	"time"
)

// add needs mu.
func (m *mux) add(s *Stream) {
	if m.streams == nil {
		m.streams = make(map[uint32]*Stream)
	}
	m.streams[s.id] = s
	m.peak = max(m.peak, len(m.streams))
}

// shrink makes a new map when the old one has become far too large: maps do not
// shrink, and a tunnel may live for months after its busiest minute. It needs mu.
func (m *mux) shrink() {
	if m.peak < 64 || len(m.streams) > m.peak/8 {
		return
	}
	m.peak = len(m.streams)
	streams := make(map[uint32]*Stream, m.peak)
	maps.Copy(streams, m.streams)
	m.streams = streams
}

// remove forgets s, which neither side uses any more. What the peer may have sent
// on it that is still on its way may come. Calling it again does nothing.
func (m *mux) remove(s *Stream) {
	window := s.owed() // by whoever comes first: two may end the stream at once
	m.mu.Lock()
	if m.streams[s.id] != s {
		m.mu.Unlock()
		return
	}
	delete(m.streams, s.id)
	m.shrink()
	m.ackedLocked(s)
	m.late.add(window)
	nobodys := m.greeted(s)
	for i, waiting := range m.backlog {
		if waiting == s {
			m.backlog = append(m.backlog[:i], m.backlog[i+1:]...)
			nobodys = true
			break
		}
	}
	m.mu.Unlock()
	if nobodys {
		s.drop()
	}
}

// unaccepted returns the peer's streams that nobody has got from accept. It
// needs mu.
func (m *mux) unaccepted() []*Stream {
	list := m.backlog
	if m.greeting > 0 {
		for _, s := range m.streams {
			if s.greeting {
				list = append(list, s)
			}
		}
	}
	return list
}

// acked makes room for another stream that the peer has not accepted.
func (m *mux) acked(s *Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ackedLocked(s)
}

// ackedLocked needs mu.
func (m *mux) ackedLocked(s *Stream) {
	if !s.unacked {
		return
	}
	s.unacked = false
	m.unacked--
	if m.slot != nil {
		close(m.slot)
		m.slot = nil
	}
}

// await gives the peer lingerTime to end its side of s, which we have closed.
func (m *mux) await(s *Stream) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.streams[s.id] != s {
		return
	}
	m.lingerLocked(s)
}

// lingerLocked needs mu.
func (m *mux) lingerLocked(s *Stream) {
	s.lingerUntil = time.Now().Add(lingerTime)
	if m.lingering {
		return
	}
	m.lingering = true
	if m.linger == nil {
		m.linger = time.AfterFunc(lingerTime, m.sweep)
	} else {
		m.linger.Reset(lingerTime)
	}
}

// sweep resets the streams that have lingered, and sets the timer for the next.
func (m *mux) sweep() {
	var over []*Stream
	var next time.Time
	now := time.Now()
	m.mu.Lock()
	for _, s := range m.streams {
		switch until := s.lingerUntil; {
		case until.IsZero():
		case !until.After(now):
			over = append(over, s)
		case next.IsZero() || until.Before(next):
			next = until
		}
	}
	m.lingering = !next.IsZero() && m.err == nil
	if m.lingering {
		m.linger.Reset(next.Sub(now))
	}
	m.mu.Unlock()
	for _, s := range over {
		s.Reset()
	}
}
