package tunnel

import (
	"bytes"
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// chunkConn is a connection that gives its bytes in pieces of the lengths that
// chunks names, and takes everything.
type chunkConn struct {
	net.Conn
	in     []byte
	chunks []byte
	at     int
	out    bytes.Buffer
}

func (c *chunkConn) Read(p []byte) (int, error) {
	if len(c.in) == 0 {
		return 0, io.EOF
	}
	n := len(c.in)
	if len(c.chunks) > 0 {
		n = 1 + int(c.chunks[c.at%len(c.chunks)])
		c.at++
	}
	n = copy(p[:min(n, len(p))], c.in)
	c.in = c.in[n:]
	return n, nil
}

func (c *chunkConn) Write(p []byte) (int, error) { return c.out.Write(p) }
func (c *chunkConn) Close() error                { return nil }

func (c *chunkConn) SetWriteDeadline(time.Time) error { return nil }

// FuzzCarrier feeds arbitrary bytes: the carrier must end with EOF or a typed
// error, give no more than it got, and tell the peer well-formed frames only.
func FuzzCarrier(f *testing.F) {
	hello := testFrame{op: opBinary, masked: true, payload: []byte("hello")}
	for _, frames := range [][]testFrame{
		{hello, {op: opPing, masked: true, payload: []byte("p")}, hello},
		{{op: opBinary, more: true, masked: true, payload: []byte("he")}, {op: opPing, masked: true}, {op: opContinuation, masked: true, payload: []byte("llo")}},
		{{op: opText, masked: true, payload: []byte("text")}},
		{hello, {op: opClose, masked: true, payload: []byte("\x03\xe8bye")}},
		{{op: opBinary, masked: true, payload: make([]byte, 200)}},
		{{op: opBinary, payload: make([]byte, 70_000)}},
	} {
		var b []byte
		for _, frame := range frames {
			b = append(b, frame.bytes()...)
		}
		f.Add(b, []byte{3}, byte(7), false)
		f.Add(b, []byte{}, byte(0), true)
	}
	f.Add([]byte{0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 1, 2, 3, 4}, []byte{0}, byte(1), false)
	f.Fuzz(func(t *testing.T, in, chunks []byte, size byte, client bool) {
		nc := &chunkConn{in: in, chunks: chunks}
		car := newCarrier(nc, nil, client)
		read := 0
		var err error
		for b := make([]byte, 1+int(size)*40); err == nil; {
			var n int
			n, err = car.Read(b)
			read += n
		}
		if _, ok := errors.AsType[*ProtocolError](err); !ok && err != io.EOF && err != io.ErrUnexpectedEOF {
			t.Fatalf("ended with %v", err)
		}
		if read > len(in) {
			t.Fatalf("read %d bytes of %d", read, len(in))
		}
		car.close(closeNormal, "")
		sent := nc.out.Bytes()
		var last testFrame
		for len(sent) > 0 {
			frame, n := parseTestFrame(sent)
			if n == 0 || frame.masked != client || frame.op < opClose || last.op == opClose {
				t.Fatalf("the peer was sent %x", nc.out.Bytes())
			}
			last, sent = frame, sent[n:]
		}
		if last.op != opClose {
			t.Fatal("the peer was not sent a close frame")
		}
	})
}

// FuzzCarrierSplit cuts a payload into frames, fragments and reads in arbitrary
// ways, with control frames in between: what is read is what was sent.
func FuzzCarrierSplit(f *testing.F) {
	f.Add([]byte("a payload of some length"), []byte{3, 0, 9, 200}, []byte{1, 2}, byte(5), true)
	f.Add(bytes.Repeat([]byte("0123456789abcdef"), 5000), []byte{255, 254, 7}, []byte{}, byte(255), false)
	f.Add(bytes.Repeat([]byte("x"), 9000), []byte{1}, []byte{255}, byte(0), false)
	f.Fuzz(func(t *testing.T, payload, cuts, chunks []byte, size byte, client bool) {
		if len(cuts) == 0 || len(payload)/len(cuts) > 1000*maxOddFrames {
			return
		}
		nc := &chunkConn{in: splitFrames(payload, cuts, !client), chunks: chunks}
		car := newCarrier(nc, nil, client)
		var got []byte
		var err error
		for b := make([]byte, 1+int(size)*40); err == nil; {
			var n int
			n, err = car.Read(b)
			got = append(got, b[:n]...)
		}
		if err != io.EOF || !bytes.Equal(got, payload) {
			t.Fatalf("read %d bytes and %v, want the %d that were sent", len(got), err, len(payload))
		}
		car.close(0, "")
	})
}

// splitFrames makes frames of payload as cuts says: even numbers end a message,
// and every so often a ping comes. The number of odd frames stays allowed.
func splitFrames(payload, cuts []byte, masked bool) []byte {
	var wire []byte
	op := byte(opBinary)
	odd := 0
	for i := 0; len(payload) > 0; i++ {
		cut := int(cuts[i%len(cuts)])
		n := min(cut*cut, len(payload))
		frame := testFrame{op: op, more: cut%2 == 1 && n < len(payload), masked: masked}
		if odd > maxOddFrames/2 {
			n, frame.more = len(payload), false
		}
		frame.payload, payload = payload[:n], payload[n:]
		wire = append(wire, frame.bytes()...)
		if op = opBinary; frame.more {
			op = opContinuation
		}
		if n < oddFragment {
			odd++
		}
		if cut%7 == 3 {
			odd++
			ping := testFrame{op: opPing, masked: masked, payload: slices.Repeat([]byte{'p'}, cut/3)}
			wire = append(wire, ping.bytes()...)
		}
	}
	return wire
}
