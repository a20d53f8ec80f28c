package tunnel

import (
	"io"
	"sync"
	"sync/atomic"
	"testing"
)

// scriptConn gives what a peer has written beforehand, in pieces of all sizes,
// and then the end.
type scriptConn struct {
	rest    []byte
	step    int
	written atomic.Int64
}

func (c *scriptConn) Read(p []byte) (int, error) {
	if len(c.rest) == 0 {
		return 0, io.EOF
	}
	c.step = c.step*5%127 + 1
	n := copy(p[:min(len(p), c.step*c.step)], c.rest)
	c.rest = c.rest[n:]
	return n, nil
}

func (c *scriptConn) writeMessage(b []byte) error {
	c.written.Add(int64(len(b) - headroom))
	clear(b)
	return nil
}

func (c *scriptConn) close(uint16, string) {}

// FuzzMux lets a peer say anything, to both roles: no panic, no goroutine that
// stays, no memory beyond what is allowed, and no answer to much larger than
// what was said.
func FuzzMux(f *testing.F) {
	for _, tt := range hostile {
		fs := tt.send[:min(len(tt.send), 3)]
		if n := len(fs); n > 0 && fs[n-1].length < 1000 {
			f.Add(frames(fs...))
		}
	}
	f.Add(frames(
		muxFrame{kind: kindWindow, flags: flagACK, id: 2, length: initialWindow},
		muxFrame{kind: kindData, id: 2, length: 2000},
		muxFrame{kind: kindData, flags: flagFIN, id: 2, length: 5},
		muxFrame{kind: kindWindow, flags: flagRST, id: 4},
		muxFrame{kind: kindWindow, flags: flagSYN, id: 1, length: 5},
		muxFrame{kind: kindData, id: 1, length: 700},
		muxFrame{kind: kindPing, flags: flagSYN, length: 99},
		muxFrame{kind: kindGoAway}))
	f.Fuzz(func(t *testing.T, script []byte) {
		for _, node := range []bool{true, false} {
			fuzzMux(t, node, script)
		}
	})
}

func fuzzMux(t *testing.T, node bool, script []byte) {
	const limit = 256 << 10
	c := &scriptConn{rest: script}
	m := newMux(c, node, muxOptions{maxBuffered: limit, maxStreams: 20, allowPeerStreams: 4})
	var users sync.WaitGroup
	for range 3 {
		s, err := m.open(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if s.id > 4 { // one that nobody reads
			continue
		}
		users.Go(func() {
			s.Write([]byte("hello"))
			io.CopyBuffer(io.Discard, struct{ io.Reader }{s}, make([]byte, 100))
			s.Close()
		})
	}
	users.Go(func() {
		for {
			s, err := m.accept()
			if err != nil {
				return
			}
			s.Write([]byte("hello"))
			s.Close()
		}
	})
	if err := m.run(); err == nil {
		t.Error("run returned no error")
	}
	users.Wait()
	if n := m.unread.Load(); n < 0 || n > limit {
		t.Errorf("%d bytes counted as unread", n)
	}
	if n, most := c.written.Load(), int64(1000+2*len(script)); n > most {
		t.Errorf("%d bytes answered to %d", n, len(script))
	}
}
