package limit

import (
	"hash/maphash"
	"math"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// rule is what is allowed to one name. The zero value is everything.
type rule struct {
	inFlight int64
	interval int64 // ns from one token to the next; 0 is no rate
	burst    int64 // ns that a full bucket is worth, but for one token
}

// maxInterval keeps sums of times far from where they wrap.
const maxInterval = int64(24 * time.Hour)

func newRule(inFlight int, r Rate) rule {
	to := rule{inFlight: int64(inFlight)}
	if !(r.PerSecond > 0) {
		return to
	}
	to.interval = max(min(int64(float64(time.Second)/r.PerSecond), maxInterval), 1)
	burst := int64(r.Burst)
	if burst <= 0 {
		burst = max(int64(min(r.PerSecond, math.MaxInt32)), 1)
	}
	to.burst = min((burst-1), math.MaxInt64/2/to.interval) * to.interval
	return to
}

// entry is what is known of one name. The bucket is a virtual time (GCRA): when the next token would be there if all
// came one after the other. That is one word, so that no lock is needed, and a full bucket is one whose time is past.
type entry struct {
	inFlight atomic.Int64
	next     atomic.Int64 // ns since the table began
}

func (e *entry) end() {
	if e != nil {
		e.inFlight.Add(-1)
	}
}

// take takes a token, or says when there is one.
func (e *entry) take(r rule, now int64) (after time.Duration, ok bool) {
	for {
		old := e.next.Load()
		next := max(old, now)
		if next-now > r.burst+r.interval { // owed to a stricter rule, which is in force no more
			next = now + r.burst
		}
		if next-now > r.burst {
			return time.Duration(next - now - r.burst), false
		}
		if e.next.CompareAndSwap(old, next+r.interval) {
			return 0, true
		}
	}
}

// refund gives a token back.
func (e *entry) refund(r rule) {
	if e != nil && r.interval > 0 {
		e.next.Add(-r.interval)
	}
}

// forgettable says that a new entry would do as well.
func (e *entry) forgettable(now int64) bool { return e.inFlight.Load() == 0 && e.next.Load() <= now }

// shardCount keeps those apart that make or forget entries. Requests only read the maps.
const shardCount = 64

// minSweep is how many entries a shard has before any are forgotten.
const minSweep = 16

// table holds an entry for each name that has requests in flight, or had them so lately that its bucket is not full
// again, and at most about as many more.
type table struct {
	// Static after construction.
	seed maphash.Seed

	shards [shardCount]shard
}

type shard struct {
	mu sync.RWMutex
	// Guarded by mu. Entries are pinned with mu read-locked, so that who holds it for writing sees all pins.
	entries map[string]*entry
	sweepAt int // length of entries with which the next sweep is due

	_ [64 - 24 - 8 - 8]byte
}

func (t *table) init() { t.seed = maphash.MakeSeed() }

// begin counts a request of the name and takes a token. What it returns is nil if the rule allows everything, or the
// name is "".
func (t *table) begin(name string, r rule, now int64) (*entry, time.Duration, reason) {
	if name == "" || r == (rule{}) {
		return nil, 0, allowed
	}
	e, n := t.pin(name, now)
	if r.inFlight > 0 && n > r.inFlight {
		e.end()
		return nil, 0, overCount
	}
	if r.interval > 0 {
		if after, ok := e.take(r, now); !ok {
			e.end()
			return nil, after, overRate
		}
	}
	return e, 0, allowed
}

// pin returns the name's entry with one more in flight, which keeps it in the table, and how many that are.
func (t *table) pin(name string, now int64) (*entry, int64) {
	s := &t.shards[maphash.String(t.seed, name)%shardCount]
	s.mu.RLock()
	if e := s.entries[name]; e != nil {
		n := e.inFlight.Add(1)
		s.mu.RUnlock()
		return e, n
	}
	s.mu.RUnlock()

	s.mu.Lock()
	defer s.mu.Unlock()
	e := s.entries[name]
	if e == nil {
		if len(s.entries) >= max(s.sweepAt, minSweep) {
			s.sweep(now)
		}
		if s.entries == nil {
			s.entries = make(map[string]*entry)
		}
		e = new(entry)
		s.entries[strings.Clone(name)] = e // it may be a small part of a request's buffer
	}
	return e, e.inFlight.Add(1)
}

// sweep forgets what need not be known. The map is made anew, since maps do not shrink. It needs mu.
func (s *shard) sweep(now int64) {
	kept := make(map[string]*entry)
	for name, e := range s.entries {
		if !e.forgettable(now) {
			kept[name] = e
		}
	}
	s.entries, s.sweepAt = kept, 2*len(kept)
}

// len is the number of entries.
func (t *table) len() int {
	n := 0
	for i := range t.shards {
		s := &t.shards[i]
		s.mu.RLock()
		n += len(s.entries)
		s.mu.RUnlock()
	}
	return n
}
