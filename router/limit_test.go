package router

import (
	"sync"
	"testing"
)

// TestFullCandidates are chosen only if nothing else is left, and take nothing more.
func TestFullCandidates(t *testing.T) {
	table, busy, other := NewTable(), NewLocal(named("busy")), NewLocal(named("other"))
	table.Add("e", busy)
	remove := table.Add("e", other)
	busy.SetLimit(1)
	if !busy.Begin() || busy.Begin() {
		t.Error("the limit of one request is no limit of one")
	}
	other.SetDraining(true)
	other.Failed(noon)
	for rnd := range uint64(50) {
		if got := table.Lookup("e").Pick(noon, rnd, nil).Local; got != other {
			t.Fatalf("a full candidate was chosen before one that drains and failed")
		}
	}
	remove()
	if got := table.Lookup("e").Pick(noon, 1, nil); got.Local != busy || got.Begin() {
		t.Error("the last one, which is full, was not chosen, or took a request")
	}
	busy.End()
	if !busy.Begin() {
		t.Error("there is room, and it took no request")
	}
	busy.SetLimit(0)
	if !busy.Begin() {
		t.Error("without a limit it took no request")
	}
}

func TestLimitIsExactUnderLoad(t *testing.T) {
	l := NewLocal(named("a"))
	l.SetLimit(3)
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			for range 10_000 {
				if l.Begin() {
					l.End()
				}
			}
		})
	}
	wg.Wait()
	if n := l.InFlight(); n != 0 {
		t.Errorf("%d requests in flight at the end", n)
	}
}
