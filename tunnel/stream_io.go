package tunnel

// maxTurn is how much a Write offers the outbox at once.
const maxTurn = 2 * maxBody

// Read reads what has arrived, and waits only if nothing has. It allocates
// nothing.
func (s *Stream) Read(p []byte) (int, error) { return s.read(p, true, nil) }

// readNow is Read for what has arrived: 0 and no error if nothing has.
func (s *Stream) readNow(p []byte) (int, error) { return s.read(p, false, nil) }

// read is Read if it is to wait and take is nil, and ReadOr with take.
func (s *Stream) read(p []byte, wait bool, take func(p []byte) (n int)) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	defer s.dropIfGone()
	s.rmu.Lock()
	defer s.rmu.Unlock()
	s.mu.Lock()
	n, err := s.nextChunk(p, wait, take)
	c := s.current
	if err != nil || n > 0 || c == nil {
		s.mu.Unlock()
		return n, err
	}
	n = min(len(p), len(c.unread()))
	s.consume(n)
	s.mu.Unlock()
	// Without mu: the read loop is not to wait while we copy.
	copy(p, c.unread()[:n])
	if c.r += n; c.r == c.w {
		s.current = nil
		c.free()
	}
	return n, nil
}

// nextChunk waits, if it is to, until something can be read, and makes it current,
// or copies it to p if it belongs to the read loop. It needs rmu and mu.
func (s *Stream) nextChunk(p []byte, wait bool, take func(p []byte) (n int)) (int, error) {
	for {
		if err := s.readFails(); err != nil {
			return 0, err
		}
		switch c := s.first; {
		case s.current != nil:
			return 0, nil
		case c == nil:
		case c != s.filling:
			s.unlinkFirst()
			s.current = c
			return 0, nil
		case len(c.unread()) > 0:
			n := copy(p, c.unread())
			c.r += n
			s.consume(n)
			return n, nil
		}
		if err := s.readEnds(); err != nil {
			return 0, err
		}
		if !wait {
			return 0, nil
		}
		s.waitOr(take)
	}
}

// consume counts n bytes as read, and tells the peer of room when it is half
// the window. It needs mu.
func (s *Stream) consume(n int) {
	s.consumed += uint32(n)
	s.total += uint64(n)
	if s.consumed < uint32(s.m.opt.window)/2 || s.closed || s.finSeen || s.err != nil {
		return
	}
	s.recvWindow += s.consumed
	// It cannot be sent only if the session has ended.
	_ = s.m.out.control(muxFrame{kind: kindWindow, id: s.id, length: s.consumed})
	s.consumed = 0
}

// unlinkFirst takes the first chunk. It needs mu.
func (s *Stream) unlinkFirst() {
	c := s.first
	if s.first = c.next; s.first == nil {
		s.last = nil
	}
	c.next = nil
	s.m.unread.Add(-int64(len(c.buf)))
}

// Write writes p. It waits while the peer's window is used up or the tunnel's
// send buffer is full, and returns how much of p was taken; of what was not,
// nothing has reached the peer. It allocates nothing.
func (s *Stream) Write(p []byte) (n int, err error) {
	s.wmu.Lock()
	defer s.wmu.Unlock()
	for {
		k, err := s.writeSome(p[n:])
		n += k
		if err != nil || n == len(p) {
			return n, err
		}
	}
}

// writeSome writes some of p, all if it is small.
func (s *Stream) writeSome(p []byte) (int, error) {
	s.mu.Lock()
	for {
		if err := s.writeFails(); err != nil || len(p) == 0 {
			s.mu.Unlock()
			return 0, err
		}
		if s.sendWindow > 0 {
			break
		}
		s.wcond.Wait()
	}
	n := min(len(p), int(s.sendWindow), maxTurn)
	s.sendWindow -= uint32(n)
	// Who has a deadline must not be stuck in a system call.
	inline := s.wdeadline.at.IsZero()
	result, buf := s.m.out.offer(s, p[:n], inline)
	switch result {
	case offerWrite:
		s.mu.Unlock()
		out, err := s.m.out.writeOwn(buf, s.id, p[:n])
		if !out {
			n = 0
		}
		return n, err
	case offerYield:
		s.mu.Unlock()
		out, err := s.m.out.writeAll()
		if !out {
			n = 0
		}
		return n, err
	case offerQueued:
		return s.waitForRoom(n)
	case offerFailed:
		s.mu.Unlock()
		return 0, s.m.out.failure()
	}
	s.mu.Unlock()
	return n, nil
}

// waitForRoom waits until n bytes, which are in the outbox's queue, were taken,
// or cannot be any more. It needs mu, of which it lets go.
func (s *Stream) waitForRoom(n int) (int, error) {
	defer s.mu.Unlock()
	for {
		waits, rest := s.m.out.queued(s)
		err := s.writeFails()
		switch {
		case waits && err == nil:
			s.wcond.Wait()
			continue
		case waits:
			s.m.out.cancel(s)
			continue
		case rest == 0:
			return n, nil
		}
		s.sendWindow += uint32(rest)
		if err == nil {
			err = s.m.out.failure()
		}
		return n - rest, err
	}
}
