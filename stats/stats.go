// Package stats counts what becomes of clients' requests, for the node and for
// each endpoint: how many, how many failed, how long they took, in the last
// seconds and over the last 15 minutes; and keeps the last failures.
//
// The hot path is Begin and End: they take no lock that requests share, and
// allocate nothing once an endpoint has been seen. Everything else looks at the
// counters from outside. Run samples them every 5 s, and without it rates and
// latencies are those since the beginning.
//
// It is bounded, whatever clients do: an endpoint is counted only if its caller
// has found that somebody serves it, 100,000 at most and the idle ones forgotten;
// latencies, history and failures are kept for the 1,000 that were active last.
package stats

import (
	"context"
	"hash/maphash"
	"maps"
	"sync"
	"sync/atomic"
	"time"
)

// Bounds and times. A detailed endpoint takes 5 KB, and its failures up to 15 KB
// more; another one 150 bytes.
const (
	Interval   = 5 * time.Second // between two samples
	Points     = 180             // of a history: 15 minutes
	MaxErrors  = 50              // that are kept of an endpoint
	maxDetail  = 200             // bytes of a failure's text
	maxTracked = 100_000
	maxDetails = 1000
	idleTime   = 15 * time.Minute // after which an endpoint is forgotten
	crowdTime  = time.Minute      // the same when there is little room left

	shardCount  = 1024
	stripeCount = 8
)

// Traffic has the counters of a node. All methods may be called by any goroutine
// at any time, and on a nil Traffic, which counts nothing. Use New.
type Traffic struct {
	// Static after construction.
	seed maphash.Seed

	// Read without a lock by every request; an immutable map each, replaced with mu held.
	shards [shardCount]atomic.Pointer[map[string]*Endpoint]

	// The node's own, written by every request.
	stripes [stripeCount]stripe

	// Guarded by mu, which no request takes for an endpoint that was seen before.
	mu      sync.Mutex
	tracked int
	details int
	sampled [2]time.Time // the last samples, newest first
	totals  [2]totals    // then
	showing showing      // in the metrics
}

// stripe is a part of the node's counters, so that not all processors write to one.
type stripe struct {
	ended, failed atomic.Uint64
	latency       histogram
	_             [64]byte
}

// totals are the node's counters at a moment.
type totals struct {
	ended, failed uint64
	latency       counts
}

// Endpoint has the counters of one endpoint. It is used between Begin and End.
type Endpoint struct {
	// Static after construction.
	name   string
	stripe *stripe

	// Written by every request.
	began, ended, failed atomic.Uint64

	detail atomic.Pointer[detail] // nil: none is kept

	// Guarded by Traffic.mu.
	samples [2]sample // the last ones, newest first
	active  time.Time // when it was seen to be, in a sample
	shown   bool      // it has series in the metrics
	base    sample    // what it had counted when it got them
}

type sample struct{ ended, failed uint64 }

// New returns counters that stand at nothing.
func New() *Traffic {
	now := time.Now()
	return &Traffic{seed: maphash.MakeSeed(), sampled: [2]time.Time{now, now}}
}

// Begin counts a request to an endpoint that somebody serves; its End follows.
// The result may be nil, which counts for the node alone.
func (t *Traffic) Begin(endpoint string) *Endpoint {
	if t == nil {
		return nil
	}
	hash := maphash.String(t.seed, endpoint)
	e := t.find(hash, endpoint)
	if e == nil {
		if e = t.add(hash, endpoint); e == nil {
			return nil
		}
	}
	e.began.Add(1)
	return e
}

// BeginKnown is Begin for an endpoint that nobody may serve: it is counted only
// if it has been before.
func (t *Traffic) BeginKnown(endpoint string) *Endpoint {
	if t == nil {
		return nil
	}
	e := t.find(maphash.String(t.seed, endpoint), endpoint)
	if e != nil {
		e.began.Add(1)
	}
	return e
}

// Connection is the duration of what has no latency, such as a connection that
// was upgraded.
const Connection = time.Duration(-1)

// End counts the end of a request after a time, or Connection. e is Begin's
// result; failure is nil if it went well.
func (t *Traffic) End(e *Endpoint, took time.Duration, failure *Failure) {
	if t == nil {
		return
	}
	s := &t.stripes[0]
	if e != nil {
		s = e.stripe
		e.end(took, failure)
	}
	s.ended.Add(1)
	if failure != nil {
		s.failed.Add(1)
	}
	if took != Connection {
		s.latency.observe(took)
	}
}

func (e *Endpoint) end(took time.Duration, failure *Failure) {
	e.ended.Add(1)
	if failure != nil {
		e.failed.Add(1)
	}
	d := e.detail.Load()
	if d == nil {
		return
	}
	if took != Connection {
		d.latency.observe(took)
	}
	if failure != nil {
		d.failures.add(*failure)
	}
}

func (e *Endpoint) inFlight() int {
	ended := e.ended.Load() // first, so that it is not the greater one
	return int(e.began.Load() - ended)
}

func (t *Traffic) find(hash uint64, endpoint string) *Endpoint {
	m := t.shards[hash%shardCount].Load()
	if m == nil {
		return nil
	}
	return (*m)[endpoint]
}

// add makes the counters of an endpoint, unless there are too many.
func (t *Traffic) add(hash uint64, endpoint string) *Endpoint {
	t.mu.Lock()
	defer t.mu.Unlock()
	if e := t.find(hash, endpoint); e != nil {
		return e
	}
	if t.tracked >= maxTracked {
		return nil
	}
	e := &Endpoint{name: string([]byte(endpoint)), stripe: &t.stripes[hash%stripeCount], active: time.Now()} // a copy: it may be a part of a request
	if t.details < maxDetails {
		t.details++
		e.detail.Store(new(detail))
	}
	t.tracked++
	t.show(e)
	t.replace(hash, func(m map[string]*Endpoint) { m[e.name] = e })
	return e
}

// replace changes a copy of a shard. It needs mu.
func (t *Traffic) replace(hash uint64, change func(map[string]*Endpoint)) {
	shard := &t.shards[hash%shardCount]
	next := make(map[string]*Endpoint)
	if old := shard.Load(); old != nil {
		maps.Copy(next, *old)
	}
	change(next)
	shard.Store(&next)
}

// Run samples the counters until ctx ends, at times that are multiples of
// Interval: so histories of several nodes can be added up.
func (t *Traffic) Run(ctx context.Context) {
	for {
		now := time.Now()
		timer := time.NewTimer(now.Truncate(Interval).Add(Interval).Sub(now))
		select {
		case <-ctx.Done():
			timer.Stop()
			return
		case now := <-timer.C:
			t.Sample(now)
		}
	}
}
