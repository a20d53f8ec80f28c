package tunnel

import (
	"errors"
	"fmt"
	"io"
	"sync"
)

const (
	// smallRead is what an idle mux reads with, and the most that a read of a
	// body takes of what follows it.
	smallRead = 512
	// bigRead is what it reads with when small frames come in bulk.
	bigRead = 16 << 10
)

var bigReads = sync.Pool{New: func() any { return new([bigRead]byte) }}

// A muxReader cuts frames from the connection. Headers and small bodies come
// through its buffer; large bodies go straight to where they are wanted, and
// the header behind such a body is read along with it.
type muxReader struct {
	c     io.Reader
	buf   []byte // small or big
	r, w  int    // buf[r:w] has arrived
	more  bool   // the last read filled the buffer: there is probably more
	big   *[bigRead]byte
	small [smallRead]byte
}

func (in *muxReader) init(c io.Reader) { in.c, in.buf = c, in.small[:] }

// frame reads the next header. Its error is io.EOF only between frames.
func (in *muxReader) frame() (muxFrame, error) {
	for in.w-in.r < muxHeader {
		if err := in.fill(); err != nil {
			return muxFrame{}, err
		}
	}
	f := decodeMuxFrame(in.buf[in.r:])
	in.r += muxHeader
	return f, nil
}

func (in *muxReader) buffered() []byte { return in.buf[in.r:in.w] }

func (in *muxReader) skip(n int) { in.r += n }

// fill reads more, when less than a header is there.
func (in *muxReader) fill() error {
	rest := in.buffered()
	switch {
	case in.more && in.big == nil:
		in.big = bigReads.Get().(*[bigRead]byte)
		in.buf = in.big[:]
		in.r, in.w = 0, copy(in.buf, rest)
	case !in.more && in.big != nil:
		in.r, in.w = 0, copy(in.small[:], rest)
		in.release()
	case in.r > 0:
		in.r, in.w = 0, copy(in.buf, rest)
	}
	n, err := in.c.Read(in.buf[in.w:])
	in.w += n
	in.more = in.w == len(in.buf)
	if n > 0 {
		return nil // an error will come again
	}
	return readError(err)
}

// release gives the big buffer back; the small one takes its place.
func (in *muxReader) release() {
	if in.big != nil {
		bigReads.Put(in.big)
		in.big, in.buf = nil, in.small[:]
	}
}

// readInto reads up to n bytes into the start of p. It uses what p has behind
// them to read a little more, which it keeps. Nothing must be buffered.
func (in *muxReader) readInto(p []byte, n int) (int, error) {
	k, err := in.c.Read(p[:min(len(p), n+smallRead)])
	in.r, in.w, in.more = 0, 0, false
	if k > n {
		in.w = copy(in.buf, p[n:k])
		k = n
	}
	if k > 0 {
		return k, nil
	}
	return 0, readError(err)
}

// discard reads n bytes for nobody.
func (in *muxReader) discard(n int) error {
	for {
		k := min(n, in.w-in.r)
		in.r += k
		if n -= k; n == 0 {
			return nil
		}
		in.r, in.w, in.more = 0, 0, true // a large buffer is right here
		if err := in.fill(); err != nil {
			return err
		}
	}
}

// readError wraps what is not just the end.
func readError(err error) error {
	if err == nil || errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return err
	}
	if _, ok := errors.AsType[*ProtocolError](err); ok {
		return err
	}
	return fmt.Errorf("read tunnel: %w", err)
}
