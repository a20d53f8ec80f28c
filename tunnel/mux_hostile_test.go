package tunnel

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
)

// rawPeer speaks frames as it likes.
type rawPeer struct {
	net.Conn
	t testing.TB
	// id of a stream that it may use: opened by the mux (which then did not get
	// its ACK), or, if the mux is an upstream, by the peer.
	id uint32
}

// frames makes bytes of frames; the body of data frames is zeros.
func frames(fs ...muxFrame) []byte {
	var b []byte
	for _, f := range fs {
		b = f.append(b)
		if f.kind == kindData {
			b = append(b, make([]byte, f.length)...)
		}
	}
	return b
}

// send ignores errors: the mux may have had enough.
func (p *rawPeer) send(fs ...muxFrame) { p.Write(frames(fs...)) }

// next reads a frame; data is skipped.
func (p *rawPeer) next() (muxFrame, error) {
	var b [muxHeader]byte
	if _, err := io.ReadFull(p, b[:]); err != nil {
		return muxFrame{}, err
	}
	f := decodeMuxFrame(b[:])
	if f.kind == kindData {
		if _, err := io.CopyN(io.Discard, p, int64(f.length)); err != nil {
			return muxFrame{}, err
		}
	}
	return f, nil
}

// want reads frames until one is as f says.
func (p *rawPeer) want(f muxFrame) {
	p.t.Helper()
	p.SetReadDeadline(time.Now().Add(5 * time.Second))
	for {
		got, err := p.next()
		if err != nil {
			p.t.Fatalf("peer waits for %+v: %v", f, err)
		}
		if got == f {
			return
		}
	}
}

// rawMux is a mux with a peer that speaks frames.
func rawMux(t testing.TB, node bool, opt muxOptions) (*runningMux, *rawPeer) {
	t.Helper()
	a, b := tcpPair(t)
	m := startMux(t, bareConn{a}, node, opt)
	return m, &rawPeer{Conn: b, t: t}
}

// repeat is f n times.
func repeat(n int, f muxFrame) []muxFrame { return slices.Repeat([]muxFrame{f}, n) }

// opens is n streams opened by the peer.
func opens(first uint32, n int) (fs []muxFrame) {
	for i := range n {
		fs = append(fs, muxFrame{kind: kindWindow, flags: flagSYN, id: first + 2*uint32(i)})
	}
	return fs
}

