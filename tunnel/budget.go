package tunnel

import (
	"context"
	"errors"
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
// otherwise hold a thousand windows. Beyond it streams are reset, those first
// whose bytes have waited the longest. Who that may be depends on how much is
// held (see standing for the words):
//
//   - beyond the budget: who stands still, and has for slowAfter;
//   - beyond that and a half, until which there is time to find out who is slow:
//     who stands still at all. Meanwhile sessions wait for a moment with what is
//     not for a reader that moves;
//   - beyond twice the budget: who rests, when nobody stands still any more; and
//     who brings more and neither moves nor rests;
//   - beyond three times the budget, the bound that always holds: who brings more.
//
// Who moves is never looked for, since its bytes are about to be gone.
//
// It counts whole chunks, each once when it is filled and once when it is free
// again, with one atomic addition. Its methods are safe for concurrent use; a nil
// *Budget bounds nothing.
type Budget struct {
	// Static after construction.
	began time.Time
	size  int64

	_     [64]byte
	used  atomic.Int64
	_     [64]byte
	clock atomic.Int64 // coarse time since began, in ns; set by Run
	room  atomic.Int64 // what may be held now: size, or less for a while after Shrink

	resets atomic.Uint64
	marked atomic.Bool // the streams know what was read when the clock ticked last
	ticks  int         // owned by Run
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
	clockTick = 50 * time.Millisecond
	// pauseTime is how long a session reads nothing, at most, if there is far
	// too much; pauseStep is how often it looks.
	pauseTime, pauseStep = 5 * clockTick, 10 * time.Millisecond
	// largeFrame is the size from which a frame is worth a pause.
	largeFrame = 4 << 10
	// movingShare is the part of what a stream holds that is read in a tick if
	// its reader moves; paceShare is the part that was read in each tick lately,
	// on average, by one that may stop for some ticks: where the machine is busy
	// whoever is served by it stops.
	movingShare, paceShare = 16, 2
	// paceWeight is the weight of a tick in that average, as its inverse, and
	// habitWeight in the one over the last seconds.
	paceWeight, habitWeight = 4, 64
	// calmTicks is how many ticks are one while there is room enough.
	calmTicks = 4
	// slowAfter is how old bytes are of a reader that is slow for certain. Where
	// one reads as fast as his network lets him it is a window over his rate.
	slowAfter = time.Second
	// restFor is how long a reader may rest that reads, over the last seconds, what
	// it holds within slowAfter: a busy machine lets whoever is served by it stand
	// for longer than that, and does so to all at the same time.
	restFor = 5 * time.Second
	// firstBytes of a stream are no habit: buffers in the kernels at both ends take
	// as much for a client that reads nothing.
	firstBytes = 512 << 10
	// littleShare is the part of what streams hold on average that is little.
	littleShare = 4
	// spareShare is the part of the budget that is free again after streams
	// were reset, so that the slowest are not looked for all the time.
	spareShare = 8
	// leastShare is the part of the budget that Shrink always leaves, and
	// recoverShare what comes back with each tick.
	leastShare, recoverShare = 4, 128
)

// NewBudget returns a budget of so many bytes, whose Run must be called.
func NewBudget(size int64) *Budget {
	size = max(size, 1)
	b := &Budget{began: time.Now(), size: size}
	b.room.Store(size)
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
			b.tick()
		}
	}
}

// tick looks after the budget.
func (b *Budget) tick() {
	b.clock.Store(int64(time.Since(b.began)))
	b.recover()
	if over := b.used.Load() - b.room.Load(); over > 0 {
		b.shed(over+b.size/spareShare, slowAfter, little)
	}
	if over := b.used.Load() - b.most(); over > 0 && b.marked.Load() {
		b.shed(over+b.size/spareShare, 0, little)
	}
	if over := b.used.Load() - 2*b.size; over > 0 && b.marked.Load() {
		b.shed(over+b.size/spareShare, 0, rests)
	}
	near := b.used.Load() > b.size/4
	if b.ticks++; near || b.ticks%calmTicks == 0 {
		ticks := int64(1)
		if !near && !b.marked.Load() {
			ticks = calmTicks
		}
		for _, s := range b.listed() {
			s.remark(ticks)
		}
	}
	b.marked.Store(near)
}

// remark takes note of how much was read since it was called last, so many ticks
// ago.
func (s *Stream) remark(ticks int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	read := int64(s.total - s.mark)
	s.pace += (read/ticks - s.pace) / paceWeight
	s.habit += (min(read, max(int64(s.total)-firstBytes, 0)) - s.habit*ticks) / habitWeight
	s.mark = s.total
}

// pause lets a read loop wait that brings n bytes of a stream when there is far
// too much, until there is less, or done is closed, but never for long. Whose
// reader moves need not: it is not what fills the memory.
func (b *Budget) pause(s *Stream, n int, done <-chan struct{}) {
	if b == nil || n < largeFrame || b.used.Load() <= b.most() {
		return
	}
	s.mu.Lock()
	moving := s.moving()
	s.mu.Unlock()
	if moving {
		return
	}
	step := time.NewTicker(pauseStep)
	defer step.Stop()
	for range int(pauseTime / pauseStep) {
		select {
		case <-step.C:
		case <-done:
			return
		}
		if b.used.Load() <= b.most() {
			return
		}
	}
}

// most is what may be held until it is known who is slow.
func (b *Budget) most() int64 { return b.room.Load() + b.size/2 }

// charge counts c, which is the stream's from now on; false is that there is no
// room for it. It needs the stream's mu.
func (b *Budget) charge(s *Stream, c *chunk) bool {
	if b == nil {
		return true
	}
	n := b.used.Add(int64(len(c.buf)))
	if n > 3*b.size || n > 2*b.size && !s.spared(c, int64(time.Since(b.began))) {
		b.used.Add(-int64(len(c.buf)))
		b.resets.Add(1)
		return false
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

// Shrink gives n bytes back, for other uses, and bounds what is held to what is
// left. It resets the streams whose readers stand still, and have for so long; if
// that is 0, so that nobody's time is left, those whose readers rest, too. Who
// moves goes on also if that is less than n. The budget is as large as before
// after some seconds.
func (b *Budget) Shrink(n int64, waited time.Duration) {
	if b == nil || n <= 0 {
		return
	}
	b.room.Store(max(min(b.used.Load()-n, b.room.Load()), b.size/leastShare))
	upTo := little
	if waited == 0 {
		upTo = rests
	}
	b.shed(n, waited, upTo)
}

// recover lets the budget grow again after Shrink.
func (b *Budget) recover() {
	if room := b.room.Load(); room < b.size {
		b.room.CompareAndSwap(room, min(room+b.size/recoverShare, b.size))
	}
}

// listed returns the streams that may hold something.
func (b *Budget) listed() []*Stream {
	var list []*Stream
	for i := range b.shards {
		sh := &b.shards[i]
		sh.mu.Lock()
		for s := range sh.streams {
			list = append(list, s)
		}
		sh.mu.Unlock()
	}
	return list
}
