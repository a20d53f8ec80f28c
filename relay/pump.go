package relay

import (
	"io"
	"sync"
)

const (
	// idleBuffer is what a direction holds while nothing comes, where it cannot wait with less.
	idleBuffer = 1 << 10
	// pumpBuffer is what it holds while much comes.
	pumpBuffer = 64 << 10
	// pumpPiece is what it reads of a socket at once: what a tunnel's connection sends as one message, whose header and
	// that of the next one make it a buffer.
	pumpPiece = pumpBuffer - 14
)

var pumpBuffers = sync.Pool{New: func() any { b := make([]byte, pumpBuffer); return &b }}

// pump copies until src ends, which is no error.
func pump(dst io.Writer, src io.Reader) (n int64, readErr, writeErr error) {
	return pumpPieces(dst, piecesOf(src))
}

func pumpPieces(dst io.Writer, r pieces) (n int64, readErr, writeErr error) {
	defer r.release()
	for {
		p, err := r.next()
		if len(p) > 0 {
			m, werr := dst.Write(p)
			n += int64(m)
			if werr != nil {
				return n, nil, werr
			}
		}
		if err == io.EOF {
			return n, nil, nil
		}
		if err != nil {
			return n, err, nil
		}
	}
}

// pieces reads what comes in pieces of its own choice.
type pieces interface {
	// next waits for the next piece, which is valid until the next call; it may come together with an error, as of Read.
	next() ([]byte, error)
	release()
}

func piecesOf(src io.Reader) pieces {
	if s := socketPieces(src); s != nil {
		return s
	}
	return &growing{src: src, buf: make([]byte, idleBuffer)}
}

// growing reads with a small buffer until that is full: most connections are idle most of the time, and there are many.
type growing struct {
	// Static after construction.
	src io.Reader
	buf []byte

	large *[]byte // in the place of buf while much comes
}

func (g *growing) next() ([]byte, error) {
	buf := g.buf
	if g.large != nil {
		buf = *g.large
	}
	n, err := g.src.Read(buf)
	switch {
	case n == len(g.buf) && g.large == nil:
		g.large = pumpBuffers.Get().(*[]byte)
	case n <= len(g.buf)/2 && g.large != nil:
		copy(g.buf, buf[:n])
		g.release()
		buf = g.buf
	}
	return buf[:n], err
}

func (g *growing) release() {
	if g.large != nil {
		pumpBuffers.Put(g.large)
		g.large = nil
	}
}
