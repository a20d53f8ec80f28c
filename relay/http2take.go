package relay

import (
	"context"
	"slices"
)

// take reserves room for an exchange on a connection. It waits for a connection to be opened, or for another exchange
// to end if there may be no more connections.
func (p *HTTP2Pool) take(ctx context.Context) (*http2Conn, error) {
	if c := p.tryTake(ctx); c != nil {
		return c, nil
	}
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	for {
		changed := p.change() // before the next look, so that nothing is missed
		if c := p.tryTake(ctx); c != nil {
			return c, nil
		}
		dial, err := p.grow(ctx)
		if err != nil {
			return nil, err
		}
		select {
		case <-changed:
		case <-dial.ended():
			if dial.err != nil {
				return nil, dial.err
			}
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// tryTake reserves room on the connection that has least to do; nil if there is none.
func (p *HTTP2Pool) tryTake(ctx context.Context) *http2Conn {
	for range maxAttempts { // others reserve at the same time
		conns := p.list()
		best, busy := p.emptiest(conns)
		if best == nil {
			return nil
		}
		if best.cc.Reserve() == nil {
			if best.retired.Load() { // whoever retires it may have seen it idle, and be closing it
				best.cc.Release()
				p.retire(best)
				continue
			}
			if busy >= growAt && len(conns) < growTo {
				_, _ = p.grow(ctx) // there is room: without a connection more it goes on as it is
			}
			return best
		}
	}
	return nil
}

// emptiest finds the connection with the fewest exchanges among those with room, and retires those that are no use.
func (p *HTTP2Pool) emptiest(conns []*http2Conn) (best *http2Conn, least int) {
	for _, c := range conns {
		room, busy := c.cc.Available(), c.cc.InFlight()
		switch {
		case room == 0 && c.useless(busy):
			p.retire(c)
		case room > 0 && (best == nil || busy < least):
			best, least = c, busy
		}
	}
	return best, least
}

// grow begins to open a connection if there may be one more, unless one is being opened. It returns what is being
// opened, which may be nothing.
func (p *HTTP2Pool) grow(ctx context.Context) (*http2Dial, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.closed:
		return nil, ErrPoolClosed
	case p.dialing != nil || len(p.conns) >= p.maxConns():
		return p.dialing, nil
	}
	p.dialing = p.startDial(ctx)
	return p.dialing, nil
}

// adopt takes over what was dialled.
func (p *HTTP2Pool) adopt(d *http2Dial, c *http2Conn, err error) {
	p.mu.Lock()
	p.dialing = nil
	if err == nil && p.closed {
		err = ErrPoolClosed
	} else if err == nil {
		p.conns = append(slices.Clip(p.conns), c)
	}
	p.mu.Unlock()
	switch {
	case err == nil:
		c.cc.SetStateHook(c.changed) // also if it has ended since
	case c != nil:
		_ = c.cc.Close()
	}
	d.err = err
	close(d.done)
}

// retire takes a connection out, and closes it when its last exchange is over.
func (p *HTTP2Pool) retire(c *http2Conn) {
	c.retired.Store(true)
	p.remove(c)
	if c.cc.InFlight() == 0 {
		_ = c.cc.Close()
	}
}

// remove forgets a connection; others may take its place.
func (p *HTTP2Pool) remove(c *http2Conn) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if i := slices.Index(p.conns, c); i >= 0 {
		p.conns = slices.Delete(slices.Clone(p.conns), i, i+1)
		p.wake()
	}
}

// change returns a channel that is closed when there may be room.
func (p *HTTP2Pool) change() <-chan struct{} {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.changed == nil {
		p.changed = make(chan struct{})
	}
	return p.changed
}

// wake tells those who wait to look again. It wants mu.
func (p *HTTP2Pool) wake() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}
