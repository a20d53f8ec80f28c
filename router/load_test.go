package router

import (
	"testing"
	"time"
)

func TestEjectionTime(t *testing.T) {
	tests := []struct {
		failures int
		want     time.Duration
	}{
		{0, 100 * time.Millisecond}, {1, 100 * time.Millisecond}, {2, 200 * time.Millisecond}, {3, 400 * time.Millisecond},
		{7, 6400 * time.Millisecond}, {8, 10 * time.Second}, {9, 10 * time.Second}, {maxFailures, 10 * time.Second},
	}
	for _, tt := range tests {
		if got := ejectionTime(tt.failures); got != tt.want {
			t.Errorf("%d failures: got %v, want %v", tt.failures, got, tt.want)
		}
	}
}

// TestEjection reads as a candidate's bad day.
func TestEjection(t *testing.T) {
	var e ejection
	now := noon
	at := func(d time.Duration, want bool, reason string) {
		t.Helper()
		if got := e.at(now.Add(d)); got != want {
			t.Errorf("%s: ejected is %v", reason, got)
		}
	}
	at(0, false, "a new candidate is not ejected")
	e.failed(now)
	at(0, true, "a failure ejects at once")
	at(99*time.Millisecond, true, "for 100 ms")
	at(100*time.Millisecond, false, "and no longer")

	for range 100 {
		e.failed(now.Add(50 * time.Millisecond))
	}
	at(100*time.Millisecond, false, "requests that fail together are one failure")

	now = now.Add(time.Second)
	e.failed(now)
	at(199*time.Millisecond, true, "the second failure doubles the time")
	at(200*time.Millisecond, false, "to 200 ms")

	for range 100 {
		now = now.Add(time.Minute)
		e.failed(now)
	}
	at(9999*time.Millisecond, true, "the time grows to 10 s")
	at(10*time.Second, false, "and no further")
	at(-time.Minute, false, "a clock that was set back ejects nobody for longer than 10 s")

	e.succeeded()
	at(0, false, "a success ends the ejection")
	e.failed(now)
	at(100*time.Millisecond, false, "and starts it anew at 100 ms")
}

func TestWeightIsClamped(t *testing.T) {
	l := NewLocal(nil)
	for w, want := range map[int]int32{-1: 0, 0: 0, 50: 50, 100: 100, 1000: 100} {
		if l.SetWeight(w); l.weight.Load() != want {
			t.Errorf("%d: got %d", w, l.weight.Load())
		}
	}
}

func TestInFlightIsNeverNegative(t *testing.T) {
	l := NewLocal(nil)
	l.End()
	if l.InFlight() != 0 {
		t.Errorf("got %d", l.InFlight())
	}
}
