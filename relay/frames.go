package relay

import "encoding/binary"

// frames follows the frames of one direction of a WebSocket (RFC 6455, section 5.2) by their headers alone, to know when
// nothing is under way. The zero value is at the beginning of a direction whose frames are not masked.
type frames struct {
	masked bool // static: what the frames must be, which is how the directions differ

	header [10]byte // what was seen of the header of a frame, without the mask
	seen   int
	left   uint64 // bytes of the frame behind that
	state  frameState
}

type frameState uint8

const (
	framesOpen    frameState = iota
	framesClosing            // in a close frame
	framesClosed             // behind a close frame: there must be no other
	framesBroken             // these are no frames
)

const (
	opClose    = 8
	maxControl = 125 // bytes of payload
)

// between reports whether a frame could begin now.
func (f *frames) between() bool { return f.state == framesOpen && f.seen == 0 && f.left == 0 }

// follow takes note of what is sent.
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		p = p[f.next(p):]
	}
}

// next takes note of the beginning of p, up to the end of the frame that is under way or begins there, and returns how
// much that is: more than nothing if p is.
func (f *frames) next(p []byte) (n int) {
	if f.state > framesClosing {
		return len(p)
	}
	if f.left == 0 {
		if n = f.readHeader(p); f.seen > 0 || f.state == framesBroken {
			return len(p)
		}
	}
	if body := uint64(len(p) - n); f.left > body {
		f.left -= body
		return len(p)
	}
	n += int(f.left)
	f.left = 0
	if f.state == framesClosing {
		f.state = framesClosed
	}
	return n
}

// readHeader returns how much of p belongs to a header. seen is 0 when that is whole.
func (f *frames) readHeader(p []byte) (n int) {
	for f.seen < f.headerLength() {
		k := copy(f.header[f.seen:f.headerLength()], p[n:])
		if n, f.seen = n+k, f.seen+k; k == 0 {
			return n
		}
	}
	f.seen = 0
	f.begin()
	return n
}

// headerLength is how long the header is, as far as that is known.
func (f *frames) headerLength() int {
	if f.seen < 2 {
		return 2
	}
	switch f.header[1] & 0x7f {
	case 126:
		return 4
	case 127:
		return 10
	}
	return 2
}

// begin looks at a header.
func (f *frames) begin() {
	length := uint64(f.header[1] & 0x7f)
	switch length {
	case 126:
		length = uint64(binary.BigEndian.Uint16(f.header[2:]))
	case 127:
		length = binary.BigEndian.Uint64(f.header[2:])
	}
	final, op, masked := f.header[0]&0x80 != 0, f.header[0]&0x0f, f.header[1]&0x80 != 0
	control := op >= opClose
	switch {
	case masked != f.masked, op > 2 && op < opClose, op > 10, length > 1<<62, control && (!final || length > maxControl):
		f.state = framesBroken
		return
	case op == opClose:
		f.state = framesClosing
	}
	if f.left = length; masked {
		f.left += 4
	}
}
