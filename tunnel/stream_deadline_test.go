package tunnel

import (
	"errors"
	"io"
	"net"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

func TestStreamReadDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		start := time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		wantReadError(t, a, os.ErrDeadlineExceeded)
		if d := time.Since(start); d != time.Second {
			t.Errorf("after %v", d)
		}
		mustWrite(t, b, "x")
		synctest.Wait()
		wantReadError(t, a, os.ErrDeadlineExceeded) // as net's, even with data
		a.SetReadDeadline(time.Time{})
		mustRead(t, a, "x")

		// Moved while somebody waits.
		result := make(chan error, 1)
		read := func() { _, err := a.Read(make([]byte, 1)); result <- err }
		start = time.Now()
		a.SetReadDeadline(start.Add(time.Second))
		go read()
		time.Sleep(time.Second / 2)
		a.SetReadDeadline(start.Add(3 * time.Second))
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		a.SetReadDeadline(time.Time{})
		go read()
		synctest.Wait()
		a.SetReadDeadline(time.Unix(1, 0)) // what net/http does
		if err := <-result; !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Error(err)
		}
		var timeout net.Error
		if _, err := a.Read(make([]byte, 1)); !errors.As(err, &timeout) || !timeout.Timeout() {
			t.Errorf("%v is no time-out to net/http", err)
		}
		a.Close()
		if err := a.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("SetDeadline after Close: %v", err)
		}
	})
}

func TestStreamWriteDeadline(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		start := time.Now()
		a.SetWriteDeadline(start.Add(time.Second))
		n, err := a.Write(make([]byte, 1<<20))
		if n != up.opt.window || !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
			t.Errorf("waiting for window: %d bytes, %v, after %v", n, err, time.Since(start))
		}
		a.SetWriteDeadline(time.Time{})
		a.CloseWrite()
		if n, err := io.Copy(io.Discard, b); n != int64(up.opt.window) || err != nil {
			t.Errorf("peer read %d bytes, %v", n, err)
		}
	})
}

// With a deadline nobody is stuck in a system call, nor behind one.
func TestStreamWriteDeadlineWhileTheConnectionTakesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := &gatedConn{messages: make(chan []byte)}
		m := startMux(t, c, true, muxOptions{})
		s, other := mustOpen(t, m), mustOpen(t, m)
		s.SetWriteDeadline(time.Now().Add(time.Second))
		start := time.Now()
		total := 0
		for {
			n, err := s.Write(make([]byte, 10_000))
			if total += n; err != nil {
				if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != time.Second {
					t.Errorf("%v after %v", err, time.Since(start))
				}
				break
			}
		}
		if total > bulkBound+smallBound {
			t.Errorf("%d bytes were taken", total)
		}
		// What it gave up is not sent, what it got rid of is, and others go on.
		s.SetWriteDeadline(time.Time{})
		go func() {
			s.CloseWrite()
			other.Write([]byte("x"))
		}()
		got := 0
		for ended, heard := false, false; !ended || !heard; {
			for msg := c.next(); len(msg) > 0; {
				f := decodeMuxFrame(msg)
				msg = msg[muxHeader:]
				switch {
				case f.kind == kindData && f.id == s.id:
					got += int(f.length)
				case f.kind == kindData:
					heard = true
				case f.has(flagFIN):
					ended = true
				}
				if f.kind == kindData {
					msg = msg[f.length:]
				}
			}
			synctest.Wait()
		}
		if got != total {
			t.Errorf("%d bytes were taken, %d sent", total, got)
		}
	})
}
