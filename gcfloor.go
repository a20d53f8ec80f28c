package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

// growthRoom is how much garbage there may be, beyond what is in use, while what is in use grows
// from one collection to the next by an eighth and more. Thousands of tunnels that come at once make
// it grow tenfold within seconds: for each eighth the collector would look at all that has come so
// far, and have who serves requests help it. At most it is three times what is in use.
const growthRoom = 128 << 20

// heapFloor is how large the heap may grow, with garbage, whatever is in use of it. The
// runtime collects garbage when the heap is twice of what is in use: on a node with a few
// hundred tunnels that is every 5 MB, or some twenty times a second under load, each time
// to look at little. Beyond the floor it is as the runtime has it.
const heapFloor = 32 << 20

// raiseHeap keeps the garbage collector from working on a small heap more often than it
// pays, from now on. It does nothing when GOGC is set, and takes an eighth of the memory
// limit at most. It returns what does that, nil for nothing.
func raiseHeap(getenv func(string) (string, bool)) *gcTuner {
	if text, _ := getenv("GOGC"); text != "" {
		return nil
	}
	floor := uint64(heapFloor)
	if limit := debug.SetMemoryLimit(-1); limit < math.MaxInt64 {
		floor = min(floor, uint64(limit/8))
	}
	t := &gcTuner{floor: floor, growth: growthRoom * floor / heapFloor}
	t.percent.Store(100)
	t.tune()
	t.arm()
	return t
}

// gcTuner sets GOGC anew after each cycle of the collector.
type gcTuner struct {
	floor   uint64 // bytes; static
	growth  uint64 // growthRoom, or less with little memory; static
	percent atomic.Int64
	live    uint64 // in use when tune was last called; owned by tune
}

// arm has tune called when the collector has next run: it finds an object that nobody uses.
func (t *gcTuner) arm() {
	type sentinel struct{ _ *byte } // with a pointer: it shares its memory with no other object
	runtime.AddCleanup(new(sentinel), func(t *gcTuner) {
		t.tune()
		t.arm()
	}, t)
}

// tune sets GOGC for what is in use now. To set it stops the program for a moment, so that
// small changes are not worth it.
func (t *gcTuner) tune() {
	s := [3]metrics.Sample{{Name: "/gc/heap/live:bytes"}, {Name: "/gc/scan/stack:bytes"}, {Name: "/gc/scan/globals:bytes"}}
	metrics.Read(s[:])
	live, roots := s[0].Value.Uint64(), s[1].Value.Uint64()+s[2].Value.Uint64()
	was, percent := t.percent.Load(), gcPercent(t.floor, live, roots)
	if t.live > 0 && live > t.live+t.live/8 {
		percent = max(percent, growthPercent(t.growth, live, roots))
	}
	t.live = live
	if percent > was+was/8 || percent < was-was/8 || percent == 100 && was != 100 {
		t.percent.Store(percent)
		debug.SetGCPercent(int(percent))
	}
}

// gcPercent is the GOGC with which a heap that has so much in use grows to floor, and at
// least to twice its size. roots is what else the collector looks at, which the runtime
// adds to what is in use.
func gcPercent(floor, live, roots uint64) int64 {
	const most = 800 // from when on the runtime's least heap, 4 MiB for 100, is the floor
	if live >= floor {
		return 100
	}
	return int64(min(max((floor-live)*100/max(live+roots, 1), 100), most))
}

// growthPercent is the GOGC with which there may be room for garbage beside what is in use, which
// is at most three times as much.
func growthPercent(room, live, roots uint64) int64 {
	return int64(min(max(room*100/max(live+roots, 1), 100), 300))
}
