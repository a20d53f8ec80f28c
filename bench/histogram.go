package bench

import (
	"math"
	"math/bits"
	"sync/atomic"
	"time"
)

// histogram counts durations in buckets that grow with the value, in the
// manner of HdrHistogram: every power of two is cut into 64, so a quantile is
// at most 1.6 % too high. It spans 1 ns to 73 minutes (longer counts as that)
// in 19 KiB. The zero value is empty. Safe for concurrent use; a reader beside
// writers sees some of what they are adding.
type histogram struct {
	counts [histBuckets]atomic.Uint64
	total  atomic.Uint64
	sum    atomic.Int64 // ns
	max    atomic.Int64 // ns, exact
}

const (
	histSubBits = 6                // 64 sub-buckets
	histSub     = 1 << histSubBits // values below 2*histSub have a bucket each
	histMaxBits = 42               // longest duration is 2^42-1 ns
	histBuckets = (histMaxBits - histSubBits + 1) * histSub
)

// add counts d; a negative one counts as 0.
func (h *histogram) add(d time.Duration) {
	ns := min(max(int64(d), 0), 1<<histMaxBits-1)
	h.counts[bucketOf(uint64(ns))].Add(1)
	h.total.Add(1)
	h.sum.Add(ns)
	for {
		m := h.max.Load()
		if ns <= m || h.max.CompareAndSwap(m, ns) {
			return
		}
	}
}

// bucketOf maps 0..127 to themselves and from there on each power of two to
// 64 buckets.
func bucketOf(ns uint64) int {
	shift := max(bits.Len64(ns)-histSubBits-1, 0)
	return shift<<histSubBits + int(ns>>shift)
}

// bucketEnd is the largest value in bucket i, the inverse of bucketOf.
func bucketEnd(i int) uint64 {
	if i < 2*histSub {
		return uint64(i)
	}
	shift := i>>histSubBits - 1
	return uint64(i-shift<<histSubBits+1)<<shift - 1
}

// count is how many durations were added.
func (h *histogram) count() uint64 { return h.total.Load() }

// quantile is the duration that the share q (0 to 1) of all stayed at or
// below; 0 if there are none.
func (h *histogram) quantile(q float64) time.Duration {
	rank := max(uint64(math.Ceil(q*float64(h.count()))), 1)
	var seen uint64
	for i := range h.counts {
		if seen += h.counts[i].Load(); seen >= rank {
			return time.Duration(min(int64(bucketEnd(i)), h.max.Load()))
		}
	}
	return time.Duration(h.max.Load())
}

// mean is the average; 0 if there are none.
func (h *histogram) mean() time.Duration {
	n := h.count()
	if n == 0 {
		return 0
	}
	return time.Duration(h.sum.Load() / int64(n))
}

// longest is the largest duration that was added, exactly.
func (h *histogram) longest() time.Duration { return time.Duration(h.max.Load()) }
