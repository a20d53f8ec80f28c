package relay

import (
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// watched is a connection that can tell that it is gone.
func watched(c *net.TCPConn) net.Conn { return watchedConn{hiddenConn{c, c}, make(chan struct{})} }

type watchedConn struct {
	hiddenConn
	gone chan struct{}
}

func (w watchedConn) Done() <-chan struct{} { return w.gone }

// A client that has said all it had to say and then goes away is noticed, although nobody reads from it any more.
func TestSpliceNoticesWhoIsGoneBehindItsEnd(t *testing.T) {
	s := startSplice(t, watched, hidden)
	io.WriteString(s.a, "question")
	s.a.CloseWrite()
	if b, err := io.ReadAll(s.b); string(b) != "question" || err != nil {
		t.Errorf("b got %q, %v", b, err)
	}
	close(s.nearA.(watchedConn).gone)
	e, ok := errors.AsType[*SpliceError](s.wait())
	if !ok || e.Conn != s.nearA || e.Op != "read" {
		t.Errorf("got %v", s.err)
	}
	if _, err := s.b.Write([]byte("x")); err == nil {
		t.Error("b was not reset")
	}
}

// A service that has answered and goes away leaves the client the time to read.
func TestSpliceLeavesTheAnswerOfWhoIsGone(t *testing.T) {
	s := startSplice(t, hidden, watched)
	io.WriteString(s.b, "answer")
	s.b.CloseWrite()
	close(s.nearB.(watchedConn).gone)
	if b, err := io.ReadAll(s.a); string(b) != "answer" || err != nil {
		t.Errorf("a got %q, %v", b, err)
	}
	e, ok := errors.AsType[*SpliceError](s.wait())
	if !ok || e.Conn != s.nearB {
		t.Errorf("got %v", s.err)
	}
	if _, err := s.a.Write([]byte("x")); err == nil {
		t.Error("a was not reset")
	}
}

// The system tells of a reset once, and then speaks of an end: that a write was told must not make the end one in order.
func TestSpliceTellsAResetFromAnEnd(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("cannot be found out")
	}
	for i := range 150 {
		var ends atomic.Int32
		s := startSplice(t, func(c *net.TCPConn) net.Conn { return endsConn{hiddenConn{c, c}, &ends} }, asItIs)
		io.WriteString(s.b, "half an ans")
		written := make(chan struct{})
		go func() {
			defer close(written)
			for {
				if _, err := s.a.Write(make([]byte, 1+i)); err != nil {
					return
				}
			}
		}()
		io.ReadFull(s.b, make([]byte, i))
		s.b.SetLinger(0)
		s.b.Close()
		io.Copy(io.Discard, s.a)
		s.a.Close()
		if err := s.wait(); err == nil || ends.Load() > 0 {
			t.Fatalf("round %d: %v, and a was told of an end %d times", i, err, ends.Load())
		}
		<-written
	}
}

// endsConn counts what it is told of ends.
type endsConn struct {
	hiddenConn
	ends *atomic.Int32
}

func (c endsConn) CloseWrite() error {
	c.ends.Add(1)
	return c.hiddenConn.CloseWrite()
}

// A client that was reset is nobody to wait for, whoever finds it out.
func TestSpliceTellsTheServiceAtOnceOfAReset(t *testing.T) {
	late := 0
	for i := range 40 {
		s := startSplice(t, asItIs, asItIs)
		go func() {
			for {
				if _, err := s.b.Write(make([]byte, 1+i)); err != nil {
					return
				}
			}
		}()
		io.ReadFull(s.a, make([]byte, 100*i))
		s.a.SetLinger(0)
		s.a.Close()
		began := time.Now()
		io.Copy(io.Discard, s.b) // b's own write may have met the error before
		if time.Since(began) >= lastWords {
			late++
		}
		s.b.Close()
		s.wait()
	}
	if late > 1 { // some time passes on busy machines
		t.Errorf("%d times b was told after more than %v", late, lastWords)
	}
}

// On systems that cannot tell, what refuses a write has failed: nothing that is read of it later is the end of all. What
// is read before, or of a side that has refused nothing, is what it seems to be.
func TestSpliceWhereAResetCannotBeTold(t *testing.T) {
	defer func(f func(net.Conn) resetVerdict) { metReset = f }(metReset)
	metReset = func(net.Conn) resetVerdict { return resetMaybe }
	for name, tt := range map[string]struct {
		over, refused, want bool
	}{
		"the other direction goes on":      {false, false, false},
		"the other direction has ended":    {true, false, false},
		"it was refused what it has sent":  {true, true, true},
		"nobody knows that it was refused": {false, true, false},
	} {
		t.Run(name, func(t *testing.T) {
			a, _ := tcpPair(t)
			b, _ := tcpPair(t)
			s := newSplice(a, b)
			s.forth.refused = tt.refused
			if tt.over {
				close(s.forth.over)
			}
			if got := s.back.cutOff(); got != tt.want {
				t.Errorf("got %v", got)
			}
		})
	}
	t.Run("half-close", func(t *testing.T) {
		s := startSplice(t, asItIs, asItIs)
		io.WriteString(s.a, "question")
		s.a.CloseWrite()
		if b, err := io.ReadAll(s.b); string(b) != "question" || err != nil {
			t.Errorf("b got %q, %v", b, err)
		}
		io.WriteString(s.b, "answer")
		s.b.CloseWrite()
		if b, err := io.ReadAll(s.a); string(b) != "answer" || err != nil {
			t.Errorf("a got %q, %v", b, err)
		}
		if err := s.wait(); err != nil {
			t.Error(err)
		}
	})
	t.Run("reset behind a write that was refused", func(t *testing.T) {
		var ends atomic.Int32
		over := make(chan struct{})
		nearA, a := tcpPair(t)
		nearB := &refusingConn{over: over}
		go func() { <-over; a.CloseWrite() }()
		io.WriteString(a, "x")
		s := newSplice(endsConn{hiddenConn{nearA, nearA}, &ends}, nearB)
		nearB.s = s
		if err := s.run(t.Context()); err == nil || ends.Load() > 0 {
			t.Errorf("%v, and a was told of an end %d times", err, ends.Load())
		}
	})
}

// refusingConn refuses what is written, as one that was reset, and says that it was the end to who reads after that.
type refusingConn struct {
	net.Conn
	s    *splice
	over chan struct{}
	once sync.Once
}

func (c *refusingConn) Write([]byte) (int, error) { return 0, syscall.EPIPE }

func (c *refusingConn) Read([]byte) (int, error) {
	<-c.s.forth.over
	c.once.Do(func() { close(c.over) })
	return 0, io.EOF
}

func (c *refusingConn) Close() error                     { return nil }
func (c *refusingConn) SetReadDeadline(time.Time) error  { return nil }
func (c *refusingConn) SetWriteDeadline(time.Time) error { return nil }
