package tunnel

// onData reads a data frame's body into its stream.
func (m *mux) onData(s *Stream, f muxFrame) error {
	n := int(f.length)
	if n == 0 {
		if f.flags == 0 {
			return m.spend(f)
		}
		return nil
	}
	m.opt.budget.pause(s, n, m.done)
	var whole []byte // the body, if it has arrived
	b := m.in.buffered()
	if len(b) >= n {
		whole = b[:n]
	}
	switch s.admit(n, whole, len(b) == n) {
	case admitStored:
		m.in.skip(n)
		return nil
	case admitRead:
		return m.readBody(s, n)
	case admitDrop:
		return m.in.discard(n)
	}
	return errOverWindow
}

// readBody reads n bytes, which have not all arrived, into s.
func (m *mux) readBody(s *Stream, n int) error {
	for n > 0 {
		c := s.beginFill(n)
		if c == nil {
			return m.in.discard(n)
		}
		k := min(n, c.room())
		if err := m.fillChunk(s, c, k); err != nil {
			return err
		}
		n -= k
	}
	return nil
}

// fillChunk reads n bytes, for which there is room, behind those in c. When the connection has no
// more for the moment, it shows the stream what there is.
func (m *mux) fillChunk(s *Stream, c *chunk, n int) error {
	at := c.w
	end := at + n
	k := copy(c.buf[at:end], m.in.buffered())
	m.in.skip(k)
	for at += k; at < end; {
		k, err := m.in.readInto(c.buf[at:], end-at)
		at += k
		if err != nil {
			s.endFill(c, at)
			return err
		}
		if at < end {
			s.showFill(c, at)
		}
	}
	s.endFill(c, end)
	return nil
}

// discardBody skips the body of a frame that nobody wants.
func (m *mux) discardBody(f muxFrame) error {
	if f.kind != kindData {
		return nil
	}
	return m.in.discard(int(f.length))
}
