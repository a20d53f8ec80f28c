package tunnel

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// handing reads a stream with ReadOr until it ends.
type handing struct {
	s    *Stream
	take func(p []byte) int // how much of what it is offered it takes

	all   []byte // in order, both what was taken and what was read
	taken int
	err   error
}

func (h *handing) run() {
	buf := make([]byte, 1<<10)
	for h.err == nil {
		var n int
		n, h.err = h.s.ReadOr(buf, func(p []byte) int {
			n := h.take(p)
			h.all = append(h.all, p[:n]...)
			h.taken += n
			return n
		})
		h.all = append(h.all, buf[:n]...)
	}
}

// start runs h until the stream ends; wait returns why.
func (h *handing) start() (wait func() error) {
	done := make(chan struct{})
	go func() { defer close(done); h.run() }()
	return func() error { <-done; return h.err }
}

func takeAll(p []byte) int { return len(p) }

// wantWindow says that nothing of the stream's window has been lost: what the
// peer may send, what was read since it was told, and what lies unread. Nobody
// may be reading.
func wantWindow(t *testing.T, s *Stream) {
	t.Helper()
	s.mu.Lock()
	defer s.mu.Unlock()
	sum := int(s.recvWindow + s.consumed)
	if s.current != nil {
		sum += len(s.current.unread())
	}
	for c := s.first; c != nil; c = c.next {
		sum += len(c.unread())
	}
	if sum != s.m.opt.window {
		t.Errorf("window %d + read %d + unread = %d, want %d", s.recvWindow, s.consumed, sum, s.m.opt.window)
	}
}

func TestOfferHandsOnInOrderWithoutAReader(t *testing.T) {
	inBubble(t, func(t *testing.T, _, _ *runningMux, a, b *Stream) {
		h := &handing{s: b, take: takeAll}
		wait := h.start()
		for _, part := range []string{"one ", "two ", "three"} {
			synctest.Wait() // ReadOr waits
			mustWrite(t, a, part)
		}
		synctest.Wait()
		if string(h.all) != "one two three" || h.taken != len(h.all) {
			t.Errorf("got %q, of which %d bytes were taken", h.all, h.taken)
		}
		wantWindow(t, b)
		a.CloseWrite()
		if err := wait(); err != io.EOF {
			t.Errorf("ended with %v", err)
		}
	})
}

// A destination that takes a part, or nothing, gets the rest from the reader.
func TestOfferLeavesTheRestToTheReader(t *testing.T) {
	for _, most := range []int{0, 1, 3} {
		inBubble(t, func(t *testing.T, _, _ *runningMux, a, b *Stream) {
			h := &handing{s: b, take: func(p []byte) int { return min(len(p), most) }}
			wait := h.start()
			var want strings.Builder
			for range 5 {
				synctest.Wait()
				mustWrite(t, a, "abcdefg")
				want.WriteString("abcdefg")
			}
			synctest.Wait()
			if string(h.all) != want.String() || h.taken != 5*most {
				t.Errorf("got %q, of which %d bytes were taken, want %d", h.all, h.taken, 5*most)
			}
			wantWindow(t, b)
			a.CloseWrite()
			wait()
		})
	}
}

