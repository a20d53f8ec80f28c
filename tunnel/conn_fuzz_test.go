package tunnel

import (
	"errors"
	"io"
	"slices"
	"testing"
	"time"
)

func (c *chunkConn) SetReadDeadline(time.Time) error { return nil }

// FuzzConnRead feeds arbitrary bytes: only a peer that has said so has ended in
// order, nothing is read that was not sent, and the peer is told well-formed
// frames only.
func FuzzConnRead(f *testing.F) {
	hello := testFrame{op: opBinary, masked: true, payload: []byte("hello")}
	for _, frames := range [][]testFrame{
		{hello, textFrame("eof")},
		{hello, textFrame("eof"), {op: opPing, masked: true}, closeFrame(1000, "")},
		{hello, textFrame("eof"), hello},
		{hello, closeFrame(1011, "failed")},
		{{op: opBinary, more: true, masked: true, payload: []byte("he")}, textFrame("eof")},
		{{op: opBinary, masked: true, payload: make([]byte, 700)}, textFrame("eof")},
		{textFrame("eo"), textFrame("eofeof")},
	} {
		var b []byte
		for _, frame := range frames {
			b = append(b, frame.bytes()...)
		}
		f.Add(b, []byte{3}, byte(7), true)
		f.Add(b, []byte{}, byte(0), false)
	}
	f.Fuzz(func(t *testing.T, in, chunks []byte, size byte, half bool) {
		nc := &chunkConn{in: slices.Clone(in), chunks: chunks}
		c := newConn(newCarrier(nc, nil, false), half)
		read := 0
		var err error
		for b := make([]byte, 1+int(size)*300); err == nil; {
			var n int
			n, err = c.Read(b)
			read += n
		}
		if read > len(in) {
			t.Fatalf("read %d bytes of %d", read, len(in))
		}
		if err == io.EOF && half && !saidEOF(in) {
			t.Fatal("an end in order that the peer has not sent")
		}
		if err != io.EOF && err == nil {
			t.Fatal("no end")
		}
		if _, again := c.Read(make([]byte, 1)); !errors.Is(again, err) {
			t.Fatalf("ended with %v and then %v", err, again)
		}
		c.Close()
		sent := nc.out.Bytes()
		closed := false
		for len(sent) > 0 {
			frame, n := parseTestFrame(sent)
			if n == 0 || frame.masked || closed {
				t.Fatalf("the peer was sent %x", nc.out.Bytes())
			}
			closed, sent = frame.op == opClose, sent[n:]
		}
		if !closed {
			t.Fatal("the peer was not sent a close frame")
		}
	})
}

// saidEOF finds the end of data among whole frames.
func saidEOF(in []byte) bool {
	for len(in) > 0 {
		f, n := parseTestFrame(in)
		if n == 0 {
			return false
		}
		if f.op == opText && string(f.payload) == "eof" {
			return true
		}
		in = in[n:]
	}
	return false
}
