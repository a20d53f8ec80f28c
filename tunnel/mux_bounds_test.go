package tunnel

import (
	"errors"
	"fmt"
	"io"
	"runtime"
	"testing"
	"time"
)

// Streams that are opened and reset again leave nothing behind.
func TestMuxResetStorm(t *testing.T) {
	m, p := rawMux(t, false, muxOptions{allowPeerStreams: 8})
	const n = 20_000
	var storm []byte
	for i := range uint32(n) {
		id := 2 + 2*i
		storm = append(storm, frames(
			muxFrame{kind: kindWindow, flags: flagSYN, id: id},
			muxFrame{kind: kindData, id: id, length: 1},
			muxFrame{kind: kindWindow, flags: flagRST, id: id})...)
	}
	p.Write(storm)
	p.send(opens(2+2*n, 1)...)
	for mustAccept(t, m).ID() != 2+2*n { // some are faster than their reset
	}
	if n := m.numStreams(); n != 1 {
		t.Errorf("%d streams left", n)
	}
}

func TestMuxNeverAcknowledgedOpensEndInTime(t *testing.T) {
	m, _ := rawMux(t, true, muxOptions{})
	for range 3 * maxUnacked {
		mustOpen(t, m).Reset() // an exchange that was given up frees its place
	}
	if n := m.numStreams(); n != 0 {
		t.Errorf("%d streams left", n)
	}
}

func TestMuxTruncatedFrames(t *testing.T) {
	for _, cut := range []int{1, muxHeader - 1, muxHeader, muxHeader + 1, muxHeader + 999} {
		m, p := rawMux(t, true, muxOptions{})
		s := mustOpen(t, m)
		p.want(muxFrame{kind: kindWindow, flags: flagSYN, id: 2}) // or its end would be a TCP reset
		p.Write(frames(muxFrame{kind: kindData, id: 2, length: 1000})[:cut])
		p.Close()
		if err := m.wait(); !errors.Is(err, ErrClosedByPeer) {
			t.Errorf("cut after %d: %v", cut, err)
		}
		if n, err := io.Copy(io.Discard, s); n != int64(max(0, cut-muxHeader)) || !errors.Is(err, ErrClosedByPeer) {
			t.Errorf("cut after %d: read %d bytes, %v", cut, n, err)
		}
	}
}

// The stream that goes over the session's memory is reset, the others live.
func TestMuxUnreadBytesAreBounded(t *testing.T) {
	const limit = 1 << 20
	m, p := rawMux(t, true, muxOptions{window: initialWindow, maxBuffered: limit})
	var streams []*Stream
	for range 8 {
		streams = append(streams, mustOpen(t, m))
	}
	for _, s := range streams {
		p.send(repeat(64, muxFrame{kind: kindData, id: s.id, length: initialWindow / 64})...)
	}
	last := mustOpen(t, m)
	p.send(muxFrame{kind: kindData, id: last.id, length: 1})
	reset, whole := 0, 0
	for _, s := range append(streams, last) {
		eventually(t, func() error {
			s.mu.Lock()
			defer s.mu.Unlock()
			if s.err == nil && s.recvWindow == initialWindow {
				return fmt.Errorf("nothing has come for stream %d", s.id)
			}
			return nil
		})
	}
	if used := m.unread.Load(); used > limit {
		t.Errorf("%d bytes held", used)
	}
	for _, s := range streams {
		s.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := io.Copy(io.Discard, s)
		switch {
		case n == initialWindow:
			whole++
		case n == 0 && errors.Is(err, ErrBufferFull):
			reset++
		default:
			t.Errorf("stream %d: %d bytes, %v", s.id, n, err)
		}
	}
	if reset == 0 || whole == 0 {
		t.Errorf("%d streams were reset, %d are whole", reset, whole)
	}
	if used := m.unread.Load(); used != 0 && last.err != nil {
		t.Errorf("%d bytes counted when all is read", used)
	}
}

// Attacks that cost other implementations memory or goroutines.
func TestMuxFloodsCostNothing(t *testing.T) {
	junk := func(f muxFrame) []byte { return frames(repeat(400_000, f)...) }
	floods := map[string][]byte{
		"pings":                     junk(muxFrame{kind: kindPing, flags: flagSYN}),
		"opens":                     frames(opens(1, 400_000)...),
		"frames of unknown streams": junk(muxFrame{kind: kindData, id: 2}),
		"goaways":                   junk(muxFrame{kind: kindGoAway}),
		"windows":                   junk(muxFrame{kind: kindWindow, id: 2, length: 1}),
		"bytes":                     frames(repeat(initialWindow, muxFrame{kind: kindData, id: 2, length: 1})...),
	}
	for name, flood := range floods {
		t.Run(name, func(t *testing.T) {
			m, p := rawMux(t, true, muxOptions{})
			mustOpen(t, m)
			goroutines, heap := runtime.NumGoroutine(), heapNow()
			p.SetWriteDeadline(time.Now().Add(5 * time.Second))
			p.Write(flood) // the peer reads nothing
			if n := runtime.NumGoroutine(); n > goroutines+3 {
				t.Errorf("%d goroutines more", n-goroutines)
			}
			if used := heapNow() - heap; used > 2<<20 {
				t.Errorf("%d KiB more", used>>10)
			}
			m.stop()
		})
	}
}

func heapNow() int64 {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}

// TestResetByTwoAtOnce: who is told that a stream was reset ends it at once, before the one who has reset it is done. What
// was on its way may come still.
func TestResetByTwoAtOnce(t *testing.T) {
	for name, end := range map[string]func(s *Stream){"reset": (*Stream).Reset, "closed": func(s *Stream) { s.Close() }} {
		t.Run(name, func(t *testing.T) {
			m, p := rawMux(t, true, muxOptions{window: initialWindow})
			s, other := mustOpen(t, m), mustOpen(t, m)
			p.send(muxFrame{kind: kindWindow, flags: flagACK, id: s.id}, muxFrame{kind: kindWindow, flags: flagACK, id: other.id})
			s.mu.Lock() // the first half of overload, and of newChunk
			s.err = ErrOverloaded
			s.resetWith(rstOverloaded)
			s.mu.Unlock()
			end(s)
			p.send(repeat(initialWindow>>10, muxFrame{kind: kindData, id: s.id, length: 1 << 10})...)
			p.send(muxFrame{kind: kindData, id: other.id, length: 5})
			mustRead(t, other, "\x00\x00\x00\x00\x00")
		})
	}
}
