package relay

import (
	"errors"
	"io"
	"net"
	"testing"
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