// What was taken counts as read: many windows go through without a stop.
func TestOfferedBytesOpenTheWindow(t *testing.T) {
	inBubble(t, func(t *testing.T, _, up *runningMux, a, b *Stream) {
		h := &handing{s: b, take: takeAll}
		wait := h.start()
		const size, count = 400, 3 * initialWindow / 400
		for range count {
			synctest.Wait()
			if _, err := a.Write(make([]byte, size)); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		if h.taken != count*size {
			t.Errorf("%d bytes were taken, want %d", h.taken, count*size)
		}
		if n := up.unread.Load(); n != 0 {
			t.Errorf("%d bytes count as unread", n)
		}
		wantWindow(t, b)
		a.Close()
		wait()
	})
}

// A destination that takes nothing stops the peer, at one window.
func TestOfferInVainKeepsBackPressure(t *testing.T) {
	inBubble(t, func(t *testing.T, _, up *runningMux, a, b *Stream) {
		go a.Write(make([]byte, 4*initialWindow))
		synctest.Wait()
		n, err := b.ReadOr(make([]byte, 100), func([]byte) int { t.Error("asked although there is something to read"); return 0 })
		if n != 100 || err != nil {
			t.Errorf("ReadOr: %d, %v", n, err)
		}
		synctest.Wait()
		wantWindow(t, b)
		if b.recvWindow != 0 {
			t.Errorf("the peer may send %d bytes more", b.recvWindow)
		}
		b.Reset()
	})
}

// Bytes that lie unread go first; only then are others offered.
func TestOfferNeverOvertakesWhatIsUnread(t *testing.T) {
	inBubble(t, func(t *testing.T, _, _ *runningMux, a, b *Stream) {
		h := &handing{s: b, take: takeAll}
		mustWrite(t, a, "first ")
		synctest.Wait()
		mustWrite(t, a, "second ")
		synctest.Wait()
		wait := h.start()
		synctest.Wait()
		mustWrite(t, a, "third")
		synctest.Wait()
		a.CloseWrite()
		wait()
		if string(h.all) != "first second third" || h.taken != len("third") {
			t.Errorf("got %q, of which %d bytes were taken", h.all, h.taken)
		}
	})
}

// Whatever ends the stream while a destination is being offered something,
// ReadOr returns behind that: its caller may go on as if it were alone.
func TestOfferEndsBeforeReadOrReturns(t *testing.T) {
	for name, c := range map[string]struct {
		end  func(node *runningMux, a, b *Stream)
		want error
	}{
		"close":         {func(_ *runningMux, _, b *Stream) { b.Close() }, ErrClosed},
		"reset":         {func(_ *runningMux, _, b *Stream) { b.Reset() }, ErrClosed},
		"session fails": {func(_ *runningMux, _, b *Stream) { b.m.fail(ErrDead) }, ErrDead},
		"deadline":      {func(_ *runningMux, _, b *Stream) { b.SetReadDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
		"peer's end":    {func(_ *runningMux, a, _ *Stream) { a.CloseWrite() }, io.EOF},
		"peer's reset":  {func(_ *runningMux, a, _ *Stream) { a.Reset() }, ErrStreamReset},
	} {
		t.Run(name, func(t *testing.T) {
			inBubble(t, func(t *testing.T, node, _ *runningMux, a, b *Stream) {
				offered, goOn := make(chan struct{}), make(chan struct{})
				h := &handing{s: b, take: func(p []byte) int {
					close(offered)
					<-goOn // as no destination may
					return len(p)
				}}
				returned := make(chan struct{})
				go func() { defer close(returned); h.run() }()
				synctest.Wait()
				mustWrite(t, a, "in time")
				<-offered
				c.end(node, a, b)
				synctest.Wait()
				select {
				case <-returned:
					t.Error("ReadOr has returned while a destination was being offered something")
				default:
				}
				close(goOn)
				<-returned
				if string(h.all) != "in time" || !errors.Is(h.err, c.want) {
					t.Errorf("got %q, %v, want error %v", h.all, h.err, c.want)
				}
			})
		})
	}
}

// One stream's destination that is offered something does not keep the others
// from being closed, read and written.
func TestOfferHoldsNoLock(t *testing.T) {
	inBubble(t, func(t *testing.T, node, up *runningMux, a, b *Stream) {
		x, y := streamPair(t, node, up)
		mustWrite(t, x, "before")
		synctest.Wait()
		h := &handing{s: b, take: func(p []byte) int {
			mustRead(t, y, "before")
			mustWrite(t, y, "answer")
			mustWrite(t, b, "and here")
			b.Quiet()
			y.Close()
			return len(p)
		}}
		wait := h.start()
		synctest.Wait()
		mustWrite(t, a, "x")
		mustRead(t, x, "answer")
		mustRead(t, a, "and here")
		a.CloseWrite()
		wait()
	})
}

// Frames that arrive together wake the reader once, who then has all of them.
func TestOfferLeavesABurstTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		x, y := memPair()
		m := startMux(t, bareConn{x}, true, muxOptions{})
		p := &rawPeer{Conn: y, t: t}
		s := mustOpen(t, m)
		offers := 0
		h := &handing{s: s, take: func(p []byte) int { offers++; return len(p) }}
		wait := h.start()
		synctest.Wait()
		var burst []muxFrame
		for range 10 {
			burst = append(burst, muxFrame{kind: kindData, id: s.id, length: 20})
		}
		p.send(burst...)
		synctest.Wait()
		if len(h.all) != 200 || offers > 1 {
			t.Errorf("%d bytes arrived, %d frames were offered by themselves", len(h.all), offers)
		}
		y.Close()
		wait()
	})
}

