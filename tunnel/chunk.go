package tunnel

import "sync"

// chunk is a piece of a stream's received bytes that nobody has read yet. It
// belongs to whoever holds the pointer; a drained one goes back to its pool at
// once, so that an idle stream holds none.
type chunk struct {
	next *chunk
	buf  []byte
	r, w int // buf[r:w] is unread
	size int // index into chunkSizes

	budget *Budget // that has counted it; nil is none
	since  int64   // when it was counted, on the budget's clock
}

// chunkSizes are chosen by the frame. The largest takes a frame of 32 KiB, and
// behind it the header of the next one: the read loop reads both at once.
var chunkSizes = [...]int{1 << 10, 4 << 10, 16 << 10, 40 << 10}

var chunkPools [len(chunkSizes)]sync.Pool

// getChunk returns an empty chunk that fits n bytes, or the largest one.
func getChunk(n int) *chunk {
	size := 0
	for size < len(chunkSizes)-1 && chunkSizes[size] < n {
		size++
	}
	if c, _ := chunkPools[size].Get().(*chunk); c != nil {
		return c
	}
	return &chunk{buf: make([]byte, chunkSizes[size]), size: size}
}

// free gives c back.
func (c *chunk) free() {
	if c.budget != nil {
		c.budget.used.Add(-int64(len(c.buf)))
		c.budget = nil
	}
	c.next, c.r, c.w = nil, 0, 0
	chunkPools[c.size].Put(c)
}

// unread is what is in c.
func (c *chunk) unread() []byte { return c.buf[c.r:c.w] }

// room is how many bytes can be added to c.
func (c *chunk) room() int { return len(c.buf) - c.w }

// sendBuffer is a message in the making: the carrier's headroom, then frames.
type sendBuffer struct {
	b    []byte
	size int // index into sendSizes, len(sendSizes) if of no pooled size
}

// sendSizes hold a few small frames; one body; what is pending at most; and
// that with what small streams may add.
var sendSizes = [...]int{4 << 10, 40 << 10, 80 << 10, 144 << 10}

var sendPools [len(sendSizes)]sync.Pool

// getSendBuffer returns a buffer with nothing but headroom in it, and room for
// n bytes more.
func getSendBuffer(n int) *sendBuffer {
	n += headroom
	size := 0
	for size < len(sendSizes) && sendSizes[size] < n {
		size++
	}
	if size == len(sendSizes) {
		return &sendBuffer{b: make([]byte, headroom, 2*n), size: size} // rare: it is about to grow
	}
	if s, _ := sendPools[size].Get().(*sendBuffer); s != nil {
		return s
	}
	return &sendBuffer{b: make([]byte, headroom, sendSizes[size]), size: size}
}

// grow returns s, or a larger buffer with the same bytes, with room for n more.
func (s *sendBuffer) grow(n int) *sendBuffer {
	if cap(s.b)-len(s.b) >= n {
		return s
	}
	t := getSendBuffer(len(s.b) - headroom + n)
	t.b = append(t.b, s.b[headroom:]...)
	s.free()
	return t
}

// payload is the number of bytes that are to be sent.
func (s *sendBuffer) payload() int { return len(s.b) - headroom }

// free gives s back.
func (s *sendBuffer) free() {
	if s.size < len(sendSizes) {
		s.b = s.b[:headroom]
		sendPools[s.size].Put(s)
	}
}
