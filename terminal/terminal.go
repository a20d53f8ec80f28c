// Package terminal draws what an agent is doing for the person who has started
// it in a terminal: the endpoints and whether they are connected, and the latest
// requests. Lines of the log go above it and stay.
//
// A Screen is told what happens by the agent's parts and draws by itself, a few
// times a second at most. It draws where the cursor is, and changes no mode of
// the terminal for longer than one write: however the process ends, there is
// nothing to restore. view.go decides what is drawn, and knows no terminal.
package terminal

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

const (
	// drawInterval is how often the screen is drawn at most.
	drawInterval = 200 * time.Millisecond
	// maxPending bounds the lines of the log that wait for the terminal, in bytes.
	maxPending = 256 << 10
	// closeTime is how long the last drawing may take: a terminal may be stopped.
	closeTime = 2 * time.Second
)

// Config is what a Screen shows that does not change.
type Config struct {
	Version   string
	Server    string // URL, without a password
	Listeners []Listener
	// Colour says that the terminal has colours.
	Colour bool
	// Size is asked for the columns and rows before each drawing.
	Size func() (columns, rows int)
}

// Listener is an endpoint and what stands behind it.
type Listener struct{ Endpoint, Service, Protocol string }

// Screen draws. Make one with New; all methods are safe for concurrent use.
type Screen struct {
	// Static after construction.
	cfg  Config
	out  io.Writer     // only draw writes to it, and once that has ended, Log's callers
	wake chan struct{} // holds one: draw, now
	done chan struct{} // closed when run has ended
	stop context.CancelFunc

	// Guarded by mu.
	mu      sync.Mutex
	view    view
	dirty   bool
	clear   bool // the screen's size has changed, or somebody else has drawn
	pending []byte
	lost    int // lines of the log that were too many
	ended   bool

	// Owned by run.
	drawn int // lines of the last drawing, above the cursor
}

// New begins to draw on out. Close must be called.
func New(out io.Writer, cfg Config) *Screen {
	ctx, stop := context.WithCancel(context.Background())
	s := &Screen{cfg: cfg, out: out, wake: make(chan struct{}, 1), done: make(chan struct{}), stop: stop, dirty: true}
	s.view.config = cfg
	s.view.endpoints = make(map[string]*Connection)
	go s.run(ctx)
	return s
}

// Close draws a last time, and leaves what it has drawn on the terminal. What is
// logged later goes straight there.
func (s *Screen) Close() {
	s.stop()
	select {
	case <-s.done:
	case <-time.After(closeTime): // a terminal that is stopped holds up nobody
	}
}

// Connection is how an endpoint is connected.
type Connection struct {
	Phase   string // connecting, connected, reconnecting, draining or closed
	Tunnels int
	Node    string // that this is about, if it is known
	Up      bool   // the tunnel to Node is there; otherwise it was lost or left
	Reason  string // why there is no tunnel
	Retry   time.Time

	nodes []string
}

// SetConnection says how an endpoint is connected now.
func (s *Screen) SetConnection(endpoint string, c Connection) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.setConnection(endpoint, c)
	s.dirty = true
}

// SetInspector says where the inspector's page is.
func (s *Screen) SetInspector(url string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.inspector = url
	s.dirty = true
}

// Stopping says that the agent is, and waits for requests that are under way.
func (s *Screen) Stopping(reason string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.stopping = reason
	s.dirty = true
}

// Access takes lines of the access log, as accesslog writes them in JSON, one in
// each call.
func (s *Screen) Access() io.Writer { return writer(s.access) }

func (s *Screen) access(line []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.view.count(line)
	s.dirty = true
}

// Log takes whole lines of the log, which stay above the screen.
func (s *Screen) Log() io.Writer { return writer(s.log) }

func (s *Screen) log(lines []byte) {
	s.mu.Lock()
	if s.ended {
		s.mu.Unlock()
		_, _ = s.out.Write(lines)
		return
	}
	defer s.mu.Unlock()
	if len(s.pending)+len(lines) > maxPending {
		s.lost += bytes.Count(lines, []byte("\n"))
		return
	}
	s.pending = append(s.pending, lines...)
	s.poke()
}

// Resized says that the terminal has another size, or that another program has
// written to it meanwhile.
func (s *Screen) Resized() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.clear = true
	s.poke()
}

func (s *Screen) poke() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// writer is an io.Writer by a func.
type writer func([]byte)

func (w writer) Write(p []byte) (int, error) {
	w(p)
	return len(p), nil
}

// run draws until ctx ends, and once more.
func (s *Screen) run(ctx context.Context) {
	defer close(s.done)
	tick := time.NewTicker(drawInterval)
	defer tick.Stop()
	for ctx.Err() == nil {
		s.draw(time.Now(), false)
		select {
		case <-tick.C:
		case <-s.wake:
		case <-ctx.Done():
		}
	}
	s.draw(time.Now(), true)
}

// draw writes what has changed.
func (s *Screen) draw(now time.Time, last bool) {
	columns, rows := s.cfg.Size()
	s.mu.Lock()
	s.view.tick(now)
	if !last && !s.dirty && !s.clear && len(s.pending) == 0 && !s.view.moves(now) {
		s.mu.Unlock()
		return
	}
	logged, cleared := s.pending, s.clear
	if s.lost > 0 {
		logged = fmt.Appendf(logged, "%d lines of the log were too many for the terminal\n", s.lost)
	}
	s.pending, s.lost, s.dirty, s.clear = nil, 0, false, false
	lines := s.view.lines(columns, rows, now, last)
	if !last {
		s.mu.Unlock()
	} else {
		defer s.mu.Unlock() // what is logged from here on comes behind this
		s.ended = true
	}
	var b strings.Builder
	b.WriteString("\x1b[?2026h\x1b[?25l") // all at once, without the cursor
	switch {
	case cleared:
		b.WriteString("\x1b[2J\x1b[H")
	case s.drawn > 0:
		fmt.Fprintf(&b, "\r\x1b[%dA", s.drawn)
	default:
		b.WriteString("\r")
	}
	if len(logged) > 0 {
		b.WriteString("\x1b[J")
		b.Write(bytes.ReplaceAll(logged, []byte("\n"), []byte("\r\n")))
	}
	b.WriteString("\x1b[?7l") // a line that is too long is cut, not wrapped
	for _, line := range lines {
		b.WriteString(line + "\x1b[K\r\n")
	}
	b.WriteString("\x1b[J\x1b[?7h\x1b[?25h\x1b[?2026l")
	s.drawn = len(lines)
	_, _ = io.WriteString(s.out, b.String()) // nobody to tell
}
