package tunnel

import (
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"golang.org/x/net/nettest"
)

// socketConn is a TCP connection that is used as a carrier uses it.
type socketConn struct {
	*net.TCPConn
	s                *socket
	reading, writing *sync.Mutex
}

func (c socketConn) Read(p []byte) (int, error) {
	c.reading.Lock()
	defer c.reading.Unlock()
	return c.s.Read(p)
}

func (c socketConn) Write(p []byte) (int, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	return c.s.Write(p)
}

func newSocketConn(t testing.TB, c *net.TCPConn) socketConn {
	t.Helper()
	s := newSocket(c)
	if s == nil {
		t.Skip("connections are not read as sockets here")
	}
	return socketConn{c, s, new(sync.Mutex), new(sync.Mutex)}
}

func TestSocketIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		return newSocketConn(t, a), newSocketConn(t, b), func() { a.Close(); b.Close() }, nil
	})
}

// What a socket says of failures is what the connection itself would say.
func TestSocketFailsAsTheConnection(t *testing.T) {
	tcp, _ := tcpPair(t)
	s := newSocketConn(t, tcp)
	var buf [1]byte
	same := func(when string) {
		t.Helper()
		for range 2 {
			_, plain := tcp.Read(buf[:])
			_, ours := s.Read(buf[:])
			if plain == nil || ours == nil || plain.Error() != ours.Error() || errors.Is(plain, net.ErrClosed) != errors.Is(ours, net.ErrClosed) {
				t.Errorf("read %s: %v, want %v", when, ours, plain)
			}
			_, plain = tcp.Write(buf[:])
			_, ours = s.Write(buf[:])
			if plain == nil || ours == nil || plain.Error() != ours.Error() {
				t.Errorf("write %s: %v, want %v", when, ours, plain)
			}
		}
	}
	tcp.SetDeadline(time.Unix(1, 0))
	same("behind the deadline")
	tcp.SetDeadline(time.Time{})
	tcp.Close()
	same("after Close")
}
