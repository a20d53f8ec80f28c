package client

import (
	"net"
	"net/netip"
	"testing"

	"piko/tunnel"
)

// fakeStream is a connection through a tunnel.
type fakeStream struct {
	net.Conn
	done    chan struct{}
	arrives []byte
}

func (s *fakeStream) CloseWrite() error          { return nil }
func (s *fakeStream) Reset()                     {}
func (s *fakeStream) Done() <-chan struct{}      { return s.done }
func (s *fakeStream) ClientAddr() netip.AddrPort { return netip.MustParseAddrPort("192.0.2.1:5") }
func (s *fakeStream) TryWrite(p []byte) int      { return len(p) / 2 }
func (s *fakeStream) Read(p []byte) (int, error) { return copy(p, s.arrives), nil }

func (s *fakeStream) ReadOr(p []byte, take func([]byte) int) (int, error) {
	return copy(p, s.arrives[take(s.arrives):]), nil
}

// bareStream has only what every connection has.
type bareStream struct{ *fakeStream }

func (bareStream) Done()       {}
func (bareStream) ClientAddr() {}
func (bareStream) TryWrite()   {}
func (bareStream) ReadOr()     {}

// A connection that is counted tells all that it would tell otherwise: an agent
// learns from it whose it is, and that it is gone.
func TestCountedConnHidesNothing(t *testing.T) {
	var m Metrics
	s := &fakeStream{done: make(chan struct{}), arrives: []byte("0123456789")}
	c := m.accepted(s).(*countedConn)
	if c.Done() != (<-chan struct{})(s.done) {
		t.Error("Done is another channel")
	}
	if got := c.ClientAddr(); got != s.ClientAddr() {
		t.Errorf("ClientAddr: %v", got)
	}
	n, err := c.ReadOr(make([]byte, 100), func([]byte) int { return 4 })
	if n != 6 || err != nil || m.BytesIn.Load() != 10 {
		t.Errorf("ReadOr: %d, %v, and %d bytes are counted", n, err, m.BytesIn.Load())
	}
	if n := c.TryWrite(make([]byte, 8)); n != 4 || m.BytesOut.Load() != 4 {
		t.Errorf("TryWrite: %d, and %d bytes are counted", n, m.BytesOut.Load())
	}
}

func TestCountedConnOfOneThatTellsNothing(t *testing.T) {
	var m Metrics
	c := m.opened(bareStream{&fakeStream{arrives: []byte("0123456789")}}).(*countedConn)
	if c.Done() != nil || c.ClientAddr().IsValid() || c.TryWrite([]byte("x")) != 0 {
		t.Error("it tells something")
	}
	n, err := c.ReadOr(make([]byte, 100), func([]byte) int { t.Error("asked"); return 0 })
	if n != 10 || err != nil || m.BytesIn.Load() != 10 {
		t.Errorf("ReadOr: %d, %v, and %d bytes are counted", n, err, m.BytesIn.Load())
	}
}

// What an agent asks of a stream is what a stream has.
var _ interface {
	Done() <-chan struct{}
	ClientAddr() netip.AddrPort
	ReadOr(p []byte, take func(p []byte) (n int)) (int, error)
} = (*tunnel.Stream)(nil)
