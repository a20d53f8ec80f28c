package relay

import (
	"io"
	"net/http"
	"reflect"
	"time"
)

// accept takes over the response that net/http gave, whose body the exchange becomes.
func (x *http2Exchange) accept(res *http.Response) error {
	headErr := fixHead(res, x.req.Method)
	none := noBodyFollows(res)
	x.mu.Lock()
	x.responded, x.accepted = true, true
	x.res = res
	if !none {
		x.raw = res.Body
	}
	aborted, cause := x.aborted, x.cause
	x.mu.Unlock()
	switch {
	case aborted:
		go x.hangUp() // Abort came too early to do it
		return cause
	case headErr != nil:
		return headErr
	}
	res.Request = x.req
	switch {
	case none:
		res.Body = http.NoBody
		x.endReading(io.EOF)
		x.finishSending()
	default:
		if trailersMayFollow(x.req, res) {
			delete(res.Header, "Content-Length")
			res.ContentLength = -1
		}
		res.Body = x
	}
	return nil
}

// trailersMayFollow: in HTTP/2 they may do so behind a body whose length was said, as Go's server says it. To an
// HTTP/1.1 client they pass only without.
func trailersMayFollow(req *http.Request, res *http.Response) bool {
	return len(res.Trailer) > 0 || req.Header["Te"] != nil || isGRPC(mediaType(res.Header))
}

// fixHead holds the response to what HTTP/1.1 allows, since its header may have to be written as such.
func fixHead(res *http.Response, method string) error {
	h := head{header: res.Header}
	n, err := h.contentLength()
	if err != nil {
		return err
	}
	switch {
	case res.StatusCode < 200 || res.StatusCode > 999: // net/http reads any number, and panics when it is to write it
		return malformed("status %d", res.StatusCode)
	case res.StatusCode == http.StatusNoContent:
		delete(res.Header, "Content-Length") // RFC 9110, section 8.6
		res.ContentLength = 0
	case method == http.MethodHead || res.StatusCode == http.StatusNotModified:
		res.ContentLength = n
	}
	return nil
}

// noBodyFollows reports whether the stream ended with the response's head. net/http says so by a body of a type without
// fields, and has another such for one that is missing; only what was sent whole can go on as one piece, and gRPC's
// clients want the answers that have nothing but a head as such.
func noBodyFollows(res *http.Response) bool {
	if reflect.TypeOf(res.Body).Size() != 0 {
		return false
	}
	return res.ContentLength <= 0 || res.StatusCode == http.StatusNotModified || res.Request.Method == http.MethodHead
}

// Read implements io.Reader for the response's body. It says io.EOF only if the whole body came.
func (x *http2Exchange) Read(p []byte) (int, error) {
	x.readMu.Lock()
	defer x.readMu.Unlock()
	if x.ended != nil {
		return 0, x.ended
	}
	if len(p) == 0 {
		return 0, nil
	}
	n, err := x.raw.Read(p)
	x.taken += int64(n)
	if err == nil {
		return n, nil
	}
	if err == io.EOF {
		x.filterTrailers()
	} else {
		err = x.failure(err)
		x.Abort(err)
	}
	x.endReading(err)
	return n, err
}

// waiting reports whether a Read would have something without waiting for the service.
func (x *http2Exchange) waiting() bool {
	if !x.headMayHaveLeft() && !x.catchUp() || x.received == nil || x.received.vague.Load() {
		return false
	}
	x.readMu.Lock()
	defer x.readMu.Unlock()
	return x.ended != nil || x.received.bytes.Load() > x.taken || x.received.ended.Load()
}

// catchUp waits for the goroutine that has sent the head, when a response is faster than it. It is bounded, since a
// hostile service answers what it has not got.
func (x *http2Exchange) catchUp() bool {
	patience := time.NewTimer(finishing)
	defer patience.Stop()
	select {
	case <-x.headLeft:
		return true
	case <-x.done:
	case <-patience.C:
	}
	return false
}

func (x *http2Exchange) filterTrailers() {
	for name := range x.res.Trailer {
		if noTrailer(name) {
			delete(x.res.Trailer, name)
		}
	}
}

// Close ends the exchange. If the response was not read to its end, or the request's body was not, the stream is reset.
func (x *http2Exchange) Close() error {
	x.mu.Lock()
	reading := x.reading
	x.mu.Unlock()
	if !reading {
		x.finishSending()
		return nil
	}
	x.Abort(ErrBodyClosed) // also wakes a Read, which holds readMu
	x.readMu.Lock()
	defer x.readMu.Unlock()
	x.endReading(ErrBodyClosed)
	return nil
}

// endReading says that the response is in, or was given up. It wants readMu, or that nobody else has the exchange yet.
func (x *http2Exchange) endReading(ended error) {
	if x.ended != nil {
		return
	}
	x.ended = ended
	x.mu.Lock()
	x.reading = false
	over := !x.sending
	x.mu.Unlock()
	if over {
		x.unwatch()
	}
}

// finishSending gives the rest of the request a moment to leave, when the response is in, if it is all there or the
// response has no body to say by its Close that nobody waits for the request. Else it ends at once.
func (x *http2Exchange) finishSending() {
	x.mu.Lock()
	defer x.mu.Unlock()
	switch {
	case !x.sending || x.finishing != nil:
	case x.raw == nil || x.body == nil || x.body.complete.Load():
		x.finishing = time.AfterFunc(finishing, func() { x.Abort(ErrBodyClosed) })
	default:
		go x.Abort(ErrBodyClosed)
	}
}
