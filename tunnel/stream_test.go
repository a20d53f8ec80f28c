package tunnel

import (
	"errors"
	"io"
	"net"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/net/nettest"
)

func TestStreamIsANetConn(t *testing.T) {
	nettest.TestConn(t, func() (c1, c2 net.Conn, stop func(), err error) {
		a, b := tcpPair(t)
		node := startMux(t, bareConn{a}, true, muxOptions{})
		up := startMux(t, bareConn{b}, false, muxOptions{})
		x, y := streamPair(t, node, up)
		return x, y, func() { x.Close(); y.Close(); node.stop(); up.stop() }, nil
	})
}

// inBubble runs f with a pair of streams in a synctest bubble.
func inBubble(t *testing.T, f func(t *testing.T, node, up *runningMux, a, b *Stream)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		node, up := memMuxPair(t, muxOptions{})
		a, b := streamPair(t, node, up)
		f(t, node, up, a, b)
	})
}

func TestStreamCloseWriteLeavesReading(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		mustWrite(t, a, "question")
		if err := a.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if err := a.CloseWrite(); err != nil {
			t.Errorf("second CloseWrite: %v", err)
		}
		wantWriteError(t, a, ErrClosed)
		wantWriteError(t, a, net.ErrClosed)
		mustRead(t, b, "question")
		wantReadError(t, b, io.EOF)
		mustWrite(t, b, "answer")
		b.Close()
		mustRead(t, a, "answer")
		wantReadError(t, a, io.EOF)
		synctest.Wait()
		if node.numStreams()+up.numStreams() != 0 {
			t.Error("both sides have ended, and the stream is not forgotten")
		}
	})
}

func TestStreamCloseSendsWhatWasWritten(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		mustWrite(t, a, "last words")
		if err := a.Close(); err != nil {
			t.Fatal(err)
		}
		if err := a.Close(); err != nil {
			t.Errorf("second Close: %v", err)
		}
		if err := a.CloseWrite(); !errors.Is(err, ErrClosed) {
			t.Errorf("CloseWrite after Close: %v", err)
		}
		wantReadError(t, a, ErrClosed)
		wantWriteError(t, a, ErrClosed)
		mustRead(t, b, "last words")
		wantReadError(t, b, io.EOF)
		b.Close()
		synctest.Wait()
		if node.numStreams()+up.numStreams() != 0 {
			t.Error("both sides have ended, and the stream is not forgotten")
		}
	})
}

func TestStreamDataForAClosedStreamIsAnsweredWithReset(t *testing.T) {
	for _, size := range []int{1, 100_000} {
		inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
			mustWrite(t, a, "response")
			a.Close()
			synctest.Wait()
			b.Write(make([]byte, size))
			synctest.Wait()
			wantWriteError(t, b, ErrStreamReset)
			// The peer had ended its side in order before, and all of that is there.
			mustRead(t, b, "response")
			wantReadError(t, b, io.EOF)
			if node.numStreams()+up.numStreams() != 0 {
				t.Error("the stream is not forgotten")
			}
		})
	}
}

func TestStreamLingersForThirtySeconds(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		c, d := streamPair(t, node, up)
		a.Close()
		time.Sleep(10 * time.Second)
		c.Close()
		time.Sleep(20*time.Second - time.Nanosecond)
		synctest.Wait()
		if n := node.numStreams(); n != 2 {
			t.Fatalf("%d streams before the time", n)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if n := node.numStreams(); n != 1 {
			t.Errorf("%d streams, want one that lingers", n)
		}
		wantReadError(t, b, io.EOF)
		wantWriteError(t, b, ErrStreamReset)
		mustWrite(t, d, "in time") // although nobody reads it
		time.Sleep(10 * time.Second)
		synctest.Wait()
		if node.numStreams()+up.numStreams() != 0 {
			t.Error("streams left")
		}
	})
}

func TestStreamReset(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		mustWrite(t, b, "arrived")
		synctest.Wait()
		woken := make(chan error, 1)
		c, d := streamPair(t, node, up)
		go func() { _, err := c.Read(make([]byte, 1)); woken <- err }()
		go func() { _, err := d.Read(make([]byte, 1)); woken <- err }()
		synctest.Wait()
		c.Reset()
		if err := <-woken; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrStreamReset) {
			t.Errorf("woken with %v", err)
		}
		if err := <-woken; !errors.Is(err, ErrClosed) && !errors.Is(err, ErrStreamReset) {
			t.Errorf("woken with %v", err)
		}
		c.Reset() // does nothing
		b.Reset()
		synctest.Wait()
		wantReadError(t, b, ErrClosed)
		wantWriteError(t, a, ErrStreamReset)
		mustRead(t, a, "arrived")
		wantReadError(t, a, ErrStreamReset)
		if node.numStreams()+up.numStreams() != 0 {
			t.Error("streams left")
		}
		if err := a.CloseWrite(); !errors.Is(err, ErrStreamReset) {
			t.Errorf("CloseWrite: %v", err)
		}
		a.Close()
	})
}

