package tunnel

// What the read loop does to a stream. It waits for nobody here: mu is never
// held while anything is waited for.

// admission is what is to become of a data frame's body.
type admission uint8

const (
	admitStored admission = iota // it is in the stream
	admitRead                    // it is to be read into the stream
	admitDrop                    // nobody wants it
	admitNever                   // the peer must not send it
)

// admit takes n bytes off the window. whole is the body if it has arrived, and
// last says that nothing has behind it.
func (s *Stream) admit(n int, whole []byte, last bool) admission {
	s.mu.Lock()
	if uint64(n) > uint64(s.recvWindow) {
		s.mu.Unlock()
		return admitNever
	}
	s.recvWindow -= uint32(n)
	s.heard = true
	// Data behind a FIN is no crime: default yamux sends it when one goroutine
	// writes while another one closes.
	if s.wanted() && whole == nil {
		s.mu.Unlock()
		return admitRead
	}
	// Many small frames in a row are less work for who waits, all at once.
	if s.wanted() && last {
		if whole = s.offer(whole); len(whole) == 0 {
			s.mu.Unlock()
			return admitStored
		}
	}
	if s.wanted() && s.store(whole) {
		s.rcond.Signal()
		s.mu.Unlock()
		return admitStored
	}
	s.rejectAndUnlock()
	return admitDrop
}

// wanted says whether data is still to be read. It needs mu.
func (s *Stream) wanted() bool { return s.err == nil && !s.finSeen && !s.closed }

// store appends body, which is not empty; false means that the stream was reset
// instead. It needs mu.
func (s *Stream) store(body []byte) bool {
	c := s.last
	if c == nil || c.room() < len(body) {
		if c = s.newChunk(len(body)); c == nil {
			return false
		}
		s.append(c)
	}
	c.w += copy(c.buf[c.w:], body)
	return true
}

// rejectAndUnlock answers data that came for a stream that was closed at this
// end: the peer must not believe that it is read. It forgets streams that were
// reset.
func (s *Stream) rejectAndUnlock() {
	if s.closed && s.err == nil && !s.finSeen {
		s.err = ErrClosed
		s.sendRST()
	}
	gone := s.err != nil
	s.mu.Unlock()
	if gone {
		s.m.remove(s)
	}
}

// newChunk returns a chunk that the stream has yet to append. If the session
// holds too much it resets the stream and returns nil. It needs mu.
func (s *Stream) newChunk(n int) *chunk {
	c := getChunk(n)
	if s.m.unread.Add(int64(len(c.buf))) > int64(s.m.opt.maxBuffered) {
		s.err = ErrBufferFull
	} else if !s.m.opt.budget.charge(s, c) {
		s.err = ErrOverloaded
	} else {
		return c
	}
	s.m.unread.Add(-int64(len(c.buf)))
	c.free()
	s.resetWith(rstOverloaded)
	s.dropUnread()
	s.wake()
	return nil
}

// append needs mu.
func (s *Stream) append(c *chunk) {
	if s.last == nil {
		s.first = c
	} else {
		s.last.next = c
	}
	s.last = c
}

// beginFill returns a chunk for the read loop to fill, with n bytes or as much
// as it has room for; nil if nobody wants them.
func (s *Stream) beginFill(n int) *chunk {
	s.mu.Lock()
	if s.closed || s.err != nil {
		s.rejectAndUnlock()
		return nil
	}
	c := s.last
	if s.shown = c != nil && c.room() >= n; !s.shown {
		// With room for the header of the next frame, which is read along.
		if c = s.newChunk(n + smallRead); c == nil {
			s.rejectAndUnlock()
			return nil
		}
	}
	s.filling = c
	s.mu.Unlock()
	return c
}

// showFill lets Read see what has been filled in up to end.
func (s *Stream) showFill(c *chunk, end int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.show(c, end)
}

// show reports whether anybody wants c. It needs mu.
func (s *Stream) show(c *chunk, end int) bool {
	if s.filling != c { // dropped meanwhile
		return false
	}
	if c.w == end {
		return true
	}
	c.w = end
	if !s.shown {
		s.append(c)
		s.shown = true
	}
	s.rcond.Signal()
	return true
}

// endFill gives c to the stream.
func (s *Stream) endFill(c *chunk, end int) {
	s.mu.Lock()
	if !s.show(c, end) {
		c.free()
		s.rejectAndUnlock()
		return
	}
	s.filling = nil
	if len(c.unread()) == 0 {
		if !s.shown { // nothing has come: the connection is broken
			s.append(c)
		}
		s.unlinkFirst() // all before it was read as well
		c.free()
	}
	s.mu.Unlock()
}

// dropUnread frees what nobody will read; the read loop frees what it is just
// filling, Read what it is reading. It needs mu.
func (s *Stream) dropUnread() {
	if s.filling != nil && !s.shown {
		s.append(s.filling)
	}
	for s.first != nil {
		c := s.first
		s.unlinkFirst()
		s.consumed += uint32(len(c.unread()))
		if c != s.filling {
			c.free()
		}
	}
	s.filling = nil
}

// accepted acknowledges a stream that the peer has opened.
func (s *Stream) accepted() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return
	}
	s.acked = true
	_ = s.m.out.control(muxFrame{kind: kindWindow, flags: flagACK, id: s.id, length: s.m.extraWindow()})
}

// onACK notes that the peer has accepted the stream.
func (s *Stream) onACK() {
	s.mu.Lock()
	news := s.opener && !s.acked
	s.acked = true
	s.mu.Unlock()
	if news {
		s.m.acked(s)
	}
}

// onFIN notes that the peer will send nothing more; again, if it did before.
func (s *Stream) onFIN() (again bool) {
	s.mu.Lock()
	again, s.finSeen, s.heard = s.finSeen, true, true
	over := s.finSent
	s.rcond.Signal()
	s.ended()
	s.mu.Unlock()
	if over {
		s.m.remove(s)
	}
	return again
}

// onRST ends the stream. What had arrived can still be read, and if the peer
// had ended its side before, then EOF.
func (s *Stream) onRST(code uint32) {
	s.mu.Lock()
	if s.err == nil {
		s.err = ErrStreamReset
		if code == rstOverloaded {
			s.err = ErrPeerOverloaded
		}
		if s.opener && !s.acked && !s.heard {
			s.err = ErrRefused
		}
	}
	s.m.out.cancel(s)
	s.wake()
	s.mu.Unlock()
	s.m.remove(s)
}
