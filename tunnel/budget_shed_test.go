package tunnel

import (
	"errors"
	"io"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// resting is a stream whose reader has kept a good pace for some seconds, and reads nothing for now, with a full window
// before it, until again is called.
func resting(t testing.TB, node, up *runningMux) (s *Stream, again func() error) {
	t.Helper()
	x, y := streamPair(t, node, up)
	var talk sync.WaitGroup
	talk.Go(func() {
		for {
			if _, err := x.Write(make([]byte, 64<<10)); err != nil {
				return
			}
		}
	})
	t.Cleanup(func() { x.Reset(); y.Reset(); talk.Wait() })
	again = func() error {
		for range 150 {
			if _, err := io.CopyN(io.Discard, y, 32<<10); err != nil {
				return err
			}
			time.Sleep(20 * time.Millisecond)
		}
		return nil
	}
	if err := again(); err != nil {
		t.Fatal(err)
	}
	return y, again
}

// TestRestIsNotSlow: a reader that has kept pace and rests for more than a second, since the machine is busy, is not reset
// while there are others that stand still, and not if more is asked for than they hold.
func TestRestIsNotSlow(t *testing.T) {
	t.Parallel()
	const size = 2 << 20
	for name, tt := range map[string]struct {
		others int           // readers that read nothing, of 200 KB each
		rest   time.Duration // how long it has rested when they come
		age    time.Duration // how long those have stood still then
		press  func(b *Budget)
		resets int // of the others, at least
	}{
		"memory is tight":                   {5, time.Second, 1200 * time.Millisecond, func(b *Budget) { b.Shrink(100*size, slowAfter) }, 5},
		"others are younger":                {5, 1500 * time.Millisecond, 100 * time.Millisecond, func(b *Budget) { b.Shrink(100*size, slowAfter) }, 0},
		"more than the budget":              {12, 0, 1500 * time.Millisecond, nil, 1},
		"more than that and a half at once": {30, 2 * time.Second, 500 * time.Millisecond, nil, 15},
		"memory is critical":                {5, time.Second, 200 * time.Millisecond, func(b *Budget) { b.Shrink(5*200<<10, 0) }, 5},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(size)
				running(t, b)
				node, up := memMuxPair(t, muxOptions{budget: b})
				rested, again := resting(t, node, up)
				time.Sleep(tt.rest)
				var others []*Stream
				var talk sync.WaitGroup
				for range tt.others {
					x, y := filled(t, node, up, 0)
					talk.Go(func() { _, _ = x.Write(make([]byte, 200<<10)) })
					others = append(others, y)
				}
				time.Sleep(tt.age)
				if tt.press != nil {
					tt.press(b)
				}
				reset := 0
				for _, s := range others {
					if reading(s) != nil {
						reset++
					}
				}
				if err := reading(rested); err != nil || reset < tt.resets {
					t.Errorf("who rests: %v; %d who stand still were reset, at least %d should be", err, reset, tt.resets)
				}
				if err := again(); err != nil {
					t.Errorf("who rested and reads again: %v", err)
				}
				for _, s := range others {
					s.Reset()
				}
				talk.Wait()
			})
		})
	}
}

// TestRestEnds: who reads nothing for seconds stands still, however much it has read before; and when memory is critical
// who rests goes, too.
func TestRestEnds(t *testing.T) {
	for name, tt := range map[string]struct{ rest, waited time.Duration }{
		"after seconds":           {restFor, slowAfter},
		"when memory is critical": {slowAfter, 0},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := NewBudget(2 << 20)
				running(t, b)
				node, up := memMuxPair(t, muxOptions{budget: b})
				rested, _ := resting(t, node, up)
				time.Sleep(tt.rest)
				b.Shrink(1, tt.waited)
				if err := reading(rested); !errors.Is(err, ErrOverloaded) {
					t.Errorf("after %v: %v", tt.rest, err)
				}
			})
		})
	}
}

// TestFirstBytesAreNoHabit: the first bytes go into buffers of the kernels also for a client that reads nothing, which is not
// taken for one that rests.
func TestFirstBytesAreNoHabit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		x, y := filled(t, node, up, 200<<10)
		if _, err := io.CopyN(io.Discard, y, 200<<10); err != nil {
			t.Fatal(err)
		}
		mustWrite(t, x, string(make([]byte, 30<<10)))
		time.Sleep(slowAfter + 2*clockTick)
		b.Shrink(1, slowAfter)
		if err := reading(y); !errors.Is(err, ErrOverloaded) {
			t.Errorf("who has read nothing but the first bytes: %v", err)
		}
	})
}

// TestManyWhoRestAreBounded: readers that have kept pace and rest all at once never hold more than the bound, and those that
// rest on are reset.
func TestManyWhoRestAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const size = 512 << 10
		b := NewBudget(size)
		running(t, b)
		node, up := memMuxPair(t, muxOptions{budget: b})
		var talk sync.WaitGroup
		var stop atomic.Bool
		var all []*Stream
		for range 12 {
			x, y := filled(t, node, up, 0)
			talk.Go(func() {
				for err := error(nil); err == nil; _, err = x.Write(make([]byte, 20<<10)) {
					time.Sleep(20 * time.Millisecond)
				}
			})
			talk.Go(func() {
				for buf := make([]byte, 32<<10); !stop.Load(); {
					if _, err := y.Read(buf); err != nil {
						return
					}
				}
			})
			all = append(all, x, y)
		}
		time.Sleep(2 * time.Second)
		if n := b.Resets(); n > 0 {
			t.Errorf("%d streams were reset whose readers keep pace", n)
		}
		stop.Store(true)
		for range 100 {
			time.Sleep(20 * time.Millisecond)
			if used := b.Used(); used > 3*size {
				t.Fatalf("%d bytes are held of a budget of %d", used, size)
			}
		}
		time.Sleep(restFor)
		if used := b.Used(); used > size || b.Resets() == 0 {
			t.Errorf("%d bytes are held for long of a budget of %d, %d streams were reset", used, size, b.Resets())
		}
		for _, s := range all {
			s.Reset()
		}
		talk.Wait()
	})
}

// TestSlowSenderIsNoSlowReader: a large frame that comes slowly takes a whole chunk for long; that is not its reader's fault.
func TestSlowSenderIsNoSlowReader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := NewBudget(1 << 20)
		running(t, b)
		x, y := memPair()
		m := startMux(t, bareConn{x}, false, muxOptions{budget: b})
		head := muxFrame{kind: kindData, flags: flagSYN, id: 2, length: 32 << 10}.append(nil)
		_, _ = y.Write(append(head, make([]byte, 1000)...))
		s := mustAccept(t, m)
		t.Cleanup(s.Reset)
		if _, err := io.CopyN(io.Discard, s, 1000); err != nil {
			t.Fatal(err)
		}
		time.Sleep(3 * slowAfter)
		if used := b.Used(); used == 0 {
			t.Fatal("nothing is held, so nothing is tested")
		}
		b.Shrink(1<<20, slowAfter)
		if err := reading(s); err != nil {
			t.Errorf("who has read all that has come: %v", err)
		}
	})
}
