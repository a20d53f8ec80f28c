//go:build !unix

package tunnel

import "net"

// socket: here a connection is read and written as usual.
type socket struct{ net.Conn }

func newSocket(net.Conn) *socket { return nil }

// WritePair writes two pieces.
func (s *socket) WritePair(head, p []byte) (int, error) {
	n, err := (&net.Buffers{head, p}).WriteTo(s.Conn)
	return int(n), err
}

// TryWrite writes nothing.
func (s *socket) TryWrite([]byte) (int, error) { return 0, nil }
