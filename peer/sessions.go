package peer

import (
	"net"
	"slices"
	"time"
)

// wantsMore says whether all sessions are full enough for another one.
func (l *Link) wantsMore(list []*session) bool {
	l.mu.Lock()
	short := l.short
	l.short = false
	l.mu.Unlock()
	if !short || len(list) >= maxSessions {
		return false
	}
	return !slices.ContainsFunc(list, func(s *session) bool { return s.sess.NumStreams() <= growAbove })
}

// grow asks for another session; it is called by requests, and does not block.
func (l *Link) grow() {
	if len(*l.sessions.Load()) >= maxSessions {
		return
	}
	l.mu.Lock()
	l.short = true
	l.mu.Unlock()
	l.look()
}

// look has run look again.
func (l *Link) look() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// add makes a session of a proven connection.
func (l *Link) add(conn net.Conn) {
	s := newSession(l, conn)
	l.mu.Lock()
	l.open = append(l.open, s)
	list := append(slices.Clone(*l.sessions.Load()), s)
	l.sessions.Store(&list)
	l.failed, l.pausing = nil, false
	l.announce()
	if leaving := len(l.open) - len(list); leaving > maxLeaving {
		l.closeOldest()
	}
	l.mu.Unlock()
	if !l.p.spawn(func() { s.run(l.p.base) }) {
		_ = s.sess.Close()
	}
}

// closeOldest needs mu. The session's run waits for its end.
func (l *Link) closeOldest() {
	for _, s := range l.open {
		if s.leaving.Load() {
			l.p.wg.Go(func() { _ = s.sess.Close() })
			return
		}
	}
}

// announce needs mu. It wakes those who wait for a session.
func (l *Link) announce() {
	close(l.ready)
	l.ready = make(chan struct{})
}

// forsake gives s no more requests. It does no harm to say it again.
func (l *Link) forsake(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	old := *l.sessions.Load()
	i := slices.Index(old, s)
	if i < 0 {
		return
	}
	list := slices.Delete(slices.Clone(old), i, i+1)
	l.sessions.Store(&list)
	l.why = s.why()
	if time.Since(s.since) < shortLife {
		l.ended = endedSoon
	} else {
		l.ended = max(l.ended, endedWell)
	}
	l.look()
}

// gone says that s has ended.
func (l *Link) gone(s *session) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if i := slices.Index(l.open, s); i >= 0 {
		l.open = slices.Delete(l.open, i, i+1)
	}
}

// setPausing says whether a dial has failed and the next one has not begun.
func (l *Link) setPausing(pausing bool, err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pausing, l.failed = pausing, err
	if pausing {
		l.announce()
	}
}

// ended says what became of sessions.
type ended uint8

const (
	endedNone ended = iota
	endedWell       // one ended that had lived for a while
	endedSoon       // one ended that had not
)

// takeEnded returns what became of sessions since the last call.
func (l *Link) takeEnded() ended {
	l.mu.Lock()
	defer l.mu.Unlock()
	e := l.ended
	l.ended = endedNone
	return e
}

// forget drops a link that has ended.
func (p *Peers) forget(l *Link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	delete(p.links, l)
}
