package stats

import (
	"math/bits"
	"sync/atomic"
	"time"
)

// The buckets of a latency: four to each doubling, from 16 µs to 9 minutes, so
// that a quantile is right to an eighth.
const (
	unit    = 16 * time.Microsecond
	perStep = 4
	buckets = 96
)

// histogram counts latencies. The counters wrap, which differences do not mind.
type histogram [buckets]atomic.Uint32

// counts are those of a histogram at a moment, or between two.
type counts [buckets]uint32

func (h *histogram) observe(d time.Duration) { h[bucketOf(d)].Add(1) }

// addTo adds the counters to c.
func (h *histogram) addTo(c *counts) {
	for i := range h {
		c[i] += h[i].Load()
	}
}

// since returns what was counted after before.
func (c counts) since(before *counts) counts {
	for i := range c {
		c[i] -= before[i]
	}
	return c
}

// bucketOf is where a latency is counted.
func bucketOf(d time.Duration) int {
	v := uint64(max(d, 0) / unit)
	if v < perStep {
		return int(v)
	}
	step := bits.Len64(v) - 3
	return min(step*perStep+int(v>>step), buckets-1)
}

// middle is the latency that stands for all in a bucket, in seconds.
func middle(bucket int) float64 {
	if bucket < perStep {
		return (float64(bucket) + 0.5) * unit.Seconds()
	}
	step := bucket/perStep - 1
	return (float64(bucket-step*perStep) + 0.5) * float64(uint64(1)<<step) * unit.Seconds()
}

// quantiles returns the median and the 99th percentile, in seconds; 0 if nothing
// was counted.
func (c *counts) quantiles() (p50, p99 float64) {
	var n uint64
	for _, count := range c {
		n += uint64(count)
	}
	if n == 0 {
		return 0, 0
	}
	return c.rank((n + 1) / 2), c.rank(n - n/100)
}

// rank is the latency of the one in place n, of 1 and more.
func (c *counts) rank(n uint64) float64 {
	var seen uint64
	for i, count := range c {
		if seen += uint64(count); seen >= n {
			return middle(i)
		}
	}
	return middle(buckets - 1)
}
