package stats

import (
	"sync"
	"time"
)

// detail is what is kept of the endpoints that were active last.
type detail struct {
	latency  histogram
	failures failures

	// Guarded by Traffic.mu.
	samples [2]counts // of latency, newest first
	points  [Points]point
	next    int // place of the next point
	n       int // points there are

	exported exported
}

type point struct {
	requests, errors uint32
	p50, p99         float32
}

// Failure is a request that failed.
type Failure struct {
	Time     time.Time
	Code     string // of a fault; "" is an answer of the service's own
	Status   int    // as the client saw it
	Upstream string // who had it last; "" is nobody
	Detail   string // cut to 200 bytes
}

// failures is a ring of the last ones.
type failures struct {
	mu   sync.Mutex // no other lock is taken under it
	list []Failure
	next int // place of the next one, when the list is full
}

func (f *failures) add(one Failure) {
	one.Detail = string([]byte(one.Detail[:min(len(one.Detail), maxDetail)]))
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.list) < MaxErrors {
		f.list = append(f.list, one)
		return
	}
	f.list[f.next] = one
	f.next = (f.next + 1) % MaxErrors
}

// newest returns a copy, newest first.
func (f *failures) newest() []Failure {
	f.mu.Lock()
	defer f.mu.Unlock()
	out := make([]Failure, 0, len(f.list))
	for i := range f.list {
		out = append(out, f.list[(f.next+len(f.list)-1-i)%len(f.list)])
	}
	return out
}

// sample adds a point for what has come since the last one. It needs Traffic.mu.
func (d *detail) sample(requests, errors uint64) {
	var now counts
	d.latency.addTo(&now)
	diff := now.since(&d.samples[0])
	p50, p99 := diff.quantiles()
	d.exported.add(&diff)
	d.samples[1], d.samples[0] = d.samples[0], now
	d.points[d.next] = point{uint32(requests), uint32(errors), float32(p50), float32(p99)}
	d.next = (d.next + 1) % Points
	d.n = min(d.n+1, Points)
}
