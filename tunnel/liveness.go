package tunnel

import "time"

// Liveness: any byte from the peer is life. After idleBeforePing without one
// it is sent a ping, and after pongWithin more it is dead. A peer that has sent
// nothing at all since the handshake is asked sooner.
const (
	idleBeforePing     = 10 * time.Second
	idleAfterHandshake = 5 * time.Second
	pongWithin         = 5 * time.Second
	lateCheck          = 1 * time.Second // later than this and it was us who slept

	// earlyCheck is how much too early the wheel may be: it rounds down, so
	// that a dead peer is gone within 15 s and not a tick later, and its ticks
	// are not those of its epoch.
	earlyCheck = 2 * wheelTick

	// timerTick is the least that a session's own timer waits.
	timerTick = 50 * time.Millisecond
)

// peerPace is for sessions between nodes, where a peer that is silent for 2 s
// is to be found dead: requests can go elsewhere. A check that comes late is
// forgiven sooner, or a machine without time for us would lose its peers.
var peerPace = &pace{idle: time.Second, first: time.Second, pong: time.Second, late: 250 * time.Millisecond}

// tunnelPace is for all others.
var tunnelPace = &pace{idle: idleBeforePing, first: idleAfterHandshake, pong: pongWithin, late: lateCheck, early: earlyCheck}

// pace is how long a session waits for signs of life.
type pace struct {
	idle  time.Duration // without a byte, before a ping
	first time.Duration // the same, when there was none since the handshake
	pong  time.Duration // for an answer
	late  time.Duration // later than this and it was us who slept
	early time.Duration // how much too early a check may be
}

// verdict is what is to be done about a peer.
type verdict int

const (
	leaveAlone verdict = iota
	sendPing
	declareDead
)

// liveness decides, and does nothing. Its time is that of its caller.
type liveness struct {
	pace    *pace // nil: tunnelPace
	started time.Time
	pinged  time.Time // the last time; zero: never
	due     time.Time // when check is to be called next
	queue   sendQueue // when the ping was sent, as far as known
}

// check says what to do at now, given when the last byte came, and sets due.
// It tolerates a caller who comes a little early.
func (l *liveness) check(now, lastRead time.Time) verdict {
	p := l.waits()
	if !l.waiting(lastRead) {
		wait := p.idle
		if !lastRead.After(l.started) {
			wait = p.first
		}
		if now.Sub(lastRead) < wait-p.early {
			l.due = lastRead.Add(wait)
			return leaveAlone
		}
		return l.ping(now)
	}
	dead := l.pinged.Add(p.pong)
	switch {
	case now.Before(dead.Add(-p.early)):
		l.due = dead
		return leaveAlone
	case now.Sub(l.due) > p.late:
		// The machine slept or had no time for us: the answer may lie unread
		// in the socket. The peer gets another chance.
		return l.ping(now)
	}
	return declareDead
}

// waiting says that the last ping has not been answered.
func (l *liveness) waiting(lastRead time.Time) bool {
	return !l.pinged.IsZero() && lastRead.Before(l.pinged)
}

func (l *liveness) ping(now time.Time) verdict {
	l.pinged, l.due = now, now.Add(l.waits().pong)
	return sendPing
}

func (l *liveness) waits() *pace {
	if l.pace == nil {
		return tunnelPace
	}
	return l.pace
}

// watch starts the watch over the peer's life.
func (s *Session) watch(now time.Time) {
	s.mu.Lock()
	s.life.started = now
	s.life.due = now.Add(s.life.waits().first)
	due := s.life.due
	if s.wheel == nil && s.err == nil {
		s.timer = time.AfterFunc(due.Sub(now), s.onTimer)
	}
	s.mu.Unlock()
	if s.wheel != nil {
		s.wheel.add(s, due)
	}
}

// onTimer is the session's own watch.
func (s *Session) onTimer() {
	now := time.Now()
	due, ok := s.check(now)
	if !ok {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err == nil {
		s.timer.Reset(max(due.Sub(now), timerTick))
	}
}

// Probe asks the peer for a sign of life now; it has 5 s (a node 1 s). It is for a session
// whose peer seems to have come back on another one.
func (s *Session) Probe() {
	now, lastRead := time.Now(), s.c.lastRead()
	s.mu.Lock()
	if s.err != nil || s.life.waiting(lastRead) {
		s.mu.Unlock()
		return
	}
	s.life.ping(now)
	due := s.life.due
	s.sendPing()
	if s.timer != nil {
		s.timer.Reset(due.Sub(now))
	}
	s.mu.Unlock()
	if s.wheel != nil {
		s.wheel.add(s, due)
	}
}

// check does what liveness decides. It does not block; ok is false when the
// session has ended.
func (s *Session) check(now time.Time) (due time.Time, ok bool) {
	lastRead := s.c.lastRead()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return time.Time{}, false
	}
	switch s.life.check(now, lastRead) {
	case sendPing:
		s.sendPing()
	case declareDead:
		// The design's rule, that only received bytes are life, would end
		// every large transfer over a link of less than 25 KB/s.
		if q, ok := readSendQueue(s.c.nc); ok && stillSending(s.life.queue, q) {
			s.life.ping(now)
			s.sendPing()
			break
		}
		s.wg.Go(func() { s.end(ErrDead) })
		return time.Time{}, false
	}
	return s.life.due, true
}

// sendPing needs mu. It does not wait. An error needs no answer: the read loop
// sees a broken connection, and liveness a stuck one.
func (s *Session) sendPing() {
	s.life.queue, _ = readSendQueue(s.c.nc)
	_ = s.c.ping()
}
