package relay

import (
	"bytes"
	"errors"
	"io"
)

const (
	// maxChunkLine bounds a chunk's size with its extensions.
	maxChunkLine = 1 << 10
	// maxChunkWaste bounds what chunk lines may cost above a fair share of their data: one byte a chunk, with long
	// extensions, would otherwise keep a processor busy for next to nothing.
	maxChunkWaste = 16 << 10
)

var errTooLong = errors.New("too long")

// chunks reads a chunked body (RFC 9112, section 7.1). The zero value is at its start.
type chunks struct {
	left  int64 // of this chunk
	inner bool  // the CR LF behind a chunk's data is still to come
	waste int64
}

// read fills p as far as it can without waiting, once it has anything; it waits for the first byte. done says that the
// last chunk was read; the trailers follow.
func (k *chunks) read(c *conn, p []byte) (n int, done bool, err error) {
	for n < len(p) {
		if n > 0 && !k.waiting(c) {
			break
		}
		if k.left == 0 {
			if err := k.next(c); err != nil {
				return n, false, err
			}
			if k.left == 0 {
				return n, true, nil
			}
		}
		m, err := c.read(p[n:min(int64(len(p)), int64(n)+k.left)])
		n += m
		k.left -= int64(m)
		k.inner = k.inner || k.left == 0
		if err != nil {
			return n, false, unexpected(err)
		}
	}
	return n, false, nil
}

// waiting reports whether there is something to go on with: data of this chunk, or a size with two bytes behind it, which
// are data or the line end that follows a last chunk.
func (k *chunks) waiting(c *conn) bool {
	b := c.buf[c.r:c.w]
	if k.left > 0 {
		return len(b) > 0
	}
	if k.inner {
		b = b[min(len(b), 2):]
	}
	return bytes.IndexByte(b, '\n')+2 < len(b) && bytes.IndexByte(b, '\n') >= 0
}

// next reads the line that a chunk starts with, and before it the end of the last chunk.
func (k *chunks) next(c *conn) error {
	if k.inner {
		line, err := c.line(maxChunkLine)
		if err != nil {
			return err
		}
		if len(line) != 0 {
			return malformed("chunk longer than its size")
		}
		k.inner = false
	}
	line, err := c.line(maxChunkLine)
	if err != nil {
		return err
	}
	if k.left, err = chunkSize(line); err != nil {
		return err
	}
	k.waste = max(0, k.waste+int64(len(line))-16-2*k.left)
	if k.waste > maxChunkWaste {
		return malformed("chunks with more overhead than data")
	}
	return nil
}

// line returns the next line without its CR LF, which must be both. It is valid until the next read.
func (c *conn) line(limit int) ([]byte, error) {
	seen := 0
	for {
		b := c.buf[c.r:c.w]
		if i := bytes.IndexByte(b[seen:], '\n'); i >= 0 {
			end := seen + i
			if end == 0 || b[end-1] != '\r' || end-1 > limit {
				return nil, malformed("line %.40q in a chunked body", b[:end])
			}
			c.r += end + 1
			return b[:end-1], nil
		}
		if seen = len(b); seen > limit {
			return nil, malformed("long line in a chunked body")
		}
		if err := c.fill(readBuffer); err != nil {
			return nil, unexpected(err)
		}
	}
}

// chunkSize takes up to 15 hexadecimal digits and then nothing, or an extension, which is ignored.
func chunkSize(line []byte) (n int64, err error) {
	digits, ext, hasExt := bytes.Cut(line, []byte(";"))
	if hasExt {
		digits = bytes.TrimRight(digits, " \t")
	}
	if len(digits) == 0 || len(digits) > 15 || !validValue(string(ext)) {
		return 0, malformed("chunk size %.40q", line)
	}
	for _, c := range digits {
		switch {
		case '0' <= c && c <= '9':
			c -= '0'
		case 'a' <= c && c <= 'f':
			c -= 'a' - 10
		case 'A' <= c && c <= 'F':
			c -= 'A' - 10
		default:
			return 0, malformed("chunk size %.40q", line)
		}
		n = n<<4 | int64(c)
	}
	return n, nil
}

// trailers reads what follows the last chunk, up to the empty line.
func (c *conn) trailers(limit int) (raw []byte, err error) {
	for c.buffered() < 2 {
		if err := c.fill(limit); err != nil {
			return nil, unexpected(err)
		}
	}
	if b := c.buf[c.r:]; b[0] == '\r' && b[1] == '\n' {
		c.r += 2
		return nil, nil
	}
	raw, err = c.head(limit)
	if err == nil && bytes.Count(raw, []byte("\n")) != bytes.Count(raw, []byte("\r\n")) {
		err = malformed("line end in trailers")
	}
	return raw, unexpected(err)
}

// unexpected: the end of a connection is not the end of a body.
func unexpected(err error) error {
	if err == io.EOF {
		return io.ErrUnexpectedEOF
	}
	return err
}