func TestStreamRefusedOnlyBeforeItIsAccepted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := memPair()
		m := startMux(t, bareConn{x}, true, muxOptions{})
		p := &rawPeer{Conn: y, t: t}
		refused, acked, heard := mustOpen(t, m), mustOpen(t, m), mustOpen(t, m)
		p.send(
			muxFrame{kind: kindWindow, flags: flagACK, id: acked.id},
			muxFrame{kind: kindData, id: heard.id, length: 1})
		for _, s := range []*Stream{refused, acked, heard} {
			p.send(muxFrame{kind: kindWindow, flags: flagRST, id: s.id})
		}
		wantReadError(t, refused, ErrRefused)
		wantReadError(t, acked, ErrStreamReset)
		mustRead(t, heard, "\x00")
		wantReadError(t, heard, ErrStreamReset)
		y.Close()
	})
}

func TestStreamCloseWakesReadAndWrite(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		results := make(chan error, 2)
		go func() { _, err := a.Read(make([]byte, 1)); results <- err }()
		go func() { _, err := a.Write(make([]byte, 1<<20)); results <- err }()
		synctest.Wait()
		a.Close()
		for range 2 {
			if err := <-results; !errors.Is(err, ErrClosed) {
				t.Errorf("woken with %v", err)
			}
		}
		// What had been taken goes out, then the end.
		if n, err := io.Copy(io.Discard, b); n != int64(up.opt.window) || err != nil {
			t.Errorf("peer read %d bytes, %v", n, err)
		}
	})
}

func TestStreamQuiet(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		quiet := func(s *Stream, want bool, when string) {
			t.Helper()
			synctest.Wait()
			if got := s.Quiet(); got != want {
				t.Errorf("Quiet %s: %v", when, got)
			}
		}
		quiet(a, true, "when new")
		mustWrite(t, b, "xy")
		quiet(a, false, "with unread bytes")
		mustRead(t, a, "x")
		quiet(a, false, "with a byte left")
		mustRead(t, a, "y")
		quiet(a, true, "when all is read")
		b.CloseWrite()
		quiet(a, false, "after the peer's end")
		quiet(b, false, "after our end")
		c, d := streamPair(t, node, up)
		d.Reset()
		quiet(c, false, "after the peer's reset")
		quiet(d, false, "after our reset")
		e, f := streamPair(t, node, up)
		f.Close()
		quiet(f, false, "after Close")
		node.fail(ErrDead)
		quiet(e, false, "after the session's end")
	})
}

func TestStreamSteadyStateAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	node, up := muxPair(t, muxOptions{})
	a, b := streamPair(t, node, up)
	for _, size := range []int{13, 5000, 32 << 10} {
		go func() {
			buf := make([]byte, size)
			for {
				if _, err := io.ReadFull(b, buf); err != nil || buf[0] == 1 {
					return
				}
				b.Write(buf)
			}
		}()
		buf := make([]byte, size)
		allocs := testing.AllocsPerRun(500, func() {
			a.Write(buf)
			io.ReadFull(a, buf)
			// As net/http does around every request.
			a.SetReadDeadline(time.Unix(1, 0))
			a.SetReadDeadline(time.Time{})
		})
		if allocs >= 1 {
			t.Errorf("%d bytes there and back: %v allocations", size, allocs)
		}
		buf[0] = 1
		a.Write(buf)
	}
}

func TestStreamHoldsNoBufferWhenItIsRead(t *testing.T) {
	node, up := muxPair(t, muxOptions{})
	a, b := streamPair(t, node, up)
	for range 20 {
		go a.Write(make([]byte, 100_000))
		if _, err := io.CopyN(io.Discard, b, 100_000); err != nil {
			t.Fatal(err)
		}
	}
	if !b.Quiet() || up.unread.Load() != 0 {
		t.Errorf("quiet %v, %d bytes counted", b.Quiet(), up.unread.Load())
	}
	eventually(t, func() error {
		node.out.mu.Lock()
		defer node.out.mu.Unlock()
		if node.out.buf != nil || node.out.state != flushIdle {
			return errors.New("the outbox holds a buffer")
		}
		return nil
	})
}
