package limit

import (
	"context"
	"testing"
	"testing/synctest"
	"time"
)

func TestGiverWaitsForQuietAndGrowth(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	var g giver
	for i, step := range []struct {
		cycles, bytes uint64
		gives         bool
		kept          uint64
		allocated     uint64
	}{
		{cycles: 1, bytes: 5 * mib},                                     // its first look
		{cycles: 1, bytes: 5 * mib},                                     // it is small
		{cycles: 1, bytes: 30 * mib, gives: true, kept: 20 * mib},       // quiet, and grown
		{cycles: 2, bytes: 25 * mib},                                    // a little more is not worth it
		{cycles: 9, bytes: 500 * mib},                                   // busy
		{cycles: 20, bytes: 600 * mib},                                  // still busy
		{cycles: 20, bytes: 600 * mib, gives: true, kept: 400 * mib},    // the storm is over
		{cycles: 21, bytes: 440 * mib},                                  // the part counts where there is much
		{cycles: 21, bytes: 449 * mib},                                  // 49 of 400 are less than an eighth
		{cycles: 21, bytes: 451 * mib, gives: true, kept: 400 * mib},    // and 51 are more
		{cycles: 21, bytes: 600 * mib, allocated: 3 * mib},              // busy, with little garbage so far
		{cycles: 22, bytes: 400*mib + 1}, {cycles: 22, bytes: 10 * mib}, // it has shrunk by itself
	} {
		gives := g.due(use{cycles: step.cycles, allocated: step.allocated, bytes: step.bytes})
		if gives != step.gives {
			t.Fatalf("step %d: it gives back: %v, want %v", i, gives, step.gives)
		}
		if gives {
			g.gave(use{cycles: step.cycles + 1, allocated: step.allocated, bytes: step.kept})
		}
	}
}

func TestGiveBackEnds(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() {
			defer close(done)
			GiveBack(ctx)
		}()
		time.Sleep(3 * giveBackTick)
		cancel()
		<-done
		if u := readUse(); u.bytes == 0 {
			t.Errorf("the runtime says %+v", u)
		}
	})
}
