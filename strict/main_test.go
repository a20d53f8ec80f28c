package strict

import (
	"bytes"
	"io"
	"math/rand/v2"
	"net"
	"testing"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) {
	goleak.VerifyTestMain(m)
}

// source is a connection from which a client's bytes come in pieces of random size.
type source struct {
	net.Conn
	left  []byte
	sizes *rand.Rand
}

func (s *source) Read(p []byte) (int, error) {
	if len(s.left) == 0 {
		return 0, io.EOF
	}
	n := copy(p[:min(len(p), pieceSize(s.sizes))], s.left)
	s.left = s.left[n:]
	return n, nil
}

// pieceSize is small most of the time, and often 1.
func pieceSize(sizes *rand.Rand) int {
	switch sizes.IntN(4) {
	case 0:
		return 1
	case 1:
		return 1 + sizes.IntN(8)
	}
	return 1 + sizes.IntN(300)
}

// pass returns what net/http gets of what a client sends, read and sent in pieces of random size.
func pass(t testing.TB, sent []byte, seed uint64) []byte {
	t.Helper()
	sizes := rand.New(rand.NewPCG(seed, 1))
	c := NewConn(&source{left: bytes.Clone(sent), sizes: sizes}).(*Conn)
	c.waits.Store(nil) // a byte that is read alone would be held
	var got []byte
	for {
		p := make([]byte, pieceSize(sizes))
		n, err := c.Read(p)
		got = append(got, p[:n]...)
		if err == io.EOF {
			return got
		}
		if err != nil || n == 0 || len(got) > len(sent)+len(refusal) {
			t.Fatalf("Read gave %d bytes, %v, after %d of %d", n, err, len(got), len(sent))
		}
	}
}
