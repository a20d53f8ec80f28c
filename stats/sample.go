package stats

import (
	"hash/maphash"
	"iter"
	"slices"
	"time"
)

// Sample closes an interval: what was counted since the last one becomes a point
// of the histories. Run calls it.
func (t *Traffic) Sample(now time.Time) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.sampled[1], t.sampled[0] = t.sampled[0], now
	t.totals[1], t.totals[0] = t.totals[0], t.total()
	idle := idleTime
	if t.tracked > maxTracked*9/10 {
		idle = crowdTime
	}
	var idlers, eager []*Endpoint // with details and without
	for _, e := range t.all() {
		active := e.sample(now)
		switch hasDetail := e.detail.Load() != nil; {
		case !active && now.Sub(e.active) >= idle:
			t.forget(e)
		case active && !hasDetail:
			eager = append(eager, e)
		case !active && hasDetail:
			idlers = append(idlers, e)
		}
	}
	t.handOver(idlers, eager)
	t.showMore(now)
}

// sample says whether the endpoint was active since the last sample.
func (e *Endpoint) sample(now time.Time) (active bool) {
	s := sample{e.ended.Load(), e.failed.Load()}
	last := e.samples[0]
	e.samples[1], e.samples[0] = last, s
	if d := e.detail.Load(); d != nil {
		d.sample(s.ended-last.ended, s.failed-last.failed)
	}
	if active = s.ended != last.ended || e.inFlight() > 0; active {
		e.active = now
	}
	return active
}

// handOver gives the details of those that are idle longest to those that are
// active and have none.
func (t *Traffic) handOver(idlers, eager []*Endpoint) {
	slices.SortFunc(idlers, func(a, b *Endpoint) int { return a.active.Compare(b.active) })
	for _, e := range eager {
		if t.details >= maxDetails {
			if len(idlers) == 0 {
				return
			}
			idlers[0].detail.Store(nil)
			idlers = idlers[1:]
			t.details--
		}
		t.details++
		e.detail.Store(new(detail))
	}
}

func (t *Traffic) forget(e *Endpoint) {
	t.replace(maphash.String(t.seed, e.name), func(m map[string]*Endpoint) { delete(m, e.name) })
	t.tracked--
	t.hide(e)
	if e.detail.Swap(nil) != nil {
		t.details--
	}
}

// all returns the endpoints.
func (t *Traffic) all() iter.Seq2[string, *Endpoint] {
	return func(yield func(string, *Endpoint) bool) {
		for i := range t.shards {
			m := t.shards[i].Load()
			if m == nil {
				continue
			}
			for name, e := range *m {
				if !yield(name, e) {
					return
				}
			}
		}
	}
}

// total adds the stripes up.
func (t *Traffic) total() totals {
	var sum totals
	for i := range t.stripes {
		s := &t.stripes[i]
		sum.ended += s.ended.Load()
		sum.failed += s.failed.Load()
		s.latency.addTo(&sum.latency)
	}
	return sum
}

// Load is what goes on now: requests under way, and over the last 5 to 10 s how
// many ended and failed each second and how long they took, in seconds.
type Load struct {
	InFlight          int
	RequestsPerSecond float64
	ErrorsPerSecond   float64
	P50, P99          float64
}

// Node is the load of the node, but for what is in flight.
func (t *Traffic) Node(now time.Time) Load {
	if t == nil {
		return Load{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	sum := t.total()
	before := &t.totals[1]
	l := t.rates(now, sum.ended-before.ended, sum.failed-before.failed)
	diff := sum.latency.since(&before.latency)
	l.P50, l.P99 = diff.quantiles()
	return l
}

// rates needs mu.
func (t *Traffic) rates(now time.Time, ended, failed uint64) Load {
	seconds := max(now.Sub(t.sampled[1]).Seconds(), 1)
	return Load{RequestsPerSecond: float64(ended) / seconds, ErrorsPerSecond: float64(failed) / seconds}
}

// Active returns the endpoints that have a load, in no order.
func (t *Traffic) Active(now time.Time) map[string]Load {
	if t == nil {
		return nil
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	loads := make(map[string]Load)
	for name, e := range t.all() {
		if e.inFlight() > 0 || e.ended.Load() != e.samples[1].ended {
			loads[name] = t.load(e, now)
		}
	}
	return loads
}

// load needs mu.
func (t *Traffic) load(e *Endpoint, now time.Time) Load {
	l := t.rates(now, e.ended.Load()-e.samples[1].ended, e.failed.Load()-e.samples[1].failed)
	l.InFlight = e.inFlight()
	if d := e.detail.Load(); d != nil {
		var latency counts
		d.latency.addTo(&latency)
		diff := latency.since(&d.samples[1])
		l.P50, l.P99 = diff.quantiles()
	}
	return l
}

// Point is one interval of a history, which ended at Time. Latencies are in seconds.
type Point struct {
	Time             time.Time
	Requests, Errors int
	P50, P99         float64
}

// Detail is all that is known of an endpoint.
type Detail struct {
	Load     Load
	Points   []Point   // oldest first
	Failures []Failure // newest first
}

// Endpoint is what is known of one endpoint; the zero Detail if that is nothing.
func (t *Traffic) Endpoint(name string, now time.Time) Detail {
	if t == nil {
		return Detail{}
	}
	e := t.find(maphash.String(t.seed, name), name)
	if e == nil {
		return Detail{}
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	out := Detail{Load: t.load(e, now)}
	d := e.detail.Load()
	if d == nil {
		return out
	}
	out.Failures = d.failures.newest()
	for i := range d.n {
		p := d.points[(d.next+Points-d.n+i)%Points]
		out.Points = append(out.Points, Point{
			Time:     t.sampled[0].Add(-time.Duration(d.n-1-i) * Interval),
			Requests: int(p.requests), Errors: int(p.errors), P50: float64(p.p50), P99: float64(p.p99),
		})
	}
	return out
}
