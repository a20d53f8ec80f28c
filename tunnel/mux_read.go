package tunnel

import (
	"errors"
	"io"
	"math"
	"time"
)

// run reads frames until the session ends, and says why it did: what fail was
// given, ErrClosedByPeer, a *ProtocolError (answered with a GoAway),
// a *GoAwayError, or what the connection said. It closes the connection, and
// waits for the goroutines that the mux has started.
func (m *mux) run() error {
	err := m.readLoop()
	m.in.release()
	code := uint16(closeNormal)
	if bad, ok := errors.AsType[*ProtocolError](err); ok && m.alive() {
		_ = m.goAway(goAwayProtocol) // as far as it goes
		code = bad.closeCode()
	}
	m.fail(err)
	m.mu.Lock()
	err = m.err
	m.mu.Unlock()
	m.out.fail(err) // a fail of somebody else's may not have come that far
	m.c.close(code, "")
	m.out.kicked.Wait()
	return err
}

func (m *mux) alive() bool {
	select {
	case <-m.done:
		return false
	default:
		return true
	}
}

func (m *mux) readLoop() error {
	for {
		f, err := m.in.frame()
		if err == nil {
			err = m.handle(f)
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			return ErrClosedByPeer
		default:
			return err
		}
	}
}

// handle does what f asks for, and reads its body.
func (m *mux) handle(f muxFrame) error {
	if f.version != muxVersion {
		return errBadVersion
	}
	switch f.kind {
	case kindData, kindWindow:
		return m.onStreamFrame(f)
	case kindPing:
		return m.onPing(f)
	case kindGoAway:
		return m.onGoAway(f)
	}
	return errBadKind
}

func (m *mux) onPing(f muxFrame) error {
	if f.id != 0 {
		return errBadSession
	}
	if !f.has(flagSYN) { // an answer; but we do not ask
		return m.spend(f)
	}
	if !m.guard.pings.allow(time.Now(), pingRate, pingRate) {
		return errPingFlood
	}
	return m.out.pong(f.length)
}

func (m *mux) onGoAway(f muxFrame) error {
	if f.id != 0 {
		return errBadSession
	}
	m.mu.Lock()
	again := m.peerLeaves
	m.peerLeaves = true
	if m.slot != nil { // who waits to open need not wait any more
		close(m.slot)
		m.slot = nil
	}
	m.mu.Unlock()
	if again && f.length == goAwayNormal {
		return m.spend(f)
	}
	if m.opt.onGoAway != nil {
		m.opt.onGoAway(f.length)
	}
	if f.length != goAwayNormal {
		return &GoAwayError{Code: f.length}
	}
	return nil
}

// onStreamFrame handles data and window updates.
func (m *mux) onStreamFrame(f muxFrame) error {
	if f.has(flagSYN) {
		if refused, err := m.onSYN(f); refused || err != nil {
			return err
		}
	}
	s, err := m.find(f)
	if err != nil {
		return err
	}
	if s == nil {
		return m.discardBody(f)
	}
	if f.has(flagACK) {
		s.onACK()
	}
	if f.kind == kindData {
		err = m.onData(s, f)
	} else {
		err = m.onWindow(s, f)
	}
	if err != nil {
		return err
	}
	if f.has(flagFIN) {
		if err := m.onFIN(s, f); err != nil {
			return err
		}
	}
	if f.has(flagRST) {
		code := uint32(0)
		if f.kind == kindWindow {
			code = f.length
		}
		s.onRST(code)
	}
	if s.unheard {
		m.greet(s, f)
	}
	if m.opt.onControl != nil && f.id%2 == 1 { // the upstream's
		m.opt.onControl(s)
	}
	return nil
}

// onSYN opens the peer's stream, or refuses it, which includes to read the body.
func (m *mux) onSYN(f muxFrame) (refused bool, err error) {
	if f.id == 0 || m.ours(f.id) {
		return false, errWrongSide
	}
	m.mu.Lock()
	if m.streams[f.id] != nil {
		m.mu.Unlock()
		return false, errDuplicate
	}
	m.lastPeerID = max(m.lastPeerID, f.id)
	if refused = m.refuses(); refused {
		m.late.add(initialWindow)
	} else {
		s := newStream(m, f.id, false)
		m.add(s)
		m.peerOpened++
		switch {
		case m.node && m.opt.onControl != nil:
		case m.opt.meta && !m.node:
			m.awaitGreeting(s)
		default:
			m.backlog = append(m.backlog, s)
			m.acceptable.Signal()
		}
	}
	m.mu.Unlock()
	if !refused {
		return false, nil
	}
	if !m.guard.refusals.allow(time.Now(), refusalRate, refusalBurst) {
		return true, errOpensTooMany
	}
	if err := m.out.control(muxFrame{kind: kindWindow, flags: flagRST, id: f.id}); err != nil {
		return true, err
	}
	return true, m.discardBody(f)
}

// refuses says whether another stream of the peer's is too much. It needs mu.
func (m *mux) refuses() bool {
	opened := len(m.backlog) + m.greeting
	if m.node {
		opened = m.peerOpened
	}
	return m.err != nil || m.weLeave || m.noMore || opened >= m.opt.allowPeerStreams || len(m.streams) >= m.opt.maxStreams
}

// ours says which side opens streams with this id.
func (m *mux) ours(id uint32) bool { return (id%2 == 0) == m.node }

// find returns the stream of f, nil if it is gone.
func (m *mux) find(f muxFrame) (*Stream, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if s := m.streams[f.id]; s != nil {
		return s, nil
	}
	switch ours := m.ours(f.id); {
	case m.err != nil:
		return nil, m.err
	case f.id == 0, ours && f.id >= m.nextID, !ours && f.id > m.lastPeerID:
		return nil, errNoSuchStream
	case !m.late.spend(f):
		return nil, errLateFrames
	}
	return nil, nil
}

// spend counts a frame that changes nothing.
func (m *mux) spend(f muxFrame) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if f.length = 0; !m.late.spend(f) {
		return errLateFrames
	}
	return nil
}

func (m *mux) onWindow(s *Stream, f muxFrame) error {
	if f.length == 0 || f.has(flagRST) {
		if f.flags == 0 {
			return m.spend(f)
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if uint64(s.sendWindow)+uint64(f.length) > math.MaxUint32 {
		return errWindowWraps
	}
	s.sendWindow += f.length
	s.wcond.Signal()
	return nil
}

func (m *mux) onFIN(s *Stream, f muxFrame) error {
	if again := s.onFIN(); again {
		return m.spend(f)
	}
	return nil
}
