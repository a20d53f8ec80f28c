package relay

import (
	"bytes"
	"errors"
	"io"
	"net"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// asStream is a connection that behaves as a stream of a tunnel does: what comes is offered, and what was not taken is
// read; and writing it may be tried, of which it takes a part now and then.
func asStream(c *net.TCPConn) net.Conn { return &streamConn{hiddenConn: hiddenConn{c, c}} }

type streamConn struct {
	hiddenConn
	offers, tries atomic.Int64
	rest          []byte // owned by the reader
	buf           [10_000]byte
}

func (s *streamConn) ReadOr(p []byte, take func([]byte) int) (int, error) {
	for len(s.rest) == 0 {
		n, err := s.Conn.Read(s.buf[:])
		if err != nil {
			return 0, err
		}
		s.rest = s.buf[:n]
		if s.offers.Add(1)%4 > 0 { // otherwise more had come at once
			taken := make(chan int)
			go func() { taken <- take(s.rest) }() // the goroutine in which it comes is another one
			s.rest = s.rest[<-taken:]
		}
	}
	n := copy(p, s.rest)
	s.rest = s.rest[n:]
	return n, nil
}

func (s *streamConn) TryWrite(p []byte) int {
	n := 0
	switch s.tries.Add(1) % 3 {
	case 0:
		n, _ = s.Conn.Write(p)
	case 1:
		n, _ = s.Conn.Write(p[:len(p)/2])
	}
	return n
}

// What a stream offers goes to a socket without the goroutine that copies, and counts.
func TestSpliceHandsOver(t *testing.T) {
	s := startSplice(t, asItIs, asStream)
	stream := s.nearB.(*streamConn)
	buf := make([]byte, 3)
	for i := range 20 {
		io.WriteString(s.b, "abc")
		if _, err := io.ReadFull(s.a, buf); err != nil || string(buf) != "abc" {
			t.Fatalf("got %q, %v", buf, err)
		}
		if int(stream.offers.Load()) != i+1 {
			t.Errorf("%d offers for %d messages", stream.offers.Load(), i+1)
		}
	}
	s.b.CloseWrite()
	s.a.CloseWrite()
	if err := s.wait(); err != nil || s.back != 60 {
		t.Errorf("got %d bytes, %v", s.back, err)
	}
}

// A socket that has no room takes a part of what it is offered, and never waits.
func TestTryWriteNeverWaits(t *testing.T) {
	near, far := tcpPair(t)
	near.SetWriteBuffer(32 << 10)
	w, ok := socketWriter(near).(trying)
	if !ok {
		t.Skip("sockets are written as usual here")
	}
	piece := bytes.Repeat([]byte("piece of bulk"), 5_000)
	var want []byte
	for n := len(piece); n == len(piece); want = append(want, piece[:n]...) {
		n = w.TryWrite(piece)
	}
	if n := w.TryWrite(piece); n > len(piece)/2 { // a little may have become free
		t.Errorf("took %d bytes without room", n)
	} else {
		want = append(want, piece[:n]...)
	}
	wrote := make(chan error, 1)
	go func() {
		_, err := w.(io.Writer).Write([]byte("the end"))
		near.CloseWrite()
		wrote <- err
	}()
	got, err := io.ReadAll(far)
	if err != nil || !bytes.Equal(got, append(want, "the end"...)) {
		t.Errorf("got %d bytes, %v, want %d", len(got), err, len(want)+7)
	}
	if err := <-wrote; err != nil {
		t.Error(err)
	}
}

// The system tells of a reset once: when it tells TryWrite, Write says so all the same, and as the connection would.
func TestTryWriteKeepsTheReset(t *testing.T) {
	near, far := tcpPair(t)
	w, ok := socketWriter(near).(trying)
	if !ok {
		t.Skip("sockets are written as usual here")
	}
	far.SetLinger(0)
	far.Close()
	for deadline := time.Now().Add(10 * time.Second); w.TryWrite([]byte("x")) > 0; {
		if time.Now().After(deadline) {
			t.Fatal("the reset never came")
		}
	}
	for range 2 {
		n, err := w.(io.Writer).Write([]byte("x"))
		op, ok := errors.AsType[*net.OpError](err)
		if n != 0 || !errors.Is(err, syscall.ECONNRESET) || !ok || op.Op != "write" {
			t.Errorf("Write: %d, %v", n, err)
		}
		if n := w.TryWrite([]byte("x")); n != 0 {
			t.Errorf("TryWrite took %d bytes", n)
		}
	}
}

// What is wrong at our end is what the connection itself says.
func TestSocketWriterFailsAsTheConnection(t *testing.T) {
	near, _ := tcpPair(t)
	w := socketWriter(near)
	same := func(when string) {
		t.Helper()
		_, want := near.Write([]byte("x"))
		_, got := w.Write([]byte("x"))
		if want == nil || got == nil || got.Error() != want.Error() {
			t.Errorf("%s: %v, want %v", when, got, want)
		}
		if t, ok := w.(trying); ok {
			t.TryWrite([]byte("x"))
		}
	}
	near.SetWriteDeadline(time.Unix(1, 0))
	same("behind the deadline")
	near.SetWriteDeadline(time.Time{})
	if _, err := w.Write([]byte("x")); err != nil {
		t.Errorf("when the deadline was taken back: %v", err)
	}
	near.Close()
	same("after Close")
}
