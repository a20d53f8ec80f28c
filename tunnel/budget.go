package tunnel

import (
	"cmp"
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"piko/fault"
)

// ErrOverloaded is what a stream ends with that was reset because too many bytes
// waited in this process for readers, and among those its own was one of the
// slowest. It is a fault.Overloaded: nobody has failed.
var ErrOverloaded error = fault.New(fault.Overloaded, errors.New("stream reset: its reader is too slow for the memory that there is"))

// Budget bounds the memory of bytes that were received and wait to be read, over
// all sessions that share it: a thousand readers that read nothing would
// otherwise hold a thousand windows. Beyond it the streams are reset whose bytes
// have waited the longest, weighted with how many they are. Nobody else is:
// bytes of a reader that keeps up are gone before anybody could ask.
//
// It counts whole chunks, each once when it is filled and once when it is free
// again, with one atomic addition. Its methods are safe for concurrent use; a nil
// *Budget bounds nothing.
type Budget struct {
	// Static after construction.
	began time.Time
	size  int64
	hard  int64         // beyond it who brings more is reset himself: Run did not come to it
	over  chan struct{} // wakes Run

	_     [64]byte
	used  atomic.Int64
	_     [64]byte
	clock atomic.Int64 // coarse time since began, in ns; set by Run

	resets atomic.Uint64
	shards [16]budgetShard
}

// budgetShard holds streams that have, or had, more than a little to read and
// were not closed since. Streams stay in, so that their readers need not say
// each time that they have caught up.
type budgetShard struct {
	mu      sync.Mutex // no other lock is taken while it is held
	streams map[*Stream]struct{}

	_ [64 - 8 - 8]byte
}

const (
	// clockTick is how exact the times of bytes are while there is room enough.
	clockTick = 100 * time.Millisecond
	// spareShare is the part of the budget that is free again after streams
	// were reset, so that the slowest are not looked for all the time.
	spareShare = 8
)

// NewBudget returns a budget of so many bytes, whose Run must be called.
func NewBudget(size int64) *Budget {
	size = max(size, 1)
	b := &Budget{began: time.Now(), size: size, hard: size + size/2, over: make(chan struct{}, 1)}
	for i := range b.shards {
		b.shards[i].streams = make(map[*Stream]struct{})
	}
	return b
}

// Used is how many bytes are held.
func (b *Budget) Used() int64 {
	if b == nil {
		return 0
	}
	return b.used.Load()
}

// Size is how many bytes may be held.
func (b *Budget) Size() int64 { return b.size }

// Resets is how many streams were reset.
func (b *Budget) Resets() uint64 { return b.resets.Load() }

// Reserve counts n bytes that somebody else than a session holds, or returns
// false if that is too much. They are given back with Release.
func (b *Budget) Reserve(n int) bool {
	if b == nil || b.used.Add(int64(n)) <= b.size {
		return true
	}
	b.used.Add(-int64(n))
	return false
}

// Release gives back what Reserve has counted.
func (b *Budget) Release(n int) {
	if b != nil {
		b.used.Add(-int64(n))
	}
}

// Run resets streams as long as there is too much, until ctx ends.
func (b *Budget) Run(ctx context.Context) {
	tick := time.NewTicker(clockTick)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			b.clock.Store(int64(time.Since(b.began)))
		case <-b.over:
			if over := b.used.Load() - b.size; over > 0 {
				b.Shed(over + b.size/spareShare)
			}
		}
	}
}

// charge counts c, which is the stream's from now on; false is that there is no
// room for it. It needs the stream's mu.
func (b *Budget) charge(s *Stream, c *chunk) bool {
	if b == nil {
		return true
	}
	n := b.used.Add(int64(len(c.buf)))
	if n > b.size {
		select {
		case b.over <- struct{}{}:
		default:
		}
		if n > b.hard {
			b.used.Add(-int64(len(c.buf)))
			b.resets.Add(1)
			return false
		}
	}
	c.budget, c.since = b, b.clock.Load()
	if n > b.size/4 { // it may matter soon who was first
		c.since = int64(time.Since(b.began))
	}
	// A single small chunk is not worth a place in a list: the stream itself is as large.
	if !s.budgeted && (s.first != nil || c.size > 1) {
		s.budgeted = true
		sh := b.shard(s)
		sh.mu.Lock()
		sh.streams[s] = struct{}{}
		sh.mu.Unlock()
	}
	return true
}

// forget takes a stream out that holds nothing any more, for good. It needs the
// stream's mu.
func (b *Budget) forget(s *Stream) {
	if !s.budgeted {
		return
	}
	s.budgeted = false
	sh := b.shard(s)
	sh.mu.Lock()
	delete(sh.streams, s)
	sh.mu.Unlock()
}

// shard spreads the streams of one session.
func (b *Budget) shard(s *Stream) *budgetShard { return &b.shards[s.id/2%uint32(len(b.shards))] }

// slow is a stream that holds bytes.
type slow struct {
	s     *Stream
	bytes int64
	score float64
}

// Shed resets the streams with the slowest readers until they have given back n
// bytes, or nobody holds anything.
func (b *Budget) Shed(n int64) {
	if b == nil {
		return
	}
	list := b.holders(int64(time.Since(b.began)))
	slices.SortFunc(list, func(x, y slow) int { return cmp.Compare(y.score, x.score) })
	for _, h := range list {
		if n <= 0 {
			return
		}
		if h.s.overload() {
			n -= h.bytes
			b.resets.Add(1)
		}
	}
}

// holders returns the streams with bytes that wait. What counts is the time that
// the oldest have waited: it is the backlog over the rate, so that one who reads
// a byte now and then is as slow as one who does not.
func (b *Budget) holders(now int64) []slow {
	var list []slow
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		for s := range sh.streams {
			list = append(list, slow{s: s})
		}
		sh.mu.Unlock()
	}
	kept := list[:0]
	for _, h := range list {
		bytes, since := h.s.waiting()
		if bytes == 0 {
			continue
		}
		const atLeast = int64(time.Millisecond)
		h.bytes, h.score = bytes, float64(bytes)*float64(max(now-since, atLeast))
		kept = append(kept, h)
	}
	return kept
}

// waiting returns what the stream holds, and since when the oldest.
func (s *Stream) waiting() (bytes, since int64) {
	if s.rmu.TryLock() { // else somebody reads, for whom it is about to be free
		if c := s.current; c != nil {
			bytes, since = int64(len(c.buf)), c.since
		}
		s.rmu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for c := s.first; c != nil; c = c.next {
		if bytes == 0 {
			since = c.since
		}
		bytes += int64(len(c.buf))
	}
	return bytes, since
}

// overload resets the stream and drops what it holds. Its reader gets
// ErrOverloaded also if the peer has ended its side: what is lost must not look
// like an end. It returns false for a stream that is over already.
func (s *Stream) overload() bool {
	s.mu.Lock()
	if s.closed || s.lost {
		s.mu.Unlock()
		return false
	}
	s.lost = true
	s.gone.Store(true)
	var window uint32
	if s.err == nil && !(s.finSent && s.finSeen) {
		window = s.resetWith(rstOverloaded)
	}
	s.err = ErrOverloaded
	s.m.out.cancel(s)
	s.dropUnread()
	s.wake()
	s.mu.Unlock()
	s.dropCurrent()
	s.m.remove(s, window)
	return true
}

// drop frees what nobody will read.
func (s *Stream) drop() {
	s.mu.Lock()
	s.gone.Store(true)
	s.dropUnread()
	if b := s.m.opt.budget; b != nil {
		b.forget(s)
	}
	s.mu.Unlock()
	s.dropCurrent()
}
