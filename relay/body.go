package relay

import (
	"bytes"
	"io"
	"net/http"
	"time"
)

// finishing is how long the last bytes of a request may take to leave when the whole response is in already.
const finishing = time.Second

// Read implements io.Reader for the response's body. It says io.EOF only if the whole body came.
func (x *exchange) Read(p []byte) (n int, err error) {
	x.readMu.Lock()
	defer x.readMu.Unlock()
	if x.ended != nil {
		return 0, x.ended
	}
	if len(p) == 0 {
		return 0, nil
	}
	switch x.head.framing {
	case byLength:
		n, err = x.readLength(p)
	case byChunks:
		n, err = x.readChunks(p)
	default:
		n, err = x.c.read(p)
	}
	if err == nil {
		return n, nil
	}
	if err != io.EOF {
		err = x.failure(err)
		x.Abort(err)
	}
	x.endReading(err)
	return n, err
}

func (x *exchange) readLength(p []byte) (int, error) {
	n, err := x.c.read(p[:min(int64(len(p)), x.left)])
	x.left -= int64(n)
	if x.left == 0 {
		return n, io.EOF
	}
	return n, unexpected(err)
}

// readChunks keeps the end for the next call if it has something now and the trailers are still to come.
func (x *exchange) readChunks(p []byte) (n int, err error) {
	if x.left != 0 { // the last chunk was not read yet
		n, last, err := x.chunks.read(x.c, p)
		if err != nil || !last {
			return n, err
		}
		x.left = 0
		if n > 0 && !x.trailersBuffered() {
			return n, nil
		}
		return n, x.readTrailers()
	}
	return 0, x.readTrailers()
}

func (x *exchange) trailersBuffered() bool {
	b := x.c.buf[x.c.r:x.c.w]
	return len(b) >= 2 && b[0] == '\r' && b[1] == '\n' || headLength(b, 0) > 0
}

func (x *exchange) readTrailers() error {
	limit := x.p.maxResponseHeader()
	raw, err := x.c.trailers(limit)
	switch {
	case err == errTooLong:
		return malformed("trailers over %d bytes", limit)
	case err != nil:
		return err
	case raw == nil:
		return io.EOF
	}
	fields, err := parseFields(string(raw), bytes.Count(raw, []byte("\n"))-1)
	if err != nil {
		return err
	}
	for name, values := range fields {
		if noTrailer(name) {
			continue
		}
		if x.res.Trailer == nil {
			x.res.Trailer = make(http.Header)
		}
		x.res.Trailer[name] = values
	}
	return io.EOF
}

// Close ends the exchange. If the response was not read to its end the connection is given up at once.
func (x *exchange) Close() error {
	x.mu.Lock()
	reading, sending := x.reading, x.sending
	x.mu.Unlock()
	if reading {
		x.Abort(ErrBodyClosed) // also wakes a Read, which holds readMu
		x.readMu.Lock()
		defer x.readMu.Unlock()
		x.endReading(ErrBodyClosed)
		return nil
	}
	if sending {
		x.finishSending()
	}
	return nil
}

// finishSending gives the rest of the request a moment to leave if it is all there, and none if it is not: the
// response has come, so nobody waits for it.
func (x *exchange) finishSending() {
	if !x.out.complete.Load() {
		x.Abort(ErrBodyClosed)
		return
	}
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.sending {
		x.hurried = true
		_ = x.c.nc.SetWriteDeadline(time.Now().Add(finishing))
	}
}

// waiting reports whether a Read would have something without waiting for the service.
func (x *exchange) waiting() bool {
	x.readMu.Lock()
	defer x.readMu.Unlock()
	switch {
	case x.ended != nil:
		return true
	case x.head.framing == byLength && x.left == 0:
		return true
	case x.head.framing != byChunks:
		return x.c.buffered() > 0
	case x.left == 0:
		return x.trailersBuffered()
	}
	return x.chunks.waiting(x.c)
}

// writeBuffered writes a body that was read from the connection as a whole already, without a copy. ok is false if the
// body is of another kind; nothing was done then.
func (x *exchange) writeBuffered(w io.Writer) (n int, ok bool, err error) {
	x.readMu.Lock()
	defer x.readMu.Unlock()
	if x.ended != nil || x.head.framing != byLength || int64(x.c.buffered()) < x.left {
		return 0, false, nil
	}
	n, err = w.Write(x.c.buf[x.c.r : x.c.r+int(x.left)])
	x.c.r += int(x.left)
	x.left = 0
	x.endReading(io.EOF)
	return n, true, err
}
