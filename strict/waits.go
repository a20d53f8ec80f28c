package strict

import (
	"errors"
	"io"
	"net"
	"os"
	"sync"
	"time"
)

// holdTime is after how long a request at the least, and after twice of it at most, the client's presence is looked at.
const holdTime = 25 * time.Millisecond

// waits has what net/http wants to wait for, and what of it the connection below was told. It saves most of what a
// request costs beyond its bytes. For each, net/http sets seven deadlines, of which hardly any ever passes, and has a
// goroutine read a byte, to learn when the client goes: a call to the system that finds nothing, or the first byte of
// the next request, whose others need another call.
//
// So a deadline is told only if it is earlier than what was told before. One that was told and passed too early is
// noticed by who waits, who tells the one that holds and waits on. And the byte is not asked for before the request has
// taken a while.
type waits struct {
	// Static after construction.
	nc        net.Conn // below
	tellWrite bool     // at once: a TLS connection is broken by a write that was too late

	// Guarded by mu.
	mu          sync.Mutex
	read, write deadline
	over        bool        // closed
	held        bool        // a Read of a byte waits in hold
	aborted     bool        // and was ended by a deadline
	released    sync.Cond   // held is false
	count       uint32      // of what was held
	timer       *time.Timer // releases what was held when it was set; nil: never set
	set         bool        // the timer
	countThen   uint32      // count when it was set
}

// deadline is of one direction.
type deadline struct{ want, told time.Time } // zero is none

// later says that what was told does for t.
func (d *deadline) later(t time.Time) bool {
	return t.IsZero() || !d.told.IsZero() && !t.Before(d.told)
}

// isOver says that nothing is to be waited for.
func (d *deadline) isOver() bool { return !d.want.IsZero() && time.Until(d.want) <= 0 }

func newWaits(nc net.Conn) *waits {
	w := &waits{nc: nc}
	w.released.L = &w.mu
	return w
}

// setRead is SetReadDeadline.
func (w *waits) setRead(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.read.want = t
	switch {
	case w.held && w.read.isOver():
		w.release(true)
	case !w.read.later(t):
		return w.tellRead()
	}
	return nil
}

// setWrite is SetWriteDeadline.
func (w *waits) setWrite(t time.Time) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.write.want = t
	if w.tellWrite || !w.write.later(t) {
		return w.tellWriteNow()
	}
	return nil
}

// tellRead needs mu.
func (w *waits) tellRead() error {
	w.read.told = w.read.want
	return w.nc.SetReadDeadline(w.read.want)
}

// tellWriteNow needs mu.
func (w *waits) tellWriteNow() error {
	w.write.told = w.write.want
	return w.nc.SetWriteDeadline(w.write.want)
}

// settle tells the connection below all that holds, for who uses that from now on.
func (w *waits) settle() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.settleWrite()
	if w.read.told != w.read.want {
		_ = w.tellRead()
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// settleWrite needs mu.
func (w *waits) settleWrite() {
	if w.write.told != w.write.want {
		_ = w.tellWriteNow()
	}
}

// readAgain says that a Read ended because of a deadline that does not hold any more.
func (w *waits) readAgain(err error) bool {
	if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.read.told != w.read.want && w.tellRead() == nil
}

// writeAgain is readAgain for a Write.
func (w *waits) writeAgain(err error) bool {
	if !errors.Is(err, os.ErrDeadlineExceeded) {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.write.told != w.write.want && w.tellWriteNow() == nil
}

// hold waits until the Read of a byte is worth it. If it returns false a deadline has ended it.
func (w *waits) hold() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.read.isOver() {
		return true // there is nothing to wait for: whoever reads is told so
	}
	w.held, w.aborted = true, false
	w.count++
	if !w.set {
		w.arm()
	}
	for w.held {
		w.released.Wait()
	}
	return !w.aborted
}

// arm sets the timer; it needs mu. Most requests are shorter, and those that follow it leave it alone: so it costs
// little for each.
func (w *waits) arm() {
	w.set, w.countThen = true, w.count
	if w.timer == nil {
		w.timer = time.AfterFunc(holdTime, w.ring)
	} else {
		w.timer.Reset(holdTime)
	}
}

func (w *waits) ring() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.set = false
	switch {
	case !w.held:
	case w.count == w.countThen:
		w.release(false)
	default:
		w.arm()
	}
}

// release needs mu.
func (w *waits) release(aborted bool) {
	w.held, w.aborted = false, aborted
	w.released.Signal()
}

// close lets go of who waits: there is nothing to wait for.
func (w *waits) close() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = true
	if w.held {
		w.release(false)
	}
	if w.timer != nil {
		w.timer.Stop()
	}
}

// SetDeadline implements net.Conn.
func (c *Conn) SetDeadline(t time.Time) error {
	return errors.Join(c.SetReadDeadline(t), c.SetWriteDeadline(t))
}

// SetReadDeadline implements net.Conn.
func (c *Conn) SetReadDeadline(t time.Time) error {
	if w := c.waits.Load(); w != nil {
		return w.setRead(t)
	}
	return c.Conn.SetReadDeadline(t)
}

// SetWriteDeadline implements net.Conn.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if w := c.waits.Load(); w != nil {
		return w.setWrite(t)
	}
	return c.Conn.SetWriteDeadline(t)
}

// Close implements net.Conn.
func (c *Conn) Close() error {
	if w := c.waits.Load(); w != nil {
		w.close()
	}
	return c.Conn.Close()
}

// readBelow reads the connection below.
func (c *Conn) readBelow(p []byte) (int, error) {
	w := c.waits.Load()
	if w == nil {
		return c.Conn.Read(p)
	}
	// A byte alone, between requests, is what net/http reads while a handler is at work.
	if len(p) == 1 && !c.raw && (c.state == stStart || c.state == stOpen) && !w.hold() {
		return 0, os.ErrDeadlineExceeded
	}
	for {
		n, err := c.Conn.Read(p)
		if n > 0 || !w.readAgain(err) {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (c *Conn) Write(p []byte) (int, error) {
	n, err := c.Conn.Write(p)
	for err != nil {
		w := c.waits.Load()
		if w == nil || !w.writeAgain(err) {
			break
		}
		var m int
		m, err = c.Conn.Write(p[n:])
		n += m
	}
	return n, err
}

// ReadFrom implements io.ReaderFrom, by which files leave through sendfile.
func (c *Conn) ReadFrom(r io.Reader) (int64, error) {
	rf, ok := c.Conn.(io.ReaderFrom)
	if !ok {
		return io.Copy(writerOnly{c}, r)
	}
	if w := c.waits.Load(); w != nil {
		w.mu.Lock()
		w.settleWrite()
		w.mu.Unlock()
	}
	return rf.ReadFrom(r)
}

// writerOnly hides what io.Copy would call ReadFrom by.
type writerOnly struct{ io.Writer }
