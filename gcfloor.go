package main

import (
	"math"
	"runtime"
	"runtime/debug"
	"runtime/metrics"
	"sync/atomic"
)

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
	t := &gcTuner{floor: floor}
	t.percent.Store(100)
	t.tune()
	t.arm()
	return t
}

// gcTuner sets GOGC anew after each cycle of the collector.
type gcTuner struct {
	floor   uint64 // bytes; static
	percent atomic.Int64
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
	was, percent := t.percent.Load(), gcPercent(t.floor, s[0].Value.Uint64(), s[1].Value.Uint64()+s[2].Value.Uint64())
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
