package tunnel

import (
	"context"
	"sync"
	"time"
)

// Liveness: any byte from the peer is life. After idleBeforePing without one
// it is sent a ping, and after pongWithin more it is dead. A peer that has sent
// nothing at all since the handshake is asked sooner.
const (
	idleBeforePing     = 10 * time.Second
	idleAfterHandshake = 5 * time.Second
	pongWithin         = 5 * time.Second
	lateCheck          = 1 * time.Second // later than this and it was us who slept

	wheelTick  = 250 * time.Millisecond
	wheelSlots = 64 // 16 s, longer than any wait

	// earlyCheck is how much too early the wheel may be: it rounds down, so
	// that a dead peer is gone within 15 s and not a tick later, and its ticks
	// are not those of its epoch.
	earlyCheck = 2 * wheelTick
)

// verdict is what is to be done about a peer.
type verdict int

const (
	leaveAlone verdict = iota
	sendPing
	declareDead
)

// liveness decides, and does nothing. Its time is that of its caller.
type liveness struct {
	started time.Time
	pinged  time.Time // the last time; zero: never
	due     time.Time // when check is to be called next
	queue   sendQueue // when the ping was sent, as far as known
}

// check says what to do at now, given when the last byte came, and sets due.
// It tolerates a caller who comes a little early.
func (l *liveness) check(now, lastRead time.Time) verdict {
	if !l.waiting(lastRead) {
		wait := idleBeforePing
		if !lastRead.After(l.started) {
			wait = idleAfterHandshake
		}
		if now.Sub(lastRead) < wait-earlyCheck {
			l.due = lastRead.Add(wait)
			return leaveAlone
		}
		return l.ping(now)
	}
	dead := l.pinged.Add(pongWithin)
	switch {
	case now.Before(dead.Add(-earlyCheck)):
		l.due = dead
		return leaveAlone
	case now.Sub(l.due) > lateCheck:
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
	l.pinged, l.due = now, now.Add(pongWithin)
	return sendPing
}

// watch starts the watch over the peer's life.
func (s *Session) watch(now time.Time) {
	s.mu.Lock()
	s.life.started = now
	s.life.due = now.Add(idleAfterHandshake)
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
		s.timer.Reset(max(due.Sub(now), wheelTick))
	}
}

// Probe asks the peer for a sign of life now; it has 5 s. It is for a session
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
		s.timer.Reset(pongWithin)
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

// Wheel watches the peers of many sessions with one goroutine and one timer.
type Wheel struct {
	// Guarded by mu.
	mu    sync.Mutex
	slots [wheelSlots]wheelEntry // heads of rings
	tick  int64                  // the tick that was handled last, counted from epoch
	epoch time.Time
}

// wheelEntry is a link in the ring of a slot.
type wheelEntry struct {
	next, prev *wheelEntry
	session    *Session // nil in a head
}

// NewWheel returns a wheel that turns once Run runs.
func NewWheel() *Wheel {
	w := &Wheel{epoch: time.Now()}
	for i := range w.slots {
		w.slots[i].next, w.slots[i].prev = &w.slots[i], &w.slots[i]
	}
	return w
}

// Run turns the wheel until ctx ends. Without it no ping is sent and no peer
// found dead.
func (w *Wheel) Run(ctx context.Context) {
	t := time.NewTicker(wheelTick)
	defer t.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			w.advance(now)
		}
	}
}

// advance checks every session that was due by now.
func (w *Wheel) advance(now time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	to := w.tickOf(now)
	from := max(w.tick+1, to-wheelSlots+1)
	w.tick = to
	for t := from; t <= to; t++ {
		w.advanceSlot(&w.slots[t%wheelSlots], now)
	}
}

// advanceSlot needs mu. It takes mu of sessions, which nobody holds while
// waiting for ours.
func (w *Wheel) advanceSlot(head *wheelEntry, now time.Time) {
	for e := head.next; e != head; {
		next := e.next
		e.unlink()
		if due, ok := e.session.check(now); ok {
			w.insert(e, due)
		}
		e = next
	}
}

// insert needs mu. It puts e where it is met before due.
func (w *Wheel) insert(e *wheelEntry, due time.Time) {
	t := min(max(w.tickOf(due)-1, w.tick+1), w.tick+wheelSlots-1)
	head := &w.slots[t%wheelSlots]
	e.next, e.prev = head, head.prev
	e.prev.next, e.next.prev = e, e
}

// tickOf rounds down.
func (w *Wheel) tickOf(at time.Time) int64 { return int64(at.Sub(w.epoch) / wheelTick) }

// add has s checked at due, and not at the time that was meant before.
func (w *Wheel) add(s *Session, due time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.spoke.session = s
	s.spoke.unlink()
	w.insert(&s.spoke, due)
}

// remove forgets s.
func (w *Wheel) remove(s *Session) {
	w.mu.Lock()
	defer w.mu.Unlock()
	s.spoke.unlink()
}

// unlink takes e out of its ring, if it is in one.
func (e *wheelEntry) unlink() {
	if e.next != nil {
		e.next.prev, e.prev.next = e.prev, e.next
		e.next, e.prev = nil, nil
	}
}
