package tunnel

// queued says whether s' writer still has to wait; if not, how many of its
// bytes were not taken.
func (o *outbox) queued(s *Stream) (waits bool, rest int) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.queued {
		return true, 0
	}
	rest = len(s.rest)
	s.rest = nil
	return false, rest
}

// cancel takes s out of the queue.
func (o *outbox) cancel(s *Stream) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if s.queued {
		o.unlink(s)
	}
}

// failure is why nothing can be written any more, nil if it can.
func (o *outbox) failure() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// pending is the size of the next message so far. It needs mu.
func (o *outbox) pending() int {
	if o.buf == nil {
		return 0
	}
	return o.buf.payload()
}

// grow makes room for n bytes. It needs mu.
func (o *outbox) grow(n int) {
	if o.buf == nil {
		o.buf = getSendBuffer(n)
	} else {
		o.buf = o.buf.grow(n)
	}
}

// push appends s to the queue. It needs mu.
func (o *outbox) push(s *Stream) {
	s.queued = true
	if o.last == nil {
		o.first = s
	} else {
		o.last.nextQueued = s
	}
	o.last = s
}

// pop takes the first of the queue, which is not empty. It needs mu.
func (o *outbox) pop() *Stream {
	s := o.first
	o.unlink(s)
	return s
}

// unlink takes s out of the queue, in which it is. It needs mu.
func (o *outbox) unlink(s *Stream) {
	var prev *Stream
	for at := o.first; at != s; at = at.nextQueued {
		prev = at
	}
	if prev == nil {
		o.first = s.nextQueued
	} else {
		prev.nextQueued = s.nextQueued
	}
	if o.last == s {
		o.last = prev
	}
	s.queued, s.nextQueued = false, nil
}

// dataSize is what n bytes become as data frames.
func dataSize(n int) int { return n + muxHeader*((n+maxBody-1)/maxBody) }

// appendData appends p as data frames.
func appendData(b []byte, id uint32, p []byte) []byte {
	for len(p) > 0 {
		n := min(len(p), maxBody)
		b = muxFrame{kind: kindData, id: id, length: uint32(n)}.append(b)
		b = append(b, p[:n]...)
		p = p[n:]
	}
	return b
}
