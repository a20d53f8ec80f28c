package relay

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"syscall"
	"testing"
	"time"
)

// tcpPair is a TCP connection with both its ends.
func tcpPair(t testing.TB) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	c, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	d, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close(); d.Close() })
	for _, c := range []net.Conn{c, d} {
		c.SetDeadline(time.Now().Add(20 * time.Second))
	}
	return c.(*net.TCPConn), d.(*net.TCPConn)
}

// spliced is a running Splice, with the far ends of its connections.
type spliced struct {
	t            testing.TB
	a, b         *net.TCPConn // what is at the other ends
	nearA, nearB net.Conn     // what Splice has
	cancel       context.CancelCauseFunc
	done         chan struct{}
	forth, back  int64
	err          error
}

// wrapping is what Splice is given instead of a TCP connection.
type wrapping func(*net.TCPConn) net.Conn

func asItIs(c *net.TCPConn) net.Conn { return c }

// plain has nothing but the methods of net.Conn.
func plain(c *net.TCPConn) net.Conn { return struct{ net.Conn }{c} }

// hidden hides the socket but has the rest.
func hidden(c *net.TCPConn) net.Conn { return hiddenConn{c, c} }

type hiddenConn struct {
	net.Conn
	tcp *net.TCPConn
}

func (h hiddenConn) CloseWrite() error { return h.tcp.CloseWrite() }
func (h hiddenConn) NetConn() net.Conn { return h.tcp }

func startSplice(t testing.TB, wrapA, wrapB wrapping) *spliced {
	nearA, a := tcpPair(t)
	nearB, b := tcpPair(t)
	nearA.SetDeadline(time.Time{})
	nearB.SetDeadline(time.Time{})
	ctx, cancel := context.WithCancelCause(t.Context())
	s := &spliced{t: t, a: a, b: b, nearA: wrapA(nearA), nearB: wrapB(nearB), cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(s.done)
		s.forth, s.back, s.err = Splice(ctx, s.nearA, s.nearB)
	}()
	t.Cleanup(func() { cancel(nil); <-s.done })
	return s
}

// wait returns how Splice ended.
func (s *spliced) wait() error {
	s.t.Helper()
	select {
	case <-s.done:
	case <-time.After(20 * time.Second):
		s.t.Fatal("Splice goes on")
	}
	return s.err
}

func everySplice(t *testing.T, f func(t *testing.T, s *spliced)) {
	for name, wrap := range map[string][2]wrapping{
		"sockets": {asItIs, asItIs}, "connections": {hidden, hidden}, "stream and socket": {asItIs, asStream}, "streams": {asStream, asStream},
	} {
		t.Run(name, func(t *testing.T) { f(t, startSplice(t, wrap[0], wrap[1])) })
	}
}

// Each direction ends by itself, and the other goes on.
func TestSpliceHalfClose(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		io.WriteString(s.a, "question")
		s.a.CloseWrite()
		if b, err := io.ReadAll(s.b); string(b) != "question" || err != nil {
			t.Errorf("b got %q, %v", b, err)
		}
		io.WriteString(s.b, "long answer")
		s.b.CloseWrite()
		if b, err := io.ReadAll(s.a); string(b) != "long answer" || err != nil {
			t.Errorf("a got %q, %v", b, err)
		}
		if err := s.wait(); err != nil || s.forth != 8 || s.back != 11 {
			t.Errorf("got %d, %d, %v", s.forth, s.back, err)
		}
	})
}

// What breaks on one side breaks on the other, behind what was said before; nobody takes a part for the whole.
func TestSplicePassesResetOn(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		io.WriteString(s.b, "half an answ")
		io.ReadFull(s.a, make([]byte, 12))
		s.b.SetLinger(0)
		s.b.Close()
		if n, err := s.a.Read(make([]byte, 1)); n != 0 || !errors.Is(err, syscall.ECONNRESET) {
			t.Errorf("a got %d, %v", n, err)
		}
		e, ok := errors.AsType[*SpliceError](s.wait())
		if !ok || e.Conn != s.nearB || e.Op != "read" || !errors.Is(e, syscall.ECONNRESET) {
			t.Errorf("got %v", s.err)
		}
	})
}

// The end of the context resets both, and wakes who waits for either.
func TestSpliceEndsWithContext(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		why := errors.New("enough")
		io.WriteString(s.a, "x")
		io.ReadFull(s.b, make([]byte, 1))
		s.cancel(why)
		for _, c := range []net.Conn{s.a, s.b} {
			if _, err := c.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
				t.Errorf("got %v", err)
			}
		}
		if err := s.wait(); err != why {
			t.Errorf("got %v", err)
		}
	})
}

// A service that answers early and hangs up is heard, although the upload to it fails.
func TestSpliceEarlyAnswer(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		io.WriteString(s.b, "too much")
		s.b.CloseWrite()
		s.b.SetLinger(0)
		sent := make(chan struct{})
		go func() {
			defer close(sent)
			buf := make([]byte, 1<<10)
			s.a.Write(buf)
			s.b.Read(buf)
			s.b.Close()
			for {
				if _, err := s.a.Write(buf); err != nil {
					return
				}
				<-time.After(time.Millisecond)
			}
		}()
		if b, err := io.ReadAll(s.a); string(b) != "too much" || err != nil {
			t.Errorf("got %q, %v", b, err)
		}
		<-sent // for the rest of the upload there is a failure
		e, ok := errors.AsType[*SpliceError](s.wait())
		if !ok || e.Conn != s.nearB {
			t.Errorf("got %v", s.err)
		}
	})
}

// A connection that has only one end is closed as a whole when the other side has no more to say.
func TestSpliceWithoutHalfClose(t *testing.T) {
	s := startSplice(t, plain, plain)
	io.WriteString(s.a, "all")
	s.a.CloseWrite()
	if b, err := io.ReadAll(s.b); string(b) != "all" || err != nil {
		t.Errorf("b got %q, %v", b, err)
	}
	if b, err := io.ReadAll(s.a); len(b) > 0 || err != nil {
		t.Errorf("a got %q, %v", b, err)
	}
	if err := s.wait(); err != nil {
		t.Error(err)
	}
}

// Much both ways at once arrives as it was sent, in whatever pieces.
func TestSpliceBulk(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		const size = 8 << 20
		text := make([]byte, size)
		for i := range text {
			text[i] = byte(i * i >> 8)
		}
		send := func(c *net.TCPConn) {
			for rest, n := text, 1; len(rest) > 0; n = n*3%200_000 + 1 {
				piece := rest[:min(n, len(rest))]
				c.Write(piece)
				rest = rest[len(piece):]
			}
			c.CloseWrite()
		}
		go send(s.a)
		go send(s.b)
		ends := make(chan bool)
		for _, c := range []net.Conn{s.a, s.b} {
			go func() {
				b, err := io.ReadAll(c)
				ends <- err == nil && bytes.Equal(b, text)
			}()
		}
		for range 2 {
			if !<-ends {
				t.Error("what came is not what was sent")
			}
		}
		if err := s.wait(); err != nil || s.forth != size || s.back != size {
			t.Errorf("got %d, %d, %v", s.forth, s.back, err)
		}
	})
}

// No more is taken from one side than the other takes, but for what buffers on the way hold.
func TestSpliceBackPressure(t *testing.T) {
	everySplice(t, func(t *testing.T, s *spliced) {
		const most = 64 << 20
		s.a.SetWriteDeadline(time.Now().Add(300 * time.Millisecond))
		if n, err := io.CopyN(s.a, zeros{}, most); err == nil {
			t.Errorf("%d bytes were taken for a side that reads nothing", n)
		}
	})
}
