package tunnel

import (
	"encoding/binary"
	"errors"
	"io"
	"os"
	"time"
	"unicode/utf8"
)

const (
	// smallBuffer is all that a silent carrier holds. It has room for any header
	// and any control frame; large payload goes around it.
	smallBuffer = 512

	// bigBuffer is lent to a carrier while more arrives than fits the small one:
	// many small messages then come with one system call.
	bigBuffer = 16 << 10

	// maxOddFrames is how many frames a second may carry (next to) nothing:
	// control frames, empty ones, and fragments below oddFragment. They cost us
	// as much as frames that carry something; an honest peer sends a few.
	maxOddFrames = 1000
	oddFragment  = 64
)

// A frameReader is the state of reading: bytes that arrived, and how far into
// which frame they reach. A read that runs out of time changes none of it.
type frameReader struct {
	buf   []byte // buf[r:w] arrived and is not parsed; small, big, or what came with the handshake
	r, w  int
	more  bool // the last read filled the buffer: there is probably more
	big   *[bigBuffer]byte
	small [smallBuffer]byte

	left       uint64 // payload of the current data frame that is still to come
	key        uint32 // its mask for the next byte
	masked     bool
	fragmented bool // a message was begun and its last frame has not come

	closeCode   uint16 // of the peer's close frame, closeNormal if it had none; 0 until it comes
	closeReason string

	// Only for a Conn; static.
	exact bool // read no further than to the next header
	ends  bool // a text message is the end of the data

	header int  // size of the last data frame's header
	ended  bool // the end has come

	oddSince time.Duration // start of the second in which odd counts
	odd      int

	err error // why reading ended, for good
}

// Read reads payload, straight into p where p is large. A close frame or an end
// of the connection between messages is io.EOF, one within a message
// io.ErrUnexpectedEOF; what the protocol forbids is a *ProtocolError, of which
// the peer has been told.
func (c *carrier) Read(p []byte) (int, error) {
	f := &c.in
	for f.err == nil {
		if f.left > 0 {
			if len(p) == 0 {
				return 0, nil
			}
			n, err := c.readPayload(p)
			if err != nil {
				err = c.endRead(err)
			}
			if n > 0 || err != nil {
				return n, err
			}
			continue
		}
		if err := c.nextFrame(); err != nil {
			return 0, c.endRead(err)
		}
	}
	return 0, f.err
}

// tcp prepares for the connection of a client, which knows of ends or not.
func (f *frameReader) tcp(ends bool) { f.exact, f.ends = true, ends }

// orderly says that the peer has ended the connection between messages, and for
// no reason.
func (f *frameReader) orderly() bool {
	return !f.fragmented && (f.closeCode == 0 || f.closeCode == closeNormal)
}

// endRead remembers what ends the reading, and tells the peer if it is to blame.
func (c *carrier) endRead(err error) error {
	if err == errEOFMessage || errors.Is(err, os.ErrDeadlineExceeded) {
		return err
	}
	if bad, ok := errors.AsType[*ProtocolError](err); ok {
		c.sendClose(bad.closeCode(), bad.Reason, bad)
	}
	c.in.err = err
	c.in.buf, c.in.r, c.in.w = nil, 0, 0
	c.in.release()
	return err
}

// readPayload reads from the current data frame; n is 0 with a nil error when
// the connection gave nothing.
func (c *carrier) readPayload(p []byte) (n int, err error) {
	f := &c.in
	n = int(min(uint64(len(p)), f.left))
	if f.r == f.w && n >= len(f.buf) {
		n, err = c.receiveInto(p, n)
	} else {
		if f.r == f.w {
			err = c.fill()
		}
		n = copy(p[:n], f.buf[f.r:f.w])
		f.r += n
	}
	if f.masked {
		f.key = maskBytes(p[:n], f.key)
	}
	f.left -= uint64(n)
	if n > 0 {
		return n, nil // if there was an error, it comes again
	}
	if err == io.EOF {
		err = io.ErrUnexpectedEOF
	}
	return 0, err
}