// hostile is what a peer may do to a mux that ends it. The mux is a node that
// takes a control stream, with streams 2 and 6 open and
// stream 4 reset by the peer.
var hostile = []struct {
	name string
	send []muxFrame
	want error
}{
	{"unknown version", []muxFrame{{version: 1, kind: kindData, id: 2}}, errBadVersion},
	{"unknown type", []muxFrame{{kind: 4, id: 2}}, errBadKind},
	{"ping on a stream", []muxFrame{{kind: kindPing, flags: flagSYN, id: 2}}, errBadSession},
	{"goaway on a stream", []muxFrame{{kind: kindGoAway, id: 2}}, errBadSession},
	{"goaways", repeat(lateFrames+100, muxFrame{kind: kindGoAway}), errLateFrames},
	{"answers to pings that were not sent", repeat(lateFrames+100, muxFrame{kind: kindPing, flags: flagACK}), errLateFrames},

	{"stream with an id of ours", opens(8, 1), errWrongSide},
	{"stream with an id of ours that is open", opens(2, 1), errWrongSide},
	{"stream 0", opens(0, 1), errWrongSide},
	{"stream twice", slices.Concat(opens(1, 1), opens(1, 1)), errDuplicate},
	{"streams on and on", opens(1, refusalBurst+100), errOpensTooMany},

	{"data above the window", []muxFrame{{kind: kindData, id: 2, length: initialWindow + 1}}, errOverWindow},
	{"data above the window bit by bit", repeat(9, muxFrame{kind: kindData, id: 2, length: initialWindow / 8}), errOverWindow},
	{"data as long as can be", []muxFrame{{kind: kindWindow, id: 2, length: 1}, {kind: kindData, id: 0xfffffff, length: 0}}, errNoSuchStream},
	{"window that wraps", []muxFrame{{kind: kindWindow, id: 2, length: 1<<32 - 1}}, errWindowWraps},
	{"window that wraps bit by bit", repeat(4, muxFrame{kind: kindWindow, id: 2, length: 1 << 30}), errWindowWraps},
	{"windows of nothing", repeat(lateFrames+100, muxFrame{kind: kindWindow, id: 2}), errLateFrames},
	{"data of nothing", repeat(lateFrames+100, muxFrame{kind: kindData, id: 2}), errLateFrames},
	{"ends on and on", repeat(lateFrames+100, muxFrame{kind: kindWindow, flags: flagFIN, id: 2}), errLateFrames},

	{"data on stream 0", []muxFrame{{kind: kindData, length: 1}}, errNoSuchStream},
	{"window on stream 0", []muxFrame{{kind: kindWindow, length: 1}}, errNoSuchStream},
	{"data on a stream that we have not opened", []muxFrame{{kind: kindData, id: 8, length: 1}}, errNoSuchStream},
	{"data on a stream that the peer has not opened", []muxFrame{{kind: kindData, id: 1, length: 1}}, errNoSuchStream},
	{"more than was on its way to a stream that is gone", repeat(initialWindow>>15+1, muxFrame{kind: kindData, id: 4, length: 1 << 15}), errLateFrames},
	{"windows of a stream that is gone", repeat(lateFrames+100, muxFrame{kind: kindWindow, id: 4, length: 1}), errLateFrames},
	{"resets of a stream that is gone", repeat(lateFrames+100, muxFrame{kind: kindWindow, flags: flagRST, id: 4}), errLateFrames},
}

func TestMuxHostilePeer(t *testing.T) {
	for _, tt := range hostile {
		t.Run(tt.name, func(t *testing.T) {
			var log strings.Builder
			m, p := rawMux(t, true, muxOptions{
				window: initialWindow, allowPeerStreams: 1,
				log: slog.New(slog.NewTextHandler(&log, nil)),
			})
			mustOpen(t, m)
			refused, other := mustOpen(t, m), mustOpen(t, m)
			p.send(muxFrame{kind: kindWindow, flags: flagRST, id: 4})
			wantReadError(t, refused, ErrRefused)
			go p.send(tt.send...) // the mux may stop reading half-way
			p.want(muxFrame{kind: kindGoAway, length: goAwayProtocol})
			p.Close()
			if err := m.wait(); !errors.Is(err, tt.want) {
				t.Errorf("run returned %v, want %v", err, tt.want)
			}
			wantReadError(t, other, tt.want)
			if lines := strings.Count(log.String(), "\n"); lines != 1 {
				t.Errorf("%d log lines: %s", lines, &log)
			}
		})
	}
}

// What looks odd and is not.
func TestMuxTolerates(t *testing.T) {
	tests := []struct {
		name string
		send []muxFrame
	}{
		{"unknown flags", []muxFrame{{kind: kindWindow, flags: 1 << 9, id: 2, length: 1}}},
		{"acknowledged twice", repeat(2, muxFrame{kind: kindWindow, flags: flagACK, id: 2})},
		{"data behind the end", []muxFrame{
			{kind: kindWindow, flags: flagFIN, id: 6},
			{kind: kindData, id: 6, length: 1000},
		}},
		{"data with the end", []muxFrame{{kind: kindData, flags: flagFIN, id: 6, length: 1000}}},
		{"data with the reset", []muxFrame{{kind: kindData, flags: flagRST, id: 6, length: 100_000}}},
		{"data with an open that is refused", []muxFrame{
			{kind: kindWindow, flags: flagSYN, id: 1},
			{kind: kindData, flags: flagSYN, id: 3, length: 100_000},
			{kind: kindData, id: 3, length: 100_000},
		}},
		{"all that was on its way to a stream that is gone", append(
			repeat(initialWindow>>10, muxFrame{kind: kindData, id: 4, length: 1 << 10}),
			repeat(lateFramesEach, muxFrame{kind: kindWindow, id: 4, length: 1})...)},
		{"both ends, late", []muxFrame{
			{kind: kindWindow, flags: flagFIN, id: 4},
			{kind: kindWindow, flags: flagRST, id: 4},
		}},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			m, p := rawMux(t, true, muxOptions{window: initialWindow, allowPeerStreams: 1})
			s := mustOpen(t, m)
			refused := mustOpen(t, m)
			mustOpen(t, m)
			p.send(muxFrame{kind: kindWindow, flags: flagRST, id: 4})
			wantReadError(t, refused, ErrRefused)
			p.send(tt.send...)
			p.send(muxFrame{kind: kindData, flags: flagACK, id: 2, length: 5})
			mustRead(t, s, "\x00\x00\x00\x00\x00")
		})
	}
}

