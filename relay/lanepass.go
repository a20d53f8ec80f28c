package relay

import (
	"bytes"
	"io"
)

// pass sends a final response to the client. out is its head as scan or parse have made it, without the end.
func (l *Lane) pass(c *conn, a *laneAnswer, out []byte) error {
	l.Request.Status = a.status
	l.begun = true
	l.Keeper.Answered(l, out)
	l.closing = l.closing || l.Keeper.Closing() || !l.complete.Load() && l.rest() < 0
	if l.Heads {
		l.Request.ResponseHead = string(out)
	}
	if a.framing == byChunks || a.framing == untilClose {
		out = append(out, "Transfer-Encoding: chunked\r\n"...)
	}
	if l.closing {
		out = append(out, "Connection: close\r\n"...)
	}
	out = append(out, "\r\n"...)
	switch a.framing {
	case noBody:
		l.releaseEarly(c, a)
		return l.say(out, 0)
	case byLength:
		return l.passLength(c, a, out)
	}
	return l.passChunks(c, a, out)
}

// releaseEarly gives back the connection of a response that was read, before the client has it and sends its next request.
func (l *Lane) releaseEarly(c *conn, a *laneAnswer) {
	if !l.uploading {
		l.release(c, a)
	}
}

// passLength sends a body of known length, the first bytes together with the head.
func (l *Lane) passLength(c *conn, a *laneAnswer, out []byte) error {
	left := a.length
	n := int(min(left, int64(c.buffered())))
	out = append(out, c.buf[c.r:c.r+n]...)
	c.r += n
	if left -= int64(n); left == 0 {
		l.releaseEarly(c, a)
	}
	if err := l.say(out, n); err != nil || left == 0 {
		return err
	}
	buf := copyBuffers.Get().(*[]byte)
	defer func() { putCopyBuffer(buf) }()
	for full := 0; left > 0; {
		p := (*buf)[:min(left, int64(len(*buf)))]
		n, err := c.read(p)
		if left -= int64(n); left == 0 {
			l.releaseEarly(c, a)
		}
		if n > 0 {
			if err := l.say(p[:n], n); err != nil {
				return err
			}
		}
		if err != nil && left > 0 {
			return unexpected(err)
		}
		if full++; n < len(*buf) {
			full = 0
		}
		if full == 2 {
			buf = largerBuffer(buf)
		}
	}
	return nil
}

// say writes a piece of the response, of which n bytes are of the body.
func (l *Lane) say(p []byte, n int) error {
	if _, err := l.in.nc.Write(p); err != nil {
		return clientError(err)
	}
	l.Request.Sent += int64(n)
	return nil
}

// passChunks sends a body whose length nobody knows, each piece as it comes as one chunk.
func (l *Lane) passChunks(c *conn, a *laneAnswer, out []byte) error {
	f := a.framing
	buf := copyBuffers.Get().(*[]byte)
	defer copyBuffers.Put(buf)
	var k chunks
	ready := c.buffered() > 0
	if f == byChunks {
		ready = k.waiting(c)
	}
	at := copy(*buf, out)
	if !ready || len(out) > len(*buf)/2 {
		if err := l.say(out, 0); err != nil {
			return err
		}
		at = 0
	}
	for {
		// What is in front of the data is moved to it once the digits of its size are known.
		room := (*buf)[at:]
		data := room[chunkRoom : len(room)-tailRoom]
		n, done, err := readPiece(c, &k, f, data)
		if err != nil {
			return err
		}
		msg := (*buf)[:at]
		if n > 0 {
			framed := frameChunk(room, n)
			start := at + chunkRoom + n + 2 - len(framed)
			copy((*buf)[start-at:], (*buf)[:at])
			msg = (*buf)[start-at : start+len(framed)]
		}
		if done && (f == untilClose || bytes.HasPrefix(c.buf[c.r:c.w], lastChunk[3:])) {
			msg = append(msg, lastChunk...) // tailRoom
			if f == byChunks {
				c.r += 2
			}
			l.releaseEarly(c, a)
			return l.say(msg, n)
		}
		if len(msg) > 0 {
			if err := l.say(msg, n); err != nil {
				return err
			}
		}
		if at = 0; done {
			return l.passTail(c, a)
		}
	}
}

// readPiece reads what there is of a body. done says that it is over but for the trailers.
func readPiece(c *conn, k *chunks, f framing, p []byte) (n int, done bool, err error) {
	if f == byChunks {
		return k.read(c, p)
	}
	n, err = c.read(p)
	if err == io.EOF {
		return n, true, nil
	}
	return n, false, err
}

// passTail sends the last chunk and the trailers.
func (l *Lane) passTail(c *conn, a *laneAnswer) error {
	tail, err := readTail(c, l.Pool.maxResponseHeader())
	if err != nil {
		return err
	}
	l.releaseEarly(c, a)
	return l.say(tail, 0)
}

func countLines(b []byte) int { return bytes.Count(b, []byte("\n")) }
