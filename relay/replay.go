package relay

import (
	"io"
	"net/http"
	"sync"
	"time"
)

// Sizes of the buffers for bodies that are kept.
const (
	smallBody = 4 << 10
	largeBody = 64 << 10
)

var (
	smallBodies = sync.Pool{New: func() any { b := make([]byte, 0, smallBody); return &b }}
	largeBodies = sync.Pool{New: func() any { b := make([]byte, 0, largeBody); return &b }}
)

// bodyReader is the body for one attempt.
type bodyReader struct {
	b   *Body
	out *http.Request
	off int64 // guarded by b.mu
}

// Close implements io.Closer. The client's body is not closed: another attempt may want it.
func (r *bodyReader) Close() error { return nil }

// Read gives what was kept, then what the client sends.
func (r *bodyReader) Read(p []byte) (int, error) {
	if n, err := r.kept(p); n > 0 || err != nil {
		return n, err
	}
	b := r.b
	b.readMu.Lock()
	defer b.readMu.Unlock()
	if n, err := r.kept(p); n > 0 || err != nil { // by a reader that had been waiting before us
		return n, err
	}
	if b.finished {
		return 0, errBodyTaken
	}
	b.arm()
	b.begin()
	n, err := b.req.Body.Read(p)
	return r.record(p[:n], err)
}

// kept reads from the log; it returns 0 and nil if the client has to be read.
func (r *bodyReader) kept(p []byte) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.current != r {
		return 0, errBodyTaken
	}
	n := copy(p, b.log[min(r.off-b.base, int64(len(b.log))):])
	b.reads++
	r.off += int64(n)
	b.trim()
	return n, r.atEnd()
}

// begin takes note that a reader waits for the client.
func (b *Body) begin() {
	b.mu.Lock()
	b.reads++
	b.waiting = true
	b.mu.Unlock()
}

// record takes note of what was read from the client.
func (r *bodyReader) record(data []byte, err error) (int, error) {
	b := r.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.reads++
	b.waiting = false
	b.pos += int64(len(data))
	if b.end = err; err != nil && err != io.EOF && b.taking && !b.late() {
		b.end = errBodyTaken
	}
	if b.current != r {
		b.keep(data) // for the one that came after us, which has no other way to it
		return 0, errBodyTaken
	}
	if b.keeping(len(data)) && b.reserve(len(data)) {
		b.keep(data)
	} else {
		b.free()
		b.base = b.pos
	}
	r.off = b.pos
	return len(data), r.atEnd()
}

// keeping reports whether n more bytes go into the log. It wants mu.
func (b *Body) keeping(n int) bool {
	return b.base == 0 && !b.released && int64(b.opt.Keep) >= max(b.req.ContentLength, int64(len(b.log)+n))
}

// atEnd returns how the body ended if r is there, and hands over the trailers. It wants mu.
func (r *bodyReader) atEnd() error {
	if r.off < r.b.pos || r.b.end == nil {
		return nil
	}
	if r.b.end == io.EOF {
		r.out.Trailer = r.b.req.Trailer // only complete now, and perhaps another map
	}
	return r.b.end
}

// arm sets the deadline for the client's next bytes, at most eight times in its duration. net/http clears it at the
// body's end. It wants readMu.
func (b *Body) arm() {
	if b.opt.Progress <= 0 || b.req.ContentLength < 0 {
		return
	}
	slack := b.opt.Progress / 8
	if now := time.Now(); now.Sub(b.armed) > slack {
		b.armed = now
		_ = http.NewResponseController(b.w).SetReadDeadline(now.Add(b.opt.Progress + slack))
	}
}

// late reports whether the client missed its deadline. It wants readMu.
func (b *Body) late() bool {
	return b.opt.Progress > 0 && !b.armed.IsZero() && time.Since(b.armed) > b.opt.Progress
}

// trim drops the log once nobody can ask for it. It wants mu.
func (b *Body) trim() {
	if b.released && len(b.log) > 0 && (b.current == nil || b.current.off == b.pos) {
		b.free()
		b.base = b.pos
	}
}

// reserve counts the memory that n more bytes will take, or says that there is none for them. It wants mu.
func (b *Body) reserve(n int) bool {
	need := len(b.log) + n
	if b.opt.Buffers == nil || need <= cap(b.log) {
		return true
	}
	size := bufferSize(b.wanted(need)) - b.reserved
	if !b.opt.Buffers.Reserve(size) {
		return false
	}
	b.reserved += size
	return true
}

// wanted is how large a log is made that is to hold need bytes.
func (b *Body) wanted(need int) int { return max(need, int(min(b.req.ContentLength, largeBody))) }

// keep appends to the log. It wants mu.
func (b *Body) keep(data []byte) {
	if need := len(b.log) + len(data); need > cap(b.log) {
		old, oldPooled := b.log, b.pooled
		b.pooled = bodyBuffer(b.wanted(need))
		b.log = append((*b.pooled)[:0], old...)
		putBodyBuffer(oldPooled)
	}
	b.log = append(b.log, data...)
}

// free wants mu.
func (b *Body) free() {
	putBodyBuffer(b.pooled)
	b.log, b.pooled = nil, nil
	if b.reserved > 0 {
		b.opt.Buffers.Release(b.reserved)
		b.reserved = 0
	}
}

// bufferSize is how large a buffer for size bytes is.
func bufferSize(size int) int {
	switch {
	case size <= smallBody:
		return smallBody
	case size <= largeBody:
		return largeBody
	}
	return size
}

func bodyBuffer(size int) *[]byte {
	switch {
	case size <= smallBody:
		return smallBodies.Get().(*[]byte)
	case size <= largeBody:
		return largeBodies.Get().(*[]byte)
	}
	b := make([]byte, 0, size)
	return &b
}

func putBodyBuffer(b *[]byte) {
	switch {
	case b == nil:
	case cap(*b) == smallBody:
		smallBodies.Put(b)
	case cap(*b) == largeBody:
		largeBodies.Put(b)
	}
}