// FuzzOffer has a reader that changes its ways and a destination that takes what
// it likes, for a stream of writes of any size: no byte is lost, doubled or out
// of place, and the window is whole at the end.
func FuzzOffer(f *testing.F) {
	for seed := range uint64(8) {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, seed uint64) {
		inBubble(t, func(t *testing.T, _, up *runningMux, a, b *Stream) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			want := make([]byte, 300_000)
			for i := range want {
				want[i] = byte(rnd.Uint32())
			}
			go func() {
				rnd := rand.New(rand.NewPCG(seed, 1))
				for rest := want; len(rest) > 0; {
					n := min(len(rest), 1+rnd.IntN([]int{1, 30, 500, 40_000}[rnd.IntN(4)]))
					a.Write(rest[:n])
					rest = rest[n:]
					if rnd.IntN(3) == 0 {
						time.Sleep(time.Millisecond) // of the bubble: the reader gets to wait
					}
				}
				a.CloseWrite()
			}()
			taking := rand.New(rand.NewPCG(seed, 2)) // the read loop's
			var got []byte
			take := func(p []byte) int {
				n := taking.IntN(len(p) + 1)
				if taking.IntN(2) == 0 {
					n = len(p)
				}
				got = append(got, p[:n]...)
				return n
			}
			buf := make([]byte, 5000)
			for {
				p := buf[:1+rnd.IntN(len(buf))]
				var n int
				var err error
				switch rnd.IntN(4) {
				case 0:
					n, err = b.Read(p)
				case 1:
					b.SetReadDeadline(time.Now().Add(time.Duration(rnd.IntN(1_000_000))))
					n, err = b.ReadOr(p, take)
					b.SetReadDeadline(time.Time{})
				default:
					n, err = b.ReadOr(p, take)
				}
				got = append(got, p[:n]...)
				if err == io.EOF {
					break
				}
				if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Fatal(err)
				}
			}
			if !bytes.Equal(got, want) {
				i := 0
				for i < min(len(got), len(want)) && got[i] == want[i] {
					i++
				}
				t.Fatalf("got %d bytes, want %d; they differ at %d", len(got), len(want), i)
			}
			wantWindow(t, b)
			if n := up.unread.Load(); n != 0 {
				t.Errorf("%d bytes count as unread", n)
			}
		})
	})
}

func TestOfferAllocatesNothing(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector empties pools at random")
	}
	node, up := muxPair(t, muxOptions{})
	a, b := streamPair(t, node, up)
	echoed := make(chan struct{})
	go func() {
		defer close(echoed)
		buf := make([]byte, 100)
		echo := func(p []byte) int { b.Write(slices.Clip(p)); return len(p) }
		for {
			n, err := b.ReadOr(buf, echo)
			if err != nil {
				return
			}
			b.Write(buf[:n])
		}
	}()
	buf := make([]byte, 13)
	allocs := testing.AllocsPerRun(500, func() {
		a.Write(buf)
		io.ReadFull(a, buf)
	})
	if allocs >= 1 {
		t.Errorf("%v allocations for a message", allocs)
	}
	a.Close()
	<-echoed
}
