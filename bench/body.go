package bench

import (
	"bytes"
	"io"
	"math/rand/v2"
)

// randomSpan is how many different bodies there are: an answer that belongs to
// another request is noticed with that probability.
const randomSpan = 64 << 10

// bodies are random bytes, of which each exchange sends a window. They are made
// once and then only read.
type bodies struct {
	size   int
	random []byte
}

func newBodies(size int) *bodies {
	b := &bodies{size: size, random: make([]byte, size+randomSpan)}
	chacha := rand.NewChaCha8([32]byte{})
	_, _ = chacha.Read(b.random)
	return b
}

// one is the body of an exchange.
func (b *bodies) one() []byte {
	at := rand.IntN(randomSpan)
	return b.random[at : at+b.size]
}

// compare reads all of r and checks that it is want.
func compare(r io.Reader, want, buf []byte) error {
	for {
		n, err := r.Read(buf)
		if n > len(want) || !bytes.Equal(buf[:n], want[:n]) {
			return errWrongEcho
		}
		want = want[n:]
		if err == io.EOF {
			if len(want) > 0 {
				return errTruncated
			}
			return nil
		}
		if err != nil {
			return err
		}
	}
}
