package tunnel

import (
	"errors"
	"io"
	"math/rand/v2"
	"runtime"
	"sync"
	"testing"
)

// choppyConn reads as little as it likes.
type choppyConn struct {
	bareConn
	mu  sync.Mutex
	rnd *rand.Rand
}

func (c *choppyConn) Read(p []byte) (int, error) {
	c.mu.Lock()
	n := 1 + c.rnd.IntN(len(p))
	if c.rnd.IntN(3) == 0 {
		n = min(n, 1+c.rnd.IntN(20))
	}
	c.mu.Unlock()
	return c.bareConn.Read(p[:n])
}

// The bytes of a model stream tell their place, so that a reader knows each.
func modelByte(id uint32, up bool, at int) byte {
	x := uint32(at)*2654435761 + id*40503
	if up {
		x = ^x
	}
	return byte(x >> 13)
}

// modelEnd is what a writer does last.
type modelEnd int

const (
	endCloseWrite modelEnd = iota
	endClose
	endReset
)

// modelWriter writes size bytes and ends; it returns early if the peer has
// ended the stream.
func modelWriter(s *Stream, up bool, size int, end modelEnd, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 1))
	buf := make([]byte, 200_000)
	for at := 0; at < size; {
		n := min(size-at, 1+rnd.IntN(1<<rnd.IntN(17)))
		for i := range buf[:n] {
			buf[i] = modelByte(s.id, up, at+i)
		}
		if _, err := s.Write(buf[:n]); err != nil {
			return
		}
		at += n
		if rnd.IntN(4) == 0 {
			runtime.Gosched()
		}
	}
	switch end {
	case endCloseWrite:
		s.CloseWrite()
	case endClose:
		s.Close()
	case endReset:
		s.Reset()
	}
}

// modelReader checks every byte until the end, and how the stream ends.
func modelReader(t *testing.T, s *Stream, up bool, size int, cut bool, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 2))
	buf := make([]byte, 70_000)
	at := 0
	for {
		n, err := s.Read(buf[:1+rnd.IntN(1<<rnd.IntN(17))%len(buf)])
		for i, b := range buf[:n] {
			if b != modelByte(s.id, up, at+i) {
				t.Errorf("stream %d: byte %d is wrong", s.id, at+i)
				s.Reset()
				return
			}
		}
		at += n
		switch {
		case err == nil:
		case err == io.EOF:
			if at != size {
				t.Errorf("stream %d: ended after %d of %d bytes as if it were whole", s.id, at, size)
			}
			return
		case !cut || !errors.Is(err, ErrStreamReset) && !errors.Is(err, ErrClosed):
			t.Errorf("stream %d: after %d of %d bytes: %v", s.id, at, size, err)
			return
		default:
			return
		}
	}
}

// TestMuxModel runs many streams with random writes, reads and ends at once:
// every byte that is read is the one that was written at its place, and an end
// is only seen where one was made.
func TestMuxModel(t *testing.T) {
	for seed := range uint64(4) {
		modelRun(t, seed)
	}
}

func modelRun(t *testing.T, seed uint64) {
	a, b := tcpPair(t)
	rnd := rand.New(rand.NewPCG(seed, 0))
	choppy := func(c bareConn) muxConn {
		if seed%2 == 0 {
			return c
		}
		return &choppyConn{bareConn: c, rnd: rand.New(rand.NewPCG(rnd.Uint64(), 0))}
	}
	opt := muxOptions{window: 300 << 10}
	node, up := startMux(t, choppy(bareConn{a}), true, opt), startMux(t, choppy(bareConn{b}), false, opt)
	var wg sync.WaitGroup
	slots := make(chan struct{}, 40)
	for range 200 {
		slots <- struct{}{}
		x, y := streamPair(t, node, up)
		sizes := [2]int{rnd.IntN(1 << (3 + rnd.IntN(17))), rnd.IntN(1 << (3 + rnd.IntN(17)))}
		ends := [2]modelEnd{modelEnd(rnd.IntN(3)), modelEnd(rnd.IntN(3))}
		cut := ends[0] != endCloseWrite || ends[1] != endCloseWrite
		s := rnd.Uint64()
		wg.Go(func() {
			var both sync.WaitGroup
			both.Go(func() { modelWriter(x, false, sizes[0], ends[0], s) })
			both.Go(func() { modelWriter(y, true, sizes[1], ends[1], s+1) })
			both.Go(func() { modelReader(t, y, false, sizes[0], cut, s) })
			both.Go(func() { modelReader(t, x, true, sizes[1], cut, s+1) })
			both.Wait()
			x.Close()
			y.Close()
			<-slots
		})
	}
	wg.Wait()
	wantStreams(t, node, 0)
	wantStreams(t, up, 0)
	if x, y := node.unread.Load(), up.unread.Load(); x != 0 || y != 0 {
		t.Errorf("%d and %d bytes counted as unread when all is over", x, y)
	}
}
