package bench

import (
	"math/rand/v2"
	"slices"
	"testing"
	"time"
)

func TestHistogramBucketsCoverEveryValueOnce(t *testing.T) {
	for i := range histBuckets - 1 {
		end := bucketEnd(i)
		if got := bucketOf(end); got != i {
			t.Fatalf("last value of bucket %d (%d) falls into bucket %d", i, end, got)
		}
		if got := bucketOf(end + 1); got != i+1 {
			t.Fatalf("first value behind bucket %d (%d) falls into bucket %d", i, end+1, got)
		}
	}
	if got := bucketEnd(histBuckets - 1); got != 1<<histMaxBits-1 {
		t.Errorf("last bucket ends at %d, want %d", got, 1<<histMaxBits-1)
	}
}

func TestHistogramQuantilesAreWithinTheirPrecision(t *testing.T) {
	rnd := rand.New(rand.NewPCG(1, 2))
	var h histogram
	values := make([]time.Duration, 10_000)
	for i := range values {
		values[i] = time.Duration(rnd.ExpFloat64() * float64(time.Millisecond))
		h.add(values[i])
	}
	slices.Sort(values)
	for _, q := range []float64{0.001, 0.5, 0.9, 0.99, 0.999, 1} {
		exact := values[max(int(q*float64(len(values))), 1)-1]
		got := h.quantile(q)
		if got < exact || float64(got) > float64(exact)*1.016+1 {
			t.Errorf("quantile %v = %v, exactly %v: want at most 1.6 %% more", q, got, exact)
		}
	}
	if got, want := h.longest(), values[len(values)-1]; got != want {
		t.Errorf("longest = %v, want exactly %v", got, want)
	}
}

func TestHistogramEdges(t *testing.T) {
	var h histogram
	if h.quantile(0.5) != 0 || h.mean() != 0 || h.longest() != 0 {
		t.Error("an empty histogram has a quantile, mean or maximum")
	}
	h.add(-time.Second)
	if h.quantile(1) != 0 || h.count() != 1 {
		t.Error("a negative duration does not count as 0")
	}
	h.add(1000 * time.Hour)
	if got, want := h.quantile(1), time.Duration(1<<histMaxBits-1); got != want {
		t.Errorf("a duration beyond the range counts as %v, want %v", got, want)
	}
	var one histogram
	one.add(1500 * time.Microsecond)
	for _, q := range []float64{0, 0.5, 1} {
		if got := one.quantile(q); got != 1500*time.Microsecond {
			t.Errorf("quantile %v of one value = %v, want that value", q, got)
		}
	}
	if one.mean() != 1500*time.Microsecond {
		t.Errorf("mean of one value = %v", one.mean())
	}
}
