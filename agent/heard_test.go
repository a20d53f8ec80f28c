package agent

import (
	"net"
	"os"
	"sync"
	"time"
)

// heard is what has come over a connection, read ahead as a tunnel's session
// does, so that its end is noticed while nobody reads.
type heard struct {
	// Static.
	conn  net.Conn
	gone  <-chan struct{} // also ends it; nil is never
	ended chan struct{}

	// Guarded by mu.
	mu      sync.Mutex
	news    sync.Cond
	reading bool // ahead
	buf     []byte
	err     error
	until   time.Time
	timer   *time.Timer
	onEnd   func()
}

func newHeard(conn net.Conn, gone <-chan struct{}) *heard {
	h := &heard{conn: conn, gone: gone, ended: make(chan struct{})}
	h.news.L = &h.mu
	return h
}

// OnEnd makes it a relay.LaneConn, and begins to read ahead.
func (h *heard) OnEnd(f func()) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.onEnd = f
	if !h.reading {
		h.reading = true
		go h.readAhead()
		go h.watch()
	}
	h.tell()
}

func (h *heard) tell() {
	if f := h.onEnd; f != nil && h.err != nil {
		h.onEnd = nil
		f()
	}
}

// watch is for tests that say that the other side is gone.
func (h *heard) watch() {
	select {
	case <-h.gone:
	case <-h.ended:
		return
	}
	h.end()
}

// end is called when the connection is closed at this side, too.
func (h *heard) end() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.err == nil {
		h.err = net.ErrClosed
	}
	h.tell()
	h.news.Broadcast()
}

func (h *heard) readAhead() {
	defer close(h.ended)
	buf := make([]byte, 64<<10)
	for {
		n, err := h.conn.Read(buf)
		h.mu.Lock()
		h.buf = append(h.buf, buf[:n]...)
		if h.err == nil {
			h.err = err
		}
		h.tell()
		h.news.Broadcast()
		for len(h.buf) > 256<<10 && h.err == nil { // as a window bounds it
			h.news.Wait()
		}
		h.mu.Unlock()
		if err != nil {
			return
		}
	}
}

func (h *heard) Read(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reading {
		h.mu.Unlock()
		n, err := h.conn.Read(p)
		h.mu.Lock()
		return n, err
	}
	for {
		switch {
		case !h.until.IsZero() && !time.Now().Before(h.until):
			return 0, os.ErrDeadlineExceeded
		case len(h.buf) > 0:
			n := copy(p, h.buf)
			h.buf = h.buf[n:]
			h.news.Broadcast()
			return n, nil
		case h.err != nil:
			return 0, h.err
		}
		h.news.Wait()
	}
}

func (h *heard) SetReadDeadline(t time.Time) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.reading {
		return h.conn.SetReadDeadline(t)
	}
	if h.timer != nil {
		h.timer.Stop()
	}
	if h.until = t; !t.IsZero() {
		h.timer = time.AfterFunc(time.Until(t), func() {
			h.mu.Lock()
			defer h.mu.Unlock()
			h.news.Broadcast()
		})
	}
	h.news.Broadcast()
	return nil
}
