package relay

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"sync/atomic"
)

var errBodyGivenUp = errors.New("request body was given up")

// http2Body is a request's body as net/http reads it. What the caller gave is read by a goroutine of its own: net/http
// resets a stream only when nobody reads the body any more, and the body of a request that came over a network may wait
// for its client for hours.
type http2Body struct {
	// Static after construction.
	x   *http2Exchange
	out *http.Request // gets the trailers; set before the first Read

	complete atomic.Bool // the whole body was read

	// Guarded by mu.
	mu      sync.Mutex
	moved   sync.Cond // data was put or taken, or the body given up
	started bool
	pumping bool
	givenUp bool
	pooled  *[]byte
	data    []byte // read and not yet taken
	err     error  // behind data
}

func newHTTP2Body(x *http2Exchange) *http2Body {
	b := &http2Body{x: x}
	b.moved.L = &b.mu
	return b
}

// untouched reports whether nothing of the body was read, nor will be.
func (b *http2Body) untouched() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return !b.started
}

// Read implements io.Reader, for net/http's sender.
func (b *http2Body) Read(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if !b.started {
		b.mu.Unlock()
		b.x.bodyWanted()
		b.mu.Lock()
	}
	if !b.started && !b.givenUp {
		b.started, b.pumping = true, true
		b.pooled = copyBuffers.Get().(*[]byte)
		go b.pump(*b.pooled)
	}
	for len(b.data) == 0 && b.err == nil && !b.givenUp {
		b.moved.Wait()
	}
	if b.givenUp {
		return 0, errBodyGivenUp
	}
	n := copy(p, b.data)
	b.data = b.data[n:]
	if len(b.data) > 0 {
		return n, nil
	}
	b.moved.Broadcast()
	if b.err == io.EOF && n > 0 && len(b.out.Trailer) > 0 {
		return n, nil // net/http would end the stream with the data
	}
	if b.err != nil {
		b.free()
	}
	return n, b.err
}

// Close implements io.Closer, for net/http: it wants no more of the body.
func (b *http2Body) Close() error {
	b.giveUp()
	return nil
}

func (b *http2Body) giveUp() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.givenUp = true
	b.data = nil
	b.free()
	b.moved.Broadcast()
}

// free gives the buffer back once nobody uses it. It wants mu.
func (b *http2Body) free() {
	if b.pooled != nil && !b.pumping && len(b.data) == 0 {
		copyBuffers.Put(b.pooled)
		b.pooled = nil
	}
}

// pump reads the caller's body, a buffer ahead of the sender at most. It ends when the body does, or when it is given
// up and what it waits for comes.
func (b *http2Body) pump(buf []byte) {
	left := bodyLength(b.x.req)
	for more := true; more; {
		n, err := b.read(buf, left)
		if left > 0 {
			left -= int64(n)
		}
		more = b.put(buf[:n], err)
	}
	_ = b.x.req.Body.Close()
}

// read reads some of the body, of which left bytes are to come if that is not negative. A body that fails, or that is
// not as long as it was said to be, ends the exchange.
func (b *http2Body) read(p []byte, left int64) (int, error) {
	if left >= 0 {
		p = p[:min(int64(len(p)), left)]
	}
	for range 100 {
		n, err := b.x.req.Body.Read(p)
		switch {
		case int64(n) == left, err == io.EOF && left < 0:
			return n, io.EOF
		case err != nil:
			return n, b.fail(err)
		case n > 0:
			return n, nil
		}
	}
	return 0, b.fail(io.ErrNoProgress)
}

func (b *http2Body) fail(err error) error {
	err = &ClientError{Op: "read request body", Err: unexpected(err)}
	b.x.Abort(err)
	return err
}

// put hands over what was read, waits until it was taken, and tells whether to go on.
func (b *http2Body) put(data []byte, err error) (more bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err == io.EOF && !b.givenUp {
		b.complete.Store(true)
		if b.out.ContentLength < 0 {
			b.out.Trailer = outTrailer(b.x.req.Trailer)
		}
	}
	if !b.givenUp {
		b.data, b.err = data, err
		b.moved.Broadcast()
	}
	for err == nil && len(b.data) > 0 { // giving up empties it
		b.moved.Wait()
	}
	if err == nil && !b.givenUp {
		return true
	}
	b.pumping = false
	b.free()
	return false
}
