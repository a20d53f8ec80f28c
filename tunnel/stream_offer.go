package tunnel

// ReadOr is Read for who hands on what he reads: while it waits, the session's
// read loop offers to take what arrives, and what that takes counts as read. So
// a message that the destination has room for is handed on without waking
// anybody. ReadOr returns what take left, and only that.
//
// take is called by the read loop, without locks, for the whole of all streams
// of the session: it must not wait. It returns how much it has taken, from the
// front. No call of it is under way, and none comes, once ReadOr has returned.
func (s *Stream) ReadOr(p []byte, take func(p []byte) (n int)) (int, error) {
	return s.read(p, true, take)
}

// offer offers body, which is not empty, to whoever waits, and returns what is
// left of it. It needs mu, of which it lets go meanwhile.
func (s *Stream) offer(body []byte) (rest []byte) {
	// What is unread goes first.
	if s.take == nil || s.first != nil || s.filling != nil || s.rdeadline.passed {
		return body
	}
	take := s.take
	s.taking = true
	s.mu.Unlock()
	n := take(body)
	s.mu.Lock()
	s.taking = false
	s.consume(n)
	if s.take == nil { // who waited was woken, and waits for us
		s.rcond.Signal()
	}
	return body[n:]
}

// waitOr waits until there is something for Read to look at. It needs rmu and
// mu.
func (s *Stream) waitOr(take func(p []byte) (n int)) {
	s.take = take
	s.rcond.Wait()
	s.take = nil
	for s.taking {
		s.rcond.Wait()
	}
}
