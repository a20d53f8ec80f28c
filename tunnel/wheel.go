package tunnel

import (
	"context"
	"sync"
	"time"
)

const (
	wheelTick  = 250 * time.Millisecond
	wheelSlots = 64 // 16 s, longer than any wait
)

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
