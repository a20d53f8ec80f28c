package tunnel

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
)

// isBack checks that a budget is as new.
func isBack(b *Budget) error {
	if n := b.Used(); n != 0 {
		return fmt.Errorf("%d bytes are still counted", n)
	}
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		n := len(sh.streams)
		sh.mu.Unlock()
		if n > 0 {
			return fmt.Errorf("%d streams are still listed", n)
		}
	}
	return nil
}

// running runs the budget until the test ends.
func running(t testing.TB, b *Budget) {
	ctx, stop := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { b.Run(ctx) })
	t.Cleanup(func() {
		stop()
		wg.Wait()
	})
}

// TestBudgetIsExact: whatever becomes of streams and sessions, all that was counted is given back.
func TestBudgetIsExact(t *testing.T) {
	for round := range 8 {
		b := NewBudget(64 << 20)
		node, up := muxPair(t, muxOptions{budget: b})
		var wg sync.WaitGroup
		for i := range 16 {
			rng := rand.New(rand.NewPCG(uint64(round), uint64(i)))
			x, y := streamPair(t, node, up)
			if i%2 == 0 {
				x, y = y, x
			}
			n := rng.IntN(200 << 10)
			wg.Go(func() { // a writer who ends or leaves
				_, _ = x.Write(make([]byte, n))
				switch i % 4 {
				case 0:
					x.Close()
				case 1:
					x.Reset()
				case 2:
					_ = x.CloseWrite()
				}
			})
			switch i % 5 {
			case 0: // a reader who reads all
				wg.Go(func() { _, _ = io.Copy(io.Discard, y); y.Close() })
			case 1: // one who reads a part
				wg.Go(func() { _, _ = io.CopyN(io.Discard, y, int64(n/3+1)); y.Close() })
			case 2: // one who is reset meanwhile
				wg.Go(func() { _, _ = io.CopyBuffer(io.Discard, struct{ io.Reader }{y}, make([]byte, 700)) })
				wg.Go(func() { y.overload() })
				wg.Go(y.Reset)
			case 3: // one who never reads
				wg.Go(func() { y.Close() })
			case 4: // one who reads until the session ends, and closes late
				wg.Go(func() { <-node.done; y.Close() })
			}
			if i%4 > 1 { // what the writer left open
				wg.Go(func() { <-node.done; x.Close() })
			}
		}
		for range 4 { // streams that nobody accepts
			s := mustOpen(t, node)
			_, _ = s.Write(make([]byte, 50<<10))
			if round%2 == 0 {
				s.Reset()
			}
		}
		node.stop()
		up.stop()
		wg.Wait()
		for _, m := range []*runningMux{node, up} {
			m.mu.Lock()
			for _, s := range m.streams {
				t.Errorf("stream %d is left", s.id)
			}
			m.mu.Unlock()
		}
		eventually(t, func() error {
			if n := b.Used(); n != 0 {
				return fmt.Errorf("%d bytes are still counted", n)
			}
			return nil
		})
	}
}

// TestBudgetResetsTheSlowest: of streams that hold the same, those for longer, and never one whose reader keeps up.
func TestBudgetResetsTheSlowest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		var streams []*Stream
		slow := func(wait time.Duration) *Stream {
			x, y := streamPair(t, node, up)
			go func() { _, _ = x.Write(make([]byte, 200<<10)) }()
			time.Sleep(wait)
			streams = append(streams, x, y)
			return y
		}
		x, y := streamPair(t, node, up)
		streams = append(streams, x, y)
		var written, read atomic.Int64
		var talk sync.WaitGroup
		talk.Go(func() {
			for {
				n, err := x.Write(make([]byte, 10<<10))
				if written.Add(int64(n)); err != nil {
					return
				}
				time.Sleep(10 * time.Millisecond)
			}
		})
		talk.Go(func() {
			buf := make([]byte, 32<<10)
			for {
				n, err := y.Read(buf)
				if read.Add(int64(n)); err != nil {
					return
				}
			}
		})
		// Each has waited for twice as long as the next: how frames fill chunks does not matter.
		const readers = 10
		var victims []*Stream
		for i := range readers {
			victims = append(victims, slow(20*time.Millisecond<<(readers-i)))
			if used := b.Used(); used > b.Size()*3/2 {
				t.Errorf("%d bytes are held, %d may be", used, b.Size())
			}
			if i == 2 && b.Resets() > 0 {
				t.Error("a stream was reset within the budget")
			}
		}
		time.Sleep(slowAfter + 2*clockTick)
		if used := b.Used(); used > b.Size() {
			t.Errorf("%d bytes are held for long, %d may be", used, b.Size())
		}
		reset := 0
		for i, s := range victims {
			err := reading(s)
			if err == nil {
				continue
			}
			if reset++; !errors.Is(err, ErrOverloaded) || reset != i+1 {
				t.Errorf("slow reader %d, the oldest being 0: %v, after %d others", i, err, reset-1)
			}
		}
		if n := b.Resets(); reset < 3 || reset > readers-2 || n != uint64(reset) {
			t.Errorf("%d slow readers were reset, of %d resets", reset, n)
		}
		before := read.Load()
		time.Sleep(time.Second)
		if after := read.Load(); after < before+900<<10 || written.Load()-after > 256<<10 {
			t.Errorf("the stream whose reader keeps up has read %d bytes in a second, %d of %d in all", after-before, after, written.Load())
		}
		for _, s := range streams {
			s.Reset()
		}
		talk.Wait()
		synctest.Wait()
		if err := isBack(b); err != nil {
			t.Error(err)
		}
	})
}

