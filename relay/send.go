package relay

import (
	"io"
	"net/http"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

const (
	// joinWait is how long the head of a request waits for the first bytes of a body of known length, to leave together
	// with them. Most small bodies are there already; a client that thinks first must not hold back its request.
	joinWait = 5 * time.Millisecond
	// continueWait is how long a body waits for 100 Continue from a service that says nothing.
	continueWait = time.Second
	// chunkRoom is for a chunk's size in front of its data: up to four digits and CR LF.
	chunkRoom = 6
	// tailRoom is for what follows the data of a last chunk.
	tailRoom = len("\r\n0\r\n\r\n")
)

// sender is the state of an exchange's request body.
type sender struct {
	complete atomic.Bool // the whole body was read
	unasked  atomic.Bool // the service was silent, and the body is read without its 100

	// go100 tells a body that waits for 100 Continue whether to go on. nil unless the request expects it. Static after
	// construction.
	go100 chan bool

	// Guarded by mu.
	mu      sync.Mutex
	head    []byte // what waits to leave with the body's first bytes
	headOut bool
}

func (s *sender) proceed() { s.answer(true) }
func (s *sender) halt()    { s.answer(false) }

// answer never blocks; the first one counts.
func (s *sender) answer(ok bool) {
	select {
	case s.go100 <- ok:
	default:
	}
}

// send writes the request. It returns when it is out, unless there is a body of which not all is there: then a
// goroutine, which ends with the exchange, writes the rest.
func (x *exchange) send() {
	if !hasBody(x.req) {
		x.sendHead()
		return
	}
	buf := copyBuffers.Get().(*[]byte)
	head, err := appendHead((*buf)[:0], x.req)
	if err != nil {
		x.Abort(err)
		x.endSending(buf)
		return
	}
	length := bodyLength(x.req)
	room := int64(cap(*buf) - len(head))
	switch {
	case x.out.go100 != nil || length < 0 || room < readBuffer:
		if !x.write(head) {
			x.endSending(buf)
			return
		}
		go x.sendBody(buf, length)
	case length <= room && x.req.GetBody != nil:
		x.sendJoined(buf, head, length)
	default:
		x.out.head = head
		go x.sendJoined(buf, head, length)
	}
}

// sendHead sends a request without a body.
func (x *exchange) sendHead() {
	buf := readBuffers.Get().(*[]byte)
	defer readBuffers.Put(buf)
	head, err := appendHead((*buf)[:0], x.req)
	if err != nil {
		x.Abort(err)
	} else {
		x.write(head)
	}
	x.endSending(nil)
}

// write writes a part of the request and reports whether that worked. A failure is kept, but does not end the
// exchange: a service may have answered before it hung up.
func (x *exchange) write(b []byte) bool {
	x.writing.Lock()
	defer x.writing.Unlock()
	n, err := x.c.nc.Write(b)
	x.mu.Lock()
	defer x.mu.Unlock()
	x.wrote = x.wrote || n > 0
	if err != nil {
		x.writeErr, x.unfit = err, true
	}
	return err == nil
}

// sendJoined sends a body of known length whose first bytes leave together with the head, if they come soon. If all
// fits into the buffer that is one write.
func (x *exchange) sendJoined(buf *[]byte, head []byte, length int64) {
	defer x.endSending(buf)
	room := (*buf)[len(head):cap(*buf)]
	var late *time.Timer
	if x.out.head != nil {
		late = time.AfterFunc(joinWait, x.sendLateHead)
	}
	n, err := x.readBody(room[:min(int64(len(room)), length)], length)
	if late != nil {
		late.Stop()
	}
	if err != nil {
		x.Abort(err)
	}
	if x.sendFirst((*buf)[:len(head)+n], len(head), err == nil) && int64(n) < length {
		x.sendRest((*buf)[:cap(*buf)], length-int64(n))
	}
}

// sendFirst writes a head with the body's first bytes, without the head if that is out. If not ok nothing is written.
// The timer for a late head finds it gone in any case, and leaves the buffer alone.
func (x *exchange) sendFirst(first []byte, headLen int, ok bool) bool {
	x.out.mu.Lock()
	defer x.out.mu.Unlock()
	if x.out.headOut {
		first = first[headLen:]
	}
	x.out.headOut = true
	return ok && x.write(first)
}

// sendLateHead sends the head alone: the body keeps it waiting.
func (x *exchange) sendLateHead() {
	x.out.mu.Lock()
	defer x.out.mu.Unlock()
	if !x.out.headOut {
		x.out.headOut = true
		x.write(x.out.head)
	}
}

// sendBody sends a body after its head, once the service wants it.
func (x *exchange) sendBody(buf *[]byte, length int64) {
	defer x.endSending(buf)
	if x.out.go100 != nil && !x.wanted() {
		x.setUnfit()
		return
	}
	if length < 0 {
		x.sendChunks((*buf)[:cap(*buf)])
	} else {
		x.sendRest((*buf)[:cap(*buf)], length)
	}
}

// wanted waits for the service to say whether it wants the body.
func (x *exchange) wanted() bool {
	patience := time.NewTimer(continueWait)
	defer patience.Stop()
	select {
	case ok := <-x.out.go100:
		return ok
	case <-patience.C:
		x.out.unasked.Store(true)
		return true
	}
}

// sendRest sends what is left of a body of known length.
func (x *exchange) sendRest(buf []byte, left int64) {
	for left > 0 {
		n, err := x.readBody(buf[:min(int64(len(buf)), left)], left)
		if err != nil {
			x.Abort(err)
			return
		}
		if !x.write(buf[:n]) {
			return
		}
		left -= int64(n)
	}
}

// readBody reads at least a byte of a body of which left bytes are to come.
func (x *exchange) readBody(p []byte, left int64) (int, error) {
	for range 100 {
		n, err := x.req.Body.Read(p)
		if int64(n) == left {
			x.out.complete.Store(true)
			return n, nil
		}
		if err != nil {
			return n, &ClientError{Op: "read request body", Err: unexpected(err)}
		}
		if n > 0 {
			return n, nil
		}
	}
	return 0, &ClientError{Op: "read request body", Err: io.ErrNoProgress}
}

// sendChunks sends a body of unknown length, each read as one chunk and one write; the end joins the last one if it
// is known by then.
func (x *exchange) sendChunks(buf []byte) {
	data := buf[chunkRoom : len(buf)-tailRoom]
	for idle := 0; idle < 100; idle++ {
		n, err := x.req.Body.Read(data)
		if err != nil && err != io.EOF {
			x.Abort(&ClientError{Op: "read request body", Err: err})
			return
		}
		msg := buf[chunkRoom:chunkRoom]
		if n > 0 {
			msg = frameChunk(buf, n)
			idle = 0
		}
		if err == io.EOF {
			x.out.complete.Store(true)
			msg = appendTrailers(append(msg, "0\r\n"...), x.req.Trailer)
		}
		if len(msg) > 0 && !x.write(msg) || err == io.EOF {
			return
		}
	}
	x.Abort(&ClientError{Op: "read request body", Err: io.ErrNoProgress})
}

// frameChunk puts the size in front of n bytes at buf[chunkRoom:] and a line end behind them.
func frameChunk(buf []byte, n int) []byte {
	var digits [chunkRoom]byte
	size := append(strconv.AppendInt(digits[:0], int64(n), 16), "\r\n"...)
	start := chunkRoom - len(size)
	copy(buf[start:], size)
	return append(buf[start:chunkRoom+n], "\r\n"...)
}

// appendTrailers ends a chunked message. A trailer that must not be one is left out.
func appendTrailers(b []byte, trailer http.Header) []byte {
	if len(trailer) > 0 {
		// A bad value was refused where it was read; if it was not, its field is left out.
		for name, values := range trailer {
			if withField, err := appendFields(b, http.Header{name: values}, noTrailer); err == nil {
				b = withField
			}
		}
	}
	return append(b, "\r\n"...)
}

// endSending says that the request is out, or was given up. buf goes back to its pool.
func (x *exchange) endSending(buf *[]byte) {
	if buf != nil {
		copyBuffers.Put(buf)
	}
	if x.req.Body != nil {
		_ = x.req.Body.Close()
	}
	x.mu.Lock()
	err := x.writeErr
	x.mu.Unlock()
	x.tellWroteRequest(err)
	x.release(&x.sending)
}

// waitSent returns when the request is out.
func (x *exchange) waitSent() {
	x.mu.Lock()
	if !x.sending {
		x.mu.Unlock()
		return
	}
	sent := make(chan struct{})
	x.sent = sent
	x.mu.Unlock()
	<-sent
}
