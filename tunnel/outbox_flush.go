package tunnel

import (
	"errors"
	"fmt"
)

// flush writes buf, and then what others have appended meanwhile, until nothing
// is left or turns messages are written; 0 is no limit. The state is flushing,
// and the caller's. It returns an error if buf could not be written, and
// whether some of it is out: who was told that nothing is sends it elsewhere.
func (o *outbox) flush(buf *sendBuffer, turns int) (out bool, err error) {
	for turn := 1; ; turn++ {
		err := o.c.writeMessage(buf.b)
		buf.free()
		o.mu.Lock()
		if err == nil {
			o.confirm() // also when the session has ended meanwhile
		}
		if err != nil || o.err != nil {
			why := o.stop(err)
			if err == nil || turn > 1 {
				return true, nil
			}
			_, out = errors.AsType[*partlySentError](err)
			return out, why
		}
		if o.buf != nil {
			o.crowd = crowdMemory
		}
		if turn == turns && (o.buf != nil || o.first != nil) {
			o.state = flushIdle
			o.kick()
			o.mu.Unlock()
			return true, nil
		}
		var served *Stream
		if buf, served = o.take(); buf == nil {
			o.mu.Unlock()
			return true, nil
		}
		o.mu.Unlock()
		wakeWriters(served)
	}
}

// take makes the next message of what is pending and what is queued, and
// becomes idle if there is nothing. served lists streams whose writer need not
// wait any more. It needs mu, and the state flushing.
func (o *outbox) take() (buf *sendBuffer, served *Stream) {
	for some := false; o.first != nil && (!some || o.pending() < bulkBound); some = true {
		s := o.pop()
		n := min(len(s.rest), maxBody)
		o.grow(dataSize(n))
		o.buf.b = appendData(o.buf.b, s.id, s.rest[:n])
		s.rest = s.rest[n:]
		if len(s.rest) > 0 {
			o.push(s)
		} else {
			s.nextServed, served = served, s
		}
	}
	if buf, o.buf = o.buf, nil; buf == nil {
		o.state = flushIdle
		return nil, nil
	}
	o.taken++
	o.pings, o.pingsTaken = 0, o.pings
	return buf, served
}

// confirm notes that a message has been written. It needs mu.
func (o *outbox) confirm() {
	o.written++
	o.pingsTaken = 0
	o.tell(o.written, nil)
}

// tell tells those who wait for messages up to the given one. It needs mu.
func (o *outbox) tell(message uint64, err error) {
	waiting := o.waiters
	o.waiters = nil
	for _, w := range waiting {
		if w.message <= message {
			w.done <- err
		} else {
			o.waiters = append(o.waiters, w)
		}
	}
}

// stop ends all writing; the first error counts, and is returned. It needs mu,
// of which it lets go.
func (o *outbox) stop(err error) error {
	first := o.err == nil
	if first {
		o.err = fmt.Errorf("write tunnel: %w", err)
	}
	err = o.err
	o.state = flushIdle
	o.tell(o.taken, err)
	waiting := o.drop()
	o.mu.Unlock()
	for _, s := range waiting {
		s.wakeWriter()
	}
	if first {
		o.broken(err)
	}
	return err
}

// fail ends all writing from outside. What somebody is writing goes on until
// the connection is closed.
func (o *outbox) fail(err error) {
	o.mu.Lock()
	if o.err == nil {
		o.err = err
	}
	waiting := o.drop()
	o.mu.Unlock()
	for _, s := range waiting {
		s.wakeWriter()
	}
}

// drop forgets what is pending, and empties the queue, whose writers are to be
// woken. It needs mu.
func (o *outbox) drop() (waiting []*Stream) {
	if o.buf != nil {
		o.buf.free()
		o.buf = nil
	}
	for o.first != nil {
		waiting = append(waiting, o.pop())
	}
	waiters := o.waiters
	o.waiters = nil
	for _, w := range waiters {
		if w.message > o.taken {
			w.done <- o.err
		} else { // who writes it will tell
			o.waiters = append(o.waiters, w)
		}
	}
	return waiting
}

// wakeWriters wakes the writers of a list that take returned.
func wakeWriters(s *Stream) {
	for s != nil {
		next := s.nextServed
		s.nextServed = nil
		s.wakeWriter()
		s = next
	}
}

// wakeWriter wakes the writer that has been taken out of the queue.
func (s *Stream) wakeWriter() {
	s.mu.Lock() // the writer is either before its look at queued, or waits
	s.wcond.Signal()
	s.mu.Unlock()
}
