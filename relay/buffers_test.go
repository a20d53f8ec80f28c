package relay

import (
	"io"
	"math/rand/v2"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

// counted are buffers of so many bytes.
type counted struct {
	mu        sync.Mutex
	used, max int
}

func (c *counted) Reserve(n int) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.used+n > c.max {
		return false
	}
	c.used += n
	return true
}

func (c *counted) Release(n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.used -= n
}

// TestKeptBodiesAreCounted: without room a body is not kept, which harms nobody; and all is given back.
func TestKeptBodiesAreCounted(t *testing.T) {
	buffers := &counted{max: largeBody}
	take := func(length int) *Body {
		req := httptest.NewRequest("POST", "/", strings.NewReader(strings.Repeat("x", length)))
		req.ContentLength = int64(length)
		return TakeBody(httptest.NewRecorder(), req, BodyOptions{Keep: largeBody, Buffers: buffers})
	}
	first, second := take(50_000), take(50_000)
	for _, b := range []*Body{first, second} {
		if n, err := io.Copy(io.Discard, attach(t, b).Body); n != 50_000 || err != nil {
			t.Errorf("read %d, %v", n, err)
		}
	}
	if !first.Whole() || second.Whole() || buffers.used != largeBody {
		t.Errorf("the first is kept: %v, the second: %v, %d bytes are counted", first.Whole(), second.Whole(), buffers.used)
	}
	first.Finish()
	second.Finish()
	if buffers.used != 0 {
		t.Errorf("%d bytes are counted in the end", buffers.used)
	}

	buffers.max = 300 << 10
	rng := rand.New(rand.NewPCG(1, 2))
	for range 500 {
		b := take(1 + rng.IntN(100<<10))
		for range rng.IntN(3) {
			if out := attach; b.Whole() {
				_, _ = io.CopyN(io.Discard, out(t, b).Body, int64(rng.IntN(100<<10)))
			}
		}
		if rng.IntN(2) == 0 {
			b.Release()
		}
		b.Finish()
		if buffers.used != 0 {
			t.Fatalf("%d bytes are counted in the end", buffers.used)
		}
	}
}
