package relay

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"sync"
	"sync/atomic"
)

// ErrNotHTTP2 is what opening a connection of an HTTP2Pool fails with if the other side took it and then did not begin
// as HTTP/2 does.
var ErrNotHTTP2 = errors.New("service does not speak HTTP/2")

// http2Wire is a connection below net/http's HTTP/2, which says nothing about what it has received. The wire looks at
// the headers of the frames that pass, and so knows two things.
//
// When the other side's first frame was dealt with: its settings, which say how many streams it takes. Before, all of a
// burst would go to one connection, and come back refused.
//
// How much of a response's body has come: what is there need not be flushed piece by piece to whoever gets the response,
// and a short response with its trailers, as most calls of gRPC have, goes on as one write rather than three.
type http2Wire struct {
	net.Conn
	known chan struct{} // closed when err is known
	err   error

	// Owned by the reader.
	in      frameScanner
	over    bool // known is closed
	begun   bool // the other side's settings have come
	foreign bool // it speaks something else

	// Owned by the writer, one at a time.
	out frameScanner

	// Guarded by mu.
	mu      sync.Mutex
	streams map[uint32]*received // that may get more
	highest uint32               // of the streams that we opened
	last    *received            // of the stream that was opened last; nil once taken
}

// received is what has come of a stream's body.
type received struct {
	bytes atomic.Int64
	ended atomic.Bool // and all that follows it
	vague atomic.Bool // padding makes bytes wrong, or the end is not seen
}

func newHTTP2Wire(nc net.Conn) *http2Wire {
	w := &http2Wire{Conn: nc, known: make(chan struct{}), streams: make(map[uint32]*received)}
	w.out.left = len(clientPreface)
	return w
}

// Read implements net.Conn. It is called again when what it gave was dealt with.
func (w *http2Wire) Read(p []byte) (int, error) {
	if w.begun && !w.over {
		w.tell(nil)
	}
	n, err := w.Conn.Read(p)
	if !w.foreign {
		w.in.scan(p[:n], w.came)
	}
	if !w.over && !w.begun {
		w.look(err)
	}
	return n, err
}

// look judges the first frame by its header.
func (w *http2Wire) look(err error) {
	switch {
	case w.in.seen == frameHeader && w.in.kind() != frameSettings:
		w.foreign = true
		w.tell(ErrNotHTTP2)
	case err != nil:
		w.tell(fmt.Errorf("%w: %w", ErrNotHTTP2, err))
	}
}

func (w *http2Wire) tell(err error) {
	w.err, w.over = err, true
	close(w.known)
}

// came is called for each frame that came whole.
func (w *http2Wire) came(f *frameScanner) {
	switch f.kind() {
	case frameSettings:
		w.begun = true
	case frameData, frameHeaders, frameReset:
		w.receive(f)
	}
}

func (w *http2Wire) receive(f *frameScanner) {
	w.mu.Lock()
	r := w.streams[f.stream()]
	last := f.kind() == frameReset || f.flags()&flagEndStream != 0
	// The rest is in frames that say nothing of the end.
	split := last && f.kind() == frameHeaders && f.flags()&flagEndHeaders == 0
	ended := last && !split
	if last {
		delete(w.streams, f.stream())
	}
	w.mu.Unlock()
	if r == nil {
		return
	}
	if split || f.kind() == frameData && f.flags()&flagPadded != 0 {
		r.vague.Store(true)
	} else if f.kind() == frameData {
		r.bytes.Add(int64(f.length()))
	}
	if ended {
		r.ended.Store(true)
	}
}

// Write implements net.Conn.
func (w *http2Wire) Write(p []byte) (int, error) {
	w.out.scan(p, w.goes)
	return w.Conn.Write(p)
}

// goes is called for each frame that leaves whole: net/http opens streams, each with a higher number, and resets them.
func (w *http2Wire) goes(f *frameScanner) {
	switch id := f.stream(); f.kind() {
	case frameHeaders:
		w.mu.Lock()
		if id > w.highest { // others are trailers
			w.highest, w.last = id, new(received)
			w.streams[id] = w.last
		}
		w.mu.Unlock()
	case frameReset:
		w.mu.Lock()
		delete(w.streams, id)
		w.mu.Unlock()
	}
}

// opened returns what comes of the stream that was opened last, once. It must be called where nobody else writes.
func (w *http2Wire) opened() *received {
	w.mu.Lock()
	defer w.mu.Unlock()
	r := w.last
	w.last = nil
	return r
}

// Close ends the connection without a goodbye below it, which could block.
func (w *http2Wire) Close() error {
	if _, ok := w.Conn.(resetter); ok {
		return w.Conn.Close()
	}
	return underneath(w.Conn).Close()
}

// Frames (RFC 9113, sections 4.1 and 6): 3 bytes of length, 1 of type, 1 of flags, 4 of the stream, and the payload.
const (
	clientPreface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
	frameHeader   = 9

	frameData     = 0
	frameHeaders  = 1
	frameReset    = 3
	frameSettings = 4

	flagEndStream  = 1
	flagEndHeaders = 4
	flagPadded     = 8
)

// frameScanner follows the frames of one direction by their headers.
type frameScanner struct {
	head [frameHeader]byte
	seen int // bytes of head
	left int // bytes of payload that are to come
}

func (s *frameScanner) length() int    { return int(s.head[0])<<16 | int(s.head[1])<<8 | int(s.head[2]) }
func (s *frameScanner) kind() byte     { return s.head[3] }
func (s *frameScanner) flags() byte    { return s.head[4] }
func (s *frameScanner) stream() uint32 { return binary.BigEndian.Uint32(s.head[5:]) & (1<<31 - 1) }

// scan calls f at the end of each frame.
func (s *frameScanner) scan(b []byte, f func(*frameScanner)) {
	for len(b) > 0 {
		if s.left == 0 {
			n := copy(s.head[s.seen:], b)
			s.seen += n
			b = b[n:]
			if s.seen < frameHeader {
				return
			}
			s.left = s.length()
		}
		n := min(s.left, len(b))
		s.left -= n
		b = b[n:]
		if s.left == 0 && s.seen == frameHeader {
			f(s)
			s.seen = 0
		}
	}
}