// reading is what a stream's reader would be told, without reading.
func reading(s *Stream) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// TestTrickleIsSlow: who reads a little now and then is as slow as one who reads nothing.
func TestTrickleIsSlow(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(640 << 10)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		_, trickling := filled(t, node, up, 200<<10)
		for range 60 {
			time.Sleep(time.Second)
			if _, err := trickling.Read(make([]byte, 1)); err != nil {
				t.Fatal(err)
			}
		}
		_, second := filled(t, node, up, 200<<10)
		time.Sleep(time.Second)
		_, third := filled(t, node, up, 200<<10)
		time.Sleep(time.Second)
		if !errors.Is(reading(trickling), ErrOverloaded) || reading(second) != nil || reading(third) != nil {
			t.Errorf("the slowest: %v; others: %v, %v", reading(trickling), reading(second), reading(third))
		}
	})
}

// filled returns a stream with n bytes that nobody has read; closed at the test's end.
func filled(t testing.TB, node, up *runningMux, n int) (writer, reader *Stream) {
	t.Helper()
	x, y := streamPair(t, node, up)
	if _, err := x.Write(make([]byte, n)); err != nil && !errors.Is(err, ErrPeerOverloaded) {
		t.Fatal(err)
	}
	t.Cleanup(func() { x.Reset(); y.Reset() })
	return x, y
}

// arrived waits for n bytes that are not read.
func arrived(t testing.TB, s *Stream, n int) {
	t.Helper()
	eventually(t, func() error {
		s.mu.Lock()
		defer s.mu.Unlock()
		have := 0
		for c := s.first; c != nil; c = c.next {
			have += len(c.unread())
		}
		if have < n {
			return fmt.Errorf("%d of %d bytes have arrived", have, n)
		}
		return nil
	})
}

