package tunnel

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"sync"
	"testing"

	"github.com/hashicorp/yamux"
)

// theirs is default yamux, as v0.9.0 has it, at the other end.
func theirs(t testing.TB, node bool, cfg *yamux.Config, opt muxOptions) (*runningMux, *yamux.Session) {
	t.Helper()
	a, b := tcpPair(t)
	make := yamux.Server
	if node {
		make = yamux.Client
	}
	peer, err := make(b, cfg)
	if err != nil {
		t.Fatal(err)
	}
	m := startMux(t, bareConn{a}, node, opt)
	t.Cleanup(func() { peer.Close() })
	return m, peer
}

// interopPair opens a stream from the node, whichever side is ours.
func interopPair(t testing.TB, m *runningMux, peer *yamux.Session) (ours *Stream, their *yamux.Stream) {
	t.Helper()
	var err error
	if m.node {
		ours = mustOpen(t, m)
		their, err = peer.AcceptStream()
	} else {
		if their, err = peer.OpenStream(); err == nil {
			ours = mustAccept(t, m)
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	return ours, their
}

// eachRole runs f with ours as the node and as the upstream, with a window as
// v0.9.0 has it, and with ours.
func eachRole(t *testing.T, f func(t *testing.T, m *runningMux, peer *yamux.Session)) {
	for _, node := range []bool{true, false} {
		for _, window := range []int{256 << 10, 512 << 10} {
			t.Run(fmt.Sprintf("node=%v/window=%dKiB", node, window>>10), func(t *testing.T) {
				m, peer := theirs(t, node, quietYamux(), muxOptions{window: window})
				f(t, m, peer)
			})
		}
	}
}

func TestInteropStreamsAndHalfClose(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		for range 300 { // more than either side leaves unacknowledged
			a, b := interopPair(t, m, peer)
			mustWrite(t, a, "question")
			mustRead(t, b, "question")
			a.CloseWrite()
			wantReadError(t, b, io.EOF)
			mustWrite(t, b, "answer after the end of the question")
			b.Close()
			mustRead(t, a, "answer after the end of the question")
			wantReadError(t, a, io.EOF)
			a.Close()
		}
		wantStreams(t, m, 0)
		eventually(t, func() error {
			if n := peer.NumStreams(); n != 0 {
				return fmt.Errorf("peer has %d streams", n)
			}
			return nil
		})
	})
}

func TestInteropBulkBothWays(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		var wg sync.WaitGroup
		defer wg.Wait()
		for i := range 6 {
			a, b := interopPair(t, m, peer)
			there, back := randomBytes(1<<20+1000*i), randomBytes(1<<20-1000*i)
			wg.Go(func() { sendPieces(t, a, a.CloseWrite, there) })
			wg.Go(func() { sendPieces(t, b, b.Close, back) })
			wg.Go(func() { wantAll(t, b, there) })
			wg.Go(func() { wantAll(t, a, back) })
		}
	})
}

func randomBytes(n int) []byte {
	b := make([]byte, n)
	rand.NewChaCha8([32]byte{byte(n)}).Read(b)
	return b
}

// sendPieces writes p in pieces of all sizes, and ends.
func sendPieces(t *testing.T, w io.Writer, end func() error, p []byte) {
	r := rand.New(rand.NewPCG(uint64(len(p)), 0))
	for len(p) > 0 {
		n := min(len(p), 1+r.IntN(1<<r.IntN(20)))
		if _, err := w.Write(p[:n]); err != nil {
			t.Errorf("write: %v", err)
			return
		}
		p = p[n:]
	}
	if err := end(); err != nil {
		t.Errorf("end: %v", err)
	}
}

// wantAll reads to the end.
func wantAll(t *testing.T, r io.Reader, want []byte) {
	got, err := io.ReadAll(r)
	if err != nil || len(got) != len(want) {
		t.Errorf("read %d bytes, %v, want %d", len(got), err, len(want))
		return
	}
	if sha256.Sum256(got) != sha256.Sum256(want) {
		t.Error("bytes differ")
	}
}

func TestInteropPingsAreAnswered(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		for range 5 {
			if _, err := peer.Ping(); err != nil {
				t.Fatal(err)
			}
		}
	})
}

func TestInteropResetIsSeenAsConnectionReset(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		a, b := interopPair(t, m, peer)
		mustWrite(t, b, "unread")
		a.Reset()
		wantReadError(t, b, yamux.ErrConnectionReset)
		wantWriteError(t, b, yamux.ErrConnectionReset)
		wantReadError(t, a, ErrClosed)
		wantStreams(t, m, 0)
	})
}

func TestInteropLateDataIsAnsweredWithReset(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		a, b := interopPair(t, m, peer)
		mustWrite(t, a, "bye")
		a.Close()
		mustRead(t, b, "bye")
		wantReadError(t, b, io.EOF)
		eventually(t, func() error {
			if _, err := b.Write([]byte("still listening?")); !errors.Is(err, yamux.ErrConnectionReset) {
				return fmt.Errorf("peer's write: %v", err)
			}
			return nil
		})
		wantStreams(t, m, 0)
	})
}