func TestMuxPingFlood(t *testing.T) {
	m, p := rawMux(t, true, muxOptions{})
	for i := range uint32(pingRate) {
		p.send(muxFrame{kind: kindPing, flags: flagSYN, length: i})
		p.want(muxFrame{kind: kindPing, flags: flagACK, length: i})
	}
	p.send(muxFrame{kind: kindPing, flags: flagSYN})
	if err := m.wait(); !errors.Is(err, errPingFlood) {
		t.Errorf("run returned %v", err)
	}
}

func TestMuxPingsAboveTheAnswersThatAreRead(t *testing.T) {
	a, b := net.Pipe() // takes nothing that is not read
	m := startMux(t, bareConn{a}, true, muxOptions{})
	defer b.Close()
	go b.Write(frames(repeat(maxPingsUnanswered+1, muxFrame{kind: kindPing, flags: flagSYN})...))
	eventually(t, func() error { // it says so, if it can be heard
		if m.alive() {
			m.mux.mu.Lock()
			defer m.mux.mu.Unlock()
			if !m.weLeave {
				return errors.New("session goes on")
			}
		}
		return nil
	})
	b.Close()
	if err := m.wait(); !errors.Is(err, errTooManyPings) {
		t.Errorf("run returned %v", err)
	}
}

func TestMuxRefusesSecondPeerStream(t *testing.T) {
	m, p := rawMux(t, true, muxOptions{allowPeerStreams: 1})
	p.send(opens(1, 2)...)
	p.want(muxFrame{kind: kindWindow, flags: flagRST, id: 3})
	s := mustAccept(t, m)
	// The place is not free again when the first has gone.
	p.send(muxFrame{kind: kindWindow, flags: flagRST, id: 1})
	wantReadError(t, s, ErrStreamReset)
	p.send(opens(5, 1)...)
	p.want(muxFrame{kind: kindWindow, flags: flagRST, id: 5})
}

func TestMuxBacklogIsBounded(t *testing.T) {
	m, p := rawMux(t, false, muxOptions{allowPeerStreams: 8})
	p.send(opens(2, 9)...)
	p.want(muxFrame{kind: kindWindow, flags: flagRST, id: 18})
	for range 8 {
		mustAccept(t, m)
	}
	p.send(opens(20, 1)...)
	if s := mustAccept(t, m); s.ID() != 20 {
		t.Errorf("accepted %d", s.ID())
	}
}

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

// Attacks that cost other implementations memory, goroutines or log lines.
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
			var log strings.Builder
			m, p := rawMux(t, true, muxOptions{log: slog.New(slog.NewTextHandler(&log, nil))})
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
			if lines := strings.Count(log.String(), "\n"); lines > 1 {
				t.Errorf("%d log lines", lines)
			}
		})
	}
}

func heapNow() int64 {
	runtime.GC()
	var ms runtime.MemStats
	runtime.ReadMemStats(&ms)
	return int64(ms.HeapAlloc)
}
