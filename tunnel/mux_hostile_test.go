package tunnel

import (
	"errors"
	"io"
	"net"
	"slices"
	"testing"
	"time"
)

// rawPeer speaks frames as it likes.
type rawPeer struct {
	net.Conn
	t testing.TB
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
			m, p := rawMux(t, true, muxOptions{window: initialWindow, allowPeerStreams: 1})
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

// TestMuxPeerStreamsAreBounded: also those that were accepted.
func TestMuxPeerStreamsAreBounded(t *testing.T) {
	m, p := rawMux(t, false, muxOptions{allowPeerStreams: 8, maxStreams: 3})
	p.send(opens(2, 3)...)
	for range 3 {
		mustAccept(t, m)
	}
	p.send(opens(8, 1)...)
	p.want(muxFrame{kind: kindWindow, flags: flagRST, id: 8})
}