// A peer that fills the window of a stream that was closed at our end must not
// hang until somebody gives up.
func TestInteropCloseWakesAPeerThatWaitsForWindow(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		a, b := interopPair(t, m, peer)
		failed := make(chan error, 1)
		go func() {
			buf := make([]byte, 64<<10)
			for {
				if _, err := b.Write(buf); err != nil {
					failed <- err
					return
				}
			}
		}()
		eventually(t, func() error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.recvWindow != 0 {
				return errors.New("peer does not fill the window")
			}
			return nil
		})
		a.Close()
		if err := <-failed; !errors.Is(err, yamux.ErrConnectionReset) {
			t.Errorf("peer's write: %v", err)
		}
	})
}

func TestInteropGoAway(t *testing.T) {
	t.Run("normal", func(t *testing.T) {
		m, peer := theirs(t, false, quietYamux(), muxOptions{})
		a, b := interopPair(t, m, peer)
		m.goAway(goAwayNormal)
		eventually(t, func() error {
			s, err := peer.OpenStream()
			if errors.Is(err, yamux.ErrRemoteGoAway) {
				return nil
			}
			if err == nil { // it crossed the frame, and is served
				mustAccept(t, m).Close()
				s.Close()
			}
			return fmt.Errorf("OpenStream: %v", err)
		})
		mustWrite(t, a, "goes on")
		mustRead(t, b, "goes on")
	})
	// What sends a v0.9.0 agent back: its session ends with an error that is
	// not an orderly close.
	t.Run("internal", func(t *testing.T) {
		m, peer := theirs(t, true, quietYamux(), muxOptions{})
		if err := m.goAway(goAwayInternal); err != nil {
			t.Fatal(err)
		}
		m.stop()
		_, err := peer.AcceptStream()
		if err == nil || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.Is(err, yamux.ErrSessionShutdown) {
			t.Errorf("peer's accept: %v", err)
		}
	})
	t.Run("theirs", func(t *testing.T) {
		m, peer := theirs(t, true, quietYamux(), muxOptions{})
		a, b := interopPair(t, m, peer)
		peer.GoAway()
		eventually(t, func() error {
			s, err := m.open(t.Context())
			if err == nil {
				wantReadError(t, s, ErrRefused)
			}
			if !errors.Is(err, ErrGoAway) {
				return fmt.Errorf("open: %v", err)
			}
			return nil
		})
		mustWrite(t, b, "goes on")
		mustRead(t, a, "goes on")
	})
}

func TestInteropBacklogExceededIsRefused(t *testing.T) {
	cfg := quietYamux()
	cfg.AcceptBacklog = 8
	m, peer := theirs(t, true, cfg, muxOptions{})
	var streams []*Stream
	for range 20 {
		s := mustOpen(t, m)
		s.Write([]byte("request")) // it may be refused by now
		streams = append(streams, s)
	}
	for _, s := range streams[8:] {
		wantReadError(t, s, ErrRefused)
		if s.Acked() {
			t.Error("refused and acknowledged")
		}
	}
	for range 8 {
		s, err := peer.AcceptStream()
		if err != nil {
			t.Fatal(err)
		}
		mustRead(t, s, "request")
		mustWrite(t, s, "response")
	}
	for _, s := range streams[:8] {
		mustRead(t, s, "response")
	}
	wantStreams(t, m, 8)
}

// Their window as they announce it: ours must not stop at 256 KiB, nor go over.
func TestInteropUsesTheWholeWindowOfThePeer(t *testing.T) {
	for _, node := range []bool{true, false} {
		cfg := quietYamux()
		cfg.MaxStreamWindowSize = 1 << 20
		m, peer := theirs(t, node, cfg, muxOptions{})
		a, b := interopPair(t, m, peer)
		mustWrite(t, b, "x") // its ACK, and window, have come with this
		mustRead(t, a, "x")
		done := make(chan error, 1)
		go func() {
			_, err := a.Write(make([]byte, 2<<20))
			done <- err
		}()
		eventually(t, func() error {
			a.mu.Lock()
			defer a.mu.Unlock()
			if a.sendWindow > 0 {
				return fmt.Errorf("%d bytes of window left", a.sendWindow)
			}
			return nil
		})
		if n, err := io.CopyN(io.Discard, b, 2<<20); err != nil {
			t.Fatalf("peer got %d bytes: %v", n, err)
		}
		if err := <-done; err != nil {
			t.Error(err)
		}
	}
}

func TestInteropEndOfThePeer(t *testing.T) {
	eachRole(t, func(t *testing.T, m *runningMux, peer *yamux.Session) {
		a, b := interopPair(t, m, peer)
		mustWrite(t, b, "last words")
		mustWrite(t, a, "x")
		mustRead(t, b, "x")
		peer.Close()
		mustRead(t, a, "last words")
		if _, err := a.Read(make([]byte, 1)); err == nil || err == io.EOF {
			t.Errorf("read after the end of the session: %v", err)
		}
		if err := m.wait(); err == nil {
			t.Error("run returned no error")
		}
	})
}