// TestLostBytesAreNoEnd: a stream that was cut must not look like one that ended, also where the peer had ended it.
func TestLostBytesAreNoEnd(t *testing.T) {
	for name, end := range map[string]func(x, y *Stream){
		"open":               func(x, y *Stream) {},
		"ended by the peer":  func(x, y *Stream) { _ = x.CloseWrite() },
		"ended by both":      func(x, y *Stream) { _ = x.CloseWrite(); _ = y.CloseWrite() },
		"closed by the peer": func(x, y *Stream) { x.Close() },
	} {
		t.Run(name, func(t *testing.T) {
			b := NewBudget(64 << 20)
			node, up := muxPair(t, muxOptions{budget: b})
			x, y := filled(t, node, up, 200<<10)
			arrived(t, y, 200<<10)
			if _, err := io.CopyN(io.Discard, y, 1000); err != nil {
				t.Fatal(err)
			}
			end(x, y)
			if name != "open" {
				eventually(t, func() error {
					y.mu.Lock()
					defer y.mu.Unlock()
					if !y.finSeen {
						return errors.New("no end has come")
					}
					return nil
				})
			}
			b.Shrink(1, 0)
			if n, err := y.Read(make([]byte, 10)); n != 0 || err == io.EOF || !errors.Is(err, ErrOverloaded) || !errors.Is(err, fault.Overloaded) {
				t.Errorf("read %d, %v", n, err)
			}
			if n := b.Used(); n != 0 {
				t.Errorf("%d bytes are held", n)
			}
			if name == "open" {
				eventually(t, func() error {
					if _, err := x.Write([]byte("x")); !errors.Is(err, ErrPeerOverloaded) || !errors.Is(err, ErrStreamReset) {
						return fmt.Errorf("the peer was told %w", err)
					}
					return nil
				})
			}
			y.Close()
			if err := isBack(b); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestBudgetHolds when nobody runs it: sessions wait for a moment, then who brings more is reset.
func TestBudgetHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 1 << 20
		b := NewBudget(size)
		node, up := memMuxPair(t, muxOptions{budget: b})
		reset := 0
		for range 20 {
			_, y := filled(t, node, up, 200<<10)
			time.Sleep(10 * pauseTime)
			if errors.Is(reading(y), ErrOverloaded) {
				reset++
			}
		}
		if used := b.Used(); used > size*2 || reset < 8 {
			t.Errorf("%d bytes are held, %d streams were reset", used, reset)
		}
	})
}

// TestFloodSparesWhoMoves: many readers who read nothing come at once; the one who reads, although he always has a full
// window before him, goes on.
func TestFloodSparesWhoMoves(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(2 << 20)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		x, y := streamPair(t, node, up)
		var talk sync.WaitGroup
		talk.Go(func() {
			for {
				if _, err := x.Write(make([]byte, 64<<10)); err != nil {
					return
				}
			}
		})
		var read atomic.Int64
		talk.Go(func() {
			for buf := make([]byte, 32<<10); ; {
				n, err := y.Read(buf)
				if read.Add(int64(n)); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		})
		time.Sleep(time.Second)
		for range 50 {
			a, _ := filled(t, node, up, 0)
			talk.Go(func() { _, _ = a.Write(make([]byte, 200<<10)) })
		}
		before := read.Load()
		time.Sleep(5 * time.Second)
		if err := reading(y); err != nil || read.Load()-before < 2<<20 {
			t.Errorf("who reads has read %d bytes, then %v", read.Load()-before, err)
		}
		if n := b.Resets(); n < 30 {
			t.Errorf("%d streams were reset", n)
		}
		x.Reset()
		y.Reset()
		node.stop()
		up.stop()
		talk.Wait()
	})
}

// TestOldPeersUnderstandTheReset: yamux takes it for any other, and the session goes on.
func TestOldPeersUnderstandTheReset(t *testing.T) {
	b := NewBudget(64 << 20)
	m, old := theirs(t, true, quietYamux(), muxOptions{budget: b})
	s, their := interopPair(t, m, old)
	if _, err := their.Write(make([]byte, 200<<10)); err != nil {
		t.Fatal(err)
	}
	arrived(t, s, 200<<10)
	b.Shrink(1, 0)
	eventually(t, func() error {
		if _, err := their.Write([]byte("x")); err == nil {
			return errors.New("it can still write")
		}
		return nil
	})
	s.Close()
	s, their = interopPair(t, m, old)
	mustWrite(t, s, "hello")
	mustRead(t, their, "hello")
	s.Reset()
	if err := isBack(b); err != nil {
		t.Error(err)
	}
}

func TestReserveAndRelease(t *testing.T) {
	b := NewBudget(100)
	if !b.Reserve(60) || b.Reserve(60) || !b.Reserve(40) || b.Reserve(1) || b.Used() != 100 {
		t.Errorf("%d of 100 bytes are held", b.Used())
	}
	b.Release(60)
	b.Release(40)
	if err := isBack(b); err != nil {
		t.Error(err)
	}
	var none *Budget
	if !none.Reserve(1 << 40) {
		t.Error("no budget is a bound")
	}
	none.Release(1 << 40)
	none.Shrink(1, 0)
}

// TestShrinkingHolds: what was given back is not taken again at once, and is in the end.
func TestShrinkingHolds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 4 << 20
		b := NewBudget(size)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		var readers []*Stream
		fill := func() {
			for range 8 {
				_, y := filled(t, node, up, 200<<10)
				readers = append(readers, y)
			}
			synctest.Wait()
		}
		fill()
		used := b.Used()
		b.Shrink(used/2, time.Hour)
		if n := b.Resets(); n != 0 || b.Used() != used {
			t.Errorf("%d streams were reset whose bytes have hardly waited", n)
		}
		fill()
		time.Sleep(slowAfter + 2*clockTick)
		if n, room := b.Used(), b.room.Load(); n > room || b.Resets() == 0 {
			t.Errorf("%d bytes are held after %d of %d were to be given back; there is room for %d", n, used/2, used, room)
		}
		time.Sleep(2 * recoverShare * clockTick)
		resets := b.Resets()
		fill()
		if n := b.Resets(); n != resets || b.room.Load() != size {
			t.Errorf("later %d streams were reset; there is room for %d", n-resets, b.room.Load())
		}
		for _, s := range readers {
			s.Reset()
		}
		if err := isBack(b); err != nil {
			t.Error(err)
		}
	})
}