// nextFrame reads a header, and the whole frame if it is a control frame.
func (c *carrier) nextFrame() error {
	f := &c.in
	h, size, err := parseHeader(f.buf[f.r:f.w])
	if err != nil {
		return err
	}
	need := size
	switch {
	case size == 0:
	case h.op >= opClose:
		need += int(h.length) // at most 125
	case h.op == opText:
		if err := c.checkText(h); err != nil {
			return err
		}
		need += len(eofPayload)
	}
	if size == 0 || f.w-f.r < need {
		// An unmasked header must not be waited for: the peer may never send more.
		if f.w-f.r >= 2 {
			if err := c.checkMask(h); err != nil {
				return err
			}
		}
		if err := c.fill(); err != io.EOF || f.r == f.w && !f.fragmented {
			return err
		}
		return io.ErrUnexpectedEOF
	}
	if err := c.checkMask(h); err != nil {
		return err
	}
	payload := f.buf[f.r+size : f.r+need]
	f.r += need
	switch {
	case h.op >= opClose:
		return c.control(h, payload)
	case h.op == opText:
		return c.endOfData(h, payload)
	}
	f.header = size
	return c.startData(h)
}

// checkMask holds the peer to its role: RFC 6455, section 5.1.
func (c *carrier) checkMask(h frameHeader) error {
	switch {
	case h.masked == (!c.client && !c.plain):
		return nil
	case c.plain:
		return violation("a frame of a node is masked")
	case c.client:
		return violation("a frame of the server is masked")
	}
	return violation("a frame of the client is not masked")
}

// startData begins a data frame.
func (c *carrier) startData(h frameHeader) error {
	f := &c.in
	switch {
	case f.ended:
		return violation("data came behind its end")
	case h.op == opContinuation && !f.fragmented:
		return violation("a continuation frame continues nothing")
	case h.op == opBinary && f.fragmented:
		return violation("a message began within another one")
	}
	f.left, f.key, f.masked = h.length, h.key, h.masked
	whole := h.fin && !f.fragmented
	f.fragmented = !h.fin
	if h.length == 0 || !whole && h.length < oddFragment {
		return c.countOdd()
	}
	return nil
}

// control answers a control frame.
func (c *carrier) control(h frameHeader, payload []byte) error {
	if err := c.countOdd(); err != nil {
		return err
	}
	maskBytes(payload, h.key)
	switch h.op {
	case opPing:
		c.answerPing(payload)
	case opClose:
		return c.peerClosed(payload)
	}
	return nil
}

// peerClosed answers a close frame with its own code.
func (c *carrier) peerClosed(payload []byte) error {
	code := uint16(closeNormal)
	if len(payload) == 1 {
		return violation("a close frame has half a code")
	}
	if len(payload) >= 2 {
		code = binary.BigEndian.Uint16(payload)
		if !validCloseCode(code) {
			return violation("a close frame has a code that none may send")
		}
		if !utf8.Valid(payload[2:]) {
			return &ProtocolError{Reason: "a close frame's reason is not UTF-8", CloseCode: closeInvalidData}
		}
	}
	c.in.closeCode = code
	if len(payload) > 2 {
		c.in.closeReason = string(payload[2:])
	}
	c.sendClose(code, "", errClosedByOther)
	return io.EOF
}

// validCloseCode follows RFC 6455, section 7.4, and the registry it founded.
func validCloseCode(code uint16) bool {
	switch {
	case code < 1000, code == 1004, code == 1005, code == 1006:
		return false
	case code <= 1014, code >= 3000 && code <= 4999:
		return true
	}
	return false
}

// countOdd counts a frame that carries nothing.
func (c *carrier) countOdd() error {
	f := &c.in
	now := time.Duration(c.last.Load())
	if now-f.oddSince >= time.Second {
		f.oddSince, f.odd = now, 0
	}
	if f.odd++; f.odd > maxOddFrames {
		return &ProtocolError{Reason: "more than 1000 control, empty or tiny frames in a second", CloseCode: closePolicy}
	}
	return nil
}
