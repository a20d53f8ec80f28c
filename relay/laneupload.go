package relay

import (
	"io"
	"time"
)

// startUpload has the rest of the request's body sent, and kept if it may be.
func (l *Lane) startUpload(c *conn) {
	if n := int(l.Request.Length); !l.moved && n > 0 && n <= l.Keep {
		l.keep(bufferSize(n))
	}
	l.uploading, l.moved = true, true
	l.stopping.Store(false)
	go l.upload(c)
}

// keep makes room for a body, if there is memory for that.
func (l *Lane) keep(size int) {
	if l.Buffers != nil {
		if !l.Buffers.Reserve(size) {
			return
		}
		l.reserved = size
	}
	l.log = bodyBuffer(size)
	*l.log = (*l.log)[:0]
}

// unkeep gives the room back.
func (l *Lane) unkeep() {
	putBodyBuffer(l.log)
	if l.reserved > 0 {
		l.Buffers.Release(l.reserved)
	}
	l.log, l.reserved = nil, 0
}

// upload sends the rest of the request's body. It owns l.in while it runs.
func (l *Lane) upload(c *conn) {
	defer func() { l.uploaded <- struct{}{} }()
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	var err error
	if l.Request.Length < 0 {
		err = l.uploadChunks(c, *buf)
	} else {
		err = l.uploadLength(c, *buf)
	}
	if err != nil && !l.stopping.Load() {
		l.Abort(&ClientError{Op: "read request body", Err: unexpected(err)})
	}
}

func (l *Lane) uploadLength(c *conn, buf []byte) error {
	for left := l.Request.Length - l.pos.Load(); left > 0; {
		n, err := l.in.read(buf[:min(int64(len(buf)), left)])
		left -= int64(n)
		l.pos.Add(int64(n))
		if l.log != nil {
			*l.log = append(*l.log, buf[:n]...)
		}
		if left == 0 {
			l.complete.Store(true)
		} else if err != nil {
			return err
		}
		if !l.send(c, buf[:n]) {
			return nil
		}
	}
	return nil
}

// uploadChunks sends each piece that comes as a chunk.
func (l *Lane) uploadChunks(c *conn, buf []byte) error {
	l.chunks = chunks{}
	data := buf[chunkRoom : len(buf)-tailRoom]
	for {
		n, done, err := l.chunks.read(&l.in, data)
		l.pos.Add(int64(n))
		if err != nil {
			return err
		}
		if n > 0 && !l.send(c, frameChunk(buf, n)) {
			return nil
		}
		if !done {
			continue
		}
		tail, err := readTail(&l.in, maxLaneHead)
		if err != nil {
			return err
		}
		l.complete.Store(true)
		l.send(c, tail)
		return nil
	}
}

// send writes a piece of the request.
func (l *Lane) send(c *conn, p []byte) bool {
	if _, err := c.nc.Write(p); err != nil {
		l.noteWrite(err)
		return false
	}
	return true
}

// readTail reads what follows the last chunk, and returns it with that as it is sent on.
func readTail(c *conn, limit int) ([]byte, error) {
	raw, err := c.trailers(limit)
	switch {
	case err == errTooLong:
		return nil, malformed("trailers over %d bytes", limit)
	case err != nil:
		return nil, err
	case raw == nil:
		return lastChunk, nil
	}
	fields, err := parseFields(string(raw), countLines(raw)-1)
	if err != nil {
		return nil, err
	}
	return appendTrailers([]byte("0\r\n"), fields), nil
}

var lastChunk = []byte("0\r\n\r\n")

// awaitUpload lets the last bytes of a request leave whose response has come.
func (l *Lane) awaitUpload(c *conn) {
	select {
	case <-l.uploaded:
		l.uploading = false
		return
	default:
	}
	_ = c.nc.SetWriteDeadline(time.Now().Add(finishing))
	<-l.uploaded
	l.uploading = false
	if c.nc.SetWriteDeadline(time.Time{}) != nil {
		l.noteWrite(io.ErrClosedPipe)
	}
}

// endUpload ends an upload whose service's connection has ended; with linger it may read on for a while.
func (l *Lane) endUpload(linger bool) {
	if !l.uploading {
		return
	}
	l.stopping.Store(true)
	until := longAgo
	if linger {
		until = time.Now().Add(lingering)
	}
	_ = l.in.nc.SetReadDeadline(until)
	<-l.uploaded
	l.uploading = false
	_ = l.in.nc.SetReadDeadline(time.Time{})
}

// finish says what becomes of the client's connection behind a whole response.
func (l *Lane) finish() laneEnd {
	l.endUpload(!l.closing)
	switch {
	case l.Cause() != nil, l.complete.Load() && l.closing:
		return laneClose
	case l.complete.Load():
		return laneGoOn
	case !l.closing && l.drain():
		return laneGoOn
	}
	return laneLinger
}

// rest is how much of the body is to come, if that is worth reading for the sake of the connection; otherwise -1.
func (l *Lane) rest() int64 {
	if rest := l.Request.Length - l.pos.Load(); l.Request.Length >= 0 && rest <= drained {
		return rest
	}
	return -1
}

// drain reads the rest of a body that nobody wants, and reports whether it came.
func (l *Lane) drain() bool {
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	_ = l.in.nc.SetReadDeadline(time.Now().Add(lingering))
	for rest := l.rest(); rest > 0; rest = l.rest() {
		n, err := l.in.read((*buf)[:min(rest, int64(len(*buf)))])
		l.pos.Add(int64(n))
		if err != nil && n == 0 {
			return false
		}
	}
	l.Request.Received = l.pos.Load()
	return l.rest() == 0 && l.in.nc.SetReadDeadline(time.Time{}) == nil
}

// linger lets a client send on for a moment: a connection that ends with bytes unread is reset, and the response lost.
func (l *Lane) linger() {
	if closeWrite(l.in.nc) != nil {
		return
	}
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	_ = l.in.nc.SetReadDeadline(time.Now().Add(lingering))
	for {
		if _, err := l.in.nc.Read(*buf); err != nil {
			return
		}
	}
}
