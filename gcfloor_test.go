package main

import (
	"runtime"
	"runtime/debug"
	"testing"
)

func TestGCPercent(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tt := range []struct {
		live, roots uint64
		want        int64
	}{
		{0, 0, 800},
		{1 * mib, 0, 800},
		{4 * mib, 0, 700},
		{4 * mib, 4 * mib, 350},
		{8 * mib, 0, 300},
		{16 * mib, 0, 100},
		{20 * mib, 0, 100},
		{32 * mib, 0, 100},
		{1000 * mib, 100 * mib, 100},
	} {
		if got := gcPercent(32*mib, tt.live, tt.roots); got != tt.want {
			t.Errorf("%d MiB in use and %d MiB of roots: %d %%, want %d", tt.live/mib, tt.roots/mib, got, tt.want)
		}
	}
}

func TestHeapIsRaised(t *testing.T) {
	before := debug.SetGCPercent(100)
	defer debug.SetGCPercent(before)
	if tuner := raiseHeap(func(name string) (string, bool) { return "100", name == "GOGC" }); tuner != nil {
		t.Error("GOGC in the environment was not respected")
	}
	tuner := &gcTuner{floor: 1 << 40}
	tuner.percent.Store(100)
	tuner.tune()
	if got := tuner.percent.Load(); got != 800 {
		t.Errorf("below the floor GOGC is %d, want 800", got)
	}
	tuner.floor = 1
	tuner.arm()
	for tuner.percent.Load() != 100 {
		runtime.GC() // each is a chance for the cleanup
	}
}

func TestGrowthPercent(t *testing.T) {
	t.Parallel()
	const mib = 1 << 20
	for _, tt := range []struct {
		live, roots uint64
		want        int64
	}{
		{1 * mib, 0, 300},
		{32 * mib, 0, 300},
		{32 * mib, 32 * mib, 200},
		{64 * mib, 0, 200},
		{128 * mib, 0, 100},
		{1000 * mib, 0, 100},
	} {
		if got := growthPercent(growthRoom, tt.live, tt.roots); got != tt.want {
			t.Errorf("%d MiB in use and %d MiB of roots: %d %%, want %d", tt.live/mib, tt.roots/mib, got, tt.want)
		}
	}
}
