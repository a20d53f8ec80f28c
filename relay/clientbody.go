package relay

import (
	"errors"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

const (
	// lingering is how long a client may go on sending a body that nobody wants, after the response: the end of the
	// connection would destroy the response if it came while bytes are on their way.
	lingering = 500 * time.Millisecond
	// drained is how much of a body that nobody wants is read, so that the connection can be kept.
	drained = 64 << 10
)

var (
	errBodyTaken = errors.New("request body was taken back")
	longAgo      = time.Unix(1, 0)
)

// BodyOptions are the settings of TakeBody. The zero value works.
type BodyOptions struct {
	// Keep is how many bytes are kept, so that a body that is no longer can be sent again. 0 is none.
	Keep int
	// Buffers counts what is kept, and says that it is too much: then a body is not kept. nil takes everything.
	Buffers Buffers
	// Progress is how long a body with a Content-Length may stay away before reading it fails with a time-out. 0 is
	// for ever.
	Progress time.Duration
}

// Buffers counts the memory of a process's buffers. Safe for concurrent use.
type Buffers interface {
	Reserve(n int) (ok bool)
	Release(n int)
}

// Body is the body of a server's request on its way through RoundTrip. A handler takes one per request, attaches it to
// each attempt's request, and finishes it before it returns. All methods can be called on nil, which is no body.
//
// What it is for: a read that waits for the client holds a lock of net/http's that closing the body wants, too;
// a handler must not return while somebody reads (golang.org/issue/68560); and what was left unread on a connection
// must never be taken for the client's next request.
type Body struct {
	// Static after construction.
	w         http.ResponseWriter
	req       *http.Request
	opt       BodyOptions
	announced http.Header // names of trailers; req.Trailer is written by whoever reads the body's end

	unannounced bool // the response says nothing of its being the last; owned by the handler

	// Guarded by readMu, which is held while waiting for the client. It is taken before mu.
	readMu   sync.Mutex
	finished bool
	armed    time.Time // when the read deadline was set last

	// Guarded by mu, which is never held for long.
	mu       sync.Mutex
	current  *bodyReader
	pos      int64  // bytes read from the client
	log      []byte // the bytes up to pos that were kept, from base on
	base     int64
	pooled   *[]byte // where log came from
	reserved int     // of opt.Buffers
	released bool    // no further Attach will come
	taking   bool    // Finish ends a read with a deadline
	waiting  bool    // for the client
	reads    uint64  // that have begun or ended
	end      error   // what reading the client ended with
}

// TakeBody takes the body of a server's request; nil if there is none. From here on the response may be written while
// the body is still read.
func TakeBody(w http.ResponseWriter, r *http.Request, opt BodyOptions) *Body {
	if r.Body == nil || r.Body == http.NoBody || r.ContentLength == 0 {
		return nil
	}
	// Without it net/http reads the rest of the body itself when the response begins: of 30,005 answers to POSTs of
	// 64 KiB through a proxy 93 were truncated. HTTP/2 needs no such thing and says so.
	_ = http.NewResponseController(w).EnableFullDuplex()
	return &Body{w: w, req: r, opt: opt, announced: maps.Clone(r.Trailer)}
}

// Attach gives out the body from its first byte on: it sets out's Body and ContentLength and, at the end of the body,
// Trailer. It does nothing and says false if a part of the body is gone. A reader that was attached before gets no more;
// whoever has it may still be at work, so each attempt needs a request of its own.
func (b *Body) Attach(out *http.Request) bool {
	if b == nil {
		out.Body, out.ContentLength = http.NoBody, 0
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.whole() {
		return false
	}
	b.current = &bodyReader{b: b, out: out}
	out.Body, out.ContentLength, out.Trailer = b.current, b.req.ContentLength, b.announced
	return true
}

// Whole reports whether Attach would still give out the body from its first byte on.
func (b *Body) Whole() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.whole()
}

// whole wants mu.
func (b *Body) whole() bool {
	return b.base == 0 && !b.released && (b.end == nil || b.end == io.EOF)
}

// Release gives up sending the body again: a response has come.
func (b *Body) Release() {
	if b == nil {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.released = true
	b.trim()
}

// Bytes is how many bytes the client has sent of the body.
func (b *Body) Bytes() int64 {
	if b == nil {
		return 0
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.pos
}

// Done reports whether the whole body was read from the client.
func (b *Body) Done() bool {
	if b == nil {
		return true
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.end == io.EOF
}

// Turns says whether a reader waits for the client, and returns a number that grows with each read that begins or ends. As
// long as neither changes, and nobody waits, whoever sends the body has something that he cannot get rid of.
func (b *Body) Turns() (n uint64, waiting bool) {
	if b == nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.reads, b.waiting
}

// Err is why the client could not be read: a time-out if it sent nothing for too long, or what was wrong with what it
// sent. After Finish it does not change any more.
func (b *Body) Err() error {
	if b == nil {
		return nil
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.end == io.EOF || b.end == errBodyTaken {
		return nil
	}
	return b.end
}

// Announce says in the header of a response that the connection will end behind it, if the body is not in yet and may
// not be when the response is over. A client that is not told, and has sent all of the body, uses the connection for its
// next request just when it ends. It is called right before the head is written.
func (b *Body) Announce(h http.Header) {
	if b == nil || b.req.ProtoMajor >= 2 || b.Done() {
		return
	}
	if b.unannounced = b.rest() >= 0; !b.unannounced {
		h.Set("Connection", "close")
	}
}

// rest is how much of the body is to come, if that is worth reading for the sake of the connection; otherwise -1. A
// client that asks first may send nothing of it.
func (b *Body) rest() int64 {
	b.mu.Lock()
	defer b.mu.Unlock()
	rest := b.req.ContentLength - b.pos
	if rest < 0 || rest > drained || b.end != nil || b.req.Header["Expect"] != nil {
		return -1
	}
	return rest
}

// Finish takes the body back: it ends a read that still waits for the client, without waiting for it, and reads of it
// fail from now on. If the client had more to send, its connection is closed behind the response, after a moment in
// which it may go on sending: a connection that is closed with bytes unread is reset, and the response lost. Only for the
// last of a short body, behind a response whose head says nothing of the end, it waits for that moment.
func (b *Body) Finish() {
	if b == nil {
		return
	}
	if !b.Done() {
		b.interrupt()
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.current = nil
	b.free()
}

func (b *Body) interrupt() {
	rc := http.NewResponseController(b.w)
	if b.unannounced && b.rest() >= 0 && b.drain(rc) {
		return
	}
	interrupted := !b.readMu.TryLock()
	if interrupted {
		b.mu.Lock()
		b.taking = true
		b.mu.Unlock()
		_ = rc.SetReadDeadline(longAgo)
		b.readMu.Lock()
	}
	defer b.readMu.Unlock()
	b.finished = true
	if b.Done() && !interrupted {
		return
	}
	// If it is in after all, the deadline may have met net/http's own read behind it, and the connection is spoilt.
	_ = rc.SetReadDeadline(time.Now().Add(lingering))
	closeBehind(b.w)
}

// drain reads the rest of the body, or lets whoever waits for it do so, and reports whether it came.
func (b *Body) drain(rc *http.ResponseController) bool {
	if b.w.Header().Get("Content-Length") != "" {
		_ = rc.Flush() // the response is whole, and nobody shall wait for it
	}
	// After a time-out net/http takes the client for gone, for all requests of the connection.
	_ = rc.SetReadDeadline(time.Now().Add(lingering))
	b.readMu.Lock()
	defer b.readMu.Unlock()
	b.finished = true
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	for b.rest() >= 0 && !b.Done() {
		n, err := b.req.Body.Read(*buf)
		b.mu.Lock()
		b.pos += int64(n)
		b.end = err
		b.mu.Unlock()
	}
	if b.Done() {
		_ = rc.SetReadDeadline(time.Time{})
	}
	return b.Done()
}

// closeBehind makes net/http close the client's connection after the response, even if its head is out. There is no
// direct way; a MaxBytesReader that reaches its limit is documented to do it.
func closeBehind(w http.ResponseWriter) {
	for {
		u, ok := w.(interface{ Unwrap() http.ResponseWriter })
		if !ok {
			break
		}
		w = u.Unwrap()
	}
	_, _ = http.MaxBytesReader(w, oneByte{}, 0).Read(make([]byte, 1))
}

type oneByte struct{}

func (oneByte) Read(p []byte) (int, error) { return copy(p, "x"), nil }
func (oneByte) Close() error               { return nil }
