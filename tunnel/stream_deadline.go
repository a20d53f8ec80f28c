package tunnel

import "time"

// A deadline is a time until which calls may wait. It has a timer only once it
// was set to a time to come: net/http sets deadlines in the past to end a read
// of its own, at every request, and that costs neither timer nor allocation.
// All of it is guarded by its stream's mu.
type deadline struct {
	at     time.Time // zero is never
	passed bool
	timer  *time.Timer // nil until needed; stopped unless at is to come
}

// set sets the deadline to t. expire makes what is called, without locks, when
// t has come; that it is made only when needed is what saves the allocation.
func (d *deadline) set(t time.Time, expire func() func()) {
	d.stop()
	d.at, d.passed = t, false
	if t.IsZero() {
		return
	}
	wait := time.Until(t)
	switch {
	case wait <= 0:
		d.passed = true
	case d.timer == nil:
		d.timer = time.AfterFunc(wait, expire())
	default:
		d.timer.Reset(wait)
	}
}

// expired notes that the timer has fired, maybe for a time that was set before.
func (d *deadline) expired() {
	if d.at.IsZero() || d.passed {
		return
	}
	if wait := time.Until(d.at); wait > 0 {
		d.timer.Reset(wait)
		return
	}
	d.passed = true
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
}

// SetDeadline is SetReadDeadline and SetWriteDeadline.
func (s *Stream) SetDeadline(t time.Time) error {
	if err := s.SetReadDeadline(t); err != nil {
		return err
	}
	return s.SetWriteDeadline(t)
}

// SetReadDeadline ends reads at t, waiting ones too, with
// os.ErrDeadlineExceeded. A zero t is never.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.rdeadline.set(t, func() func() { return s.onReadDeadline })
	if s.rdeadline.passed {
		s.rcond.Signal()
	}
	return nil
}

// SetWriteDeadline ends writes at t, waiting ones too, with
// os.ErrDeadlineExceeded; Write returns how much was written. A zero t is never.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return ErrClosed
	}
	s.wdeadline.set(t, func() func() { return s.onWriteDeadline })
	if s.wdeadline.passed {
		s.wcond.Signal()
	}
	return nil
}

func (s *Stream) onReadDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.rdeadline.expired()
	s.rcond.Signal()
}

func (s *Stream) onWriteDeadline() {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closed {
		return
	}
	s.wdeadline.expired()
	s.wcond.Signal()
}
