package tunnel

import (
	"cmp"
	"slices"
	"time"
)

// standing is how a stream's reader does, in the order in which streams go.
type standing int

const (
	still  standing = iota // it reads slower than its bytes come, or not at all
	little                 // the same, of one that holds little: too many of those would have to go
	rests                  // it has kept pace until a moment ago, or has read all that has come
	moves                  // it reads what it holds within a moment
)

// holder is a stream that holds bytes.
type holder struct {
	s        *Stream
	bytes    int64
	age      int64 // of the oldest of them, in ns
	standing standing
}

// shed resets the streams with the slowest readers until they have given back n
// bytes, or nobody is left who does no better than upTo, and whose bytes have
// waited for so long.
func (b *Budget) shed(n int64, waited time.Duration, upTo standing) {
	list := b.holders(int64(time.Since(b.began)), int64(waited))
	slices.SortFunc(list, func(x, y holder) int {
		return cmp.Or(cmp.Compare(x.standing, y.standing), cmp.Compare(y.age, x.age))
	})
	for _, h := range list {
		if n <= 0 || h.standing > upTo {
			return
		}
		if h.s.overload() {
			n -= h.bytes
			b.resets.Add(1)
		}
	}
}

// holders returns the streams with bytes that have waited for so long. What
// counts is the time that the oldest have waited: it is the backlog over the
// rate, so that one who reads a byte now and then is as slow as one who does not.
// How many they are counts only as far as those are spared that hold little.
func (b *Budget) holders(now, waited int64) []holder {
	var list []holder
	all, marked := int64(0), b.marked.Load()
	for _, s := range b.listed() {
		w := s.waiting()
		h := holder{s: s, bytes: w.bytes, age: now - w.since}
		if h.bytes == 0 || h.age < waited {
			continue
		}
		h.standing = w.standing(h.age, marked)
		list = append(list, h)
		all += h.bytes
	}
	for i := range list {
		if h := &list[i]; h.standing == still && h.bytes < all/int64(len(list))/littleShare {
			h.standing = little
		}
	}
	return list
}

// backlog is what a stream holds, and how it is read.
type backlog struct {
	bytes, unread int64 // memory; what is in it
	since         int64 // when the oldest came, on the budget's clock
	read          int64 // since the last mark
	pace, habit   int64 // read in each tick, see Stream
}

func (w *backlog) add(c *chunk) {
	if w.bytes == 0 {
		w.since = c.since
	}
	w.bytes += int64(len(c.buf))
	w.unread += int64(len(c.unread()))
}

// standing is how the reader of bytes does that are so old; marked says that read
// is of this tick.
func (w *backlog) standing(age int64, marked bool) standing {
	switch {
	case marked && w.read >= w.bytes/movingShare, marked && w.pace >= w.bytes/paceShare:
		return moves
	case age < int64(restFor) && w.habit*int64(slowAfter/clockTick) >= w.bytes, w.unread == 0:
		return rests
	}
	return still
}

// waiting returns what the stream holds. What somebody is just reading is about
// to be free.
func (s *Stream) waiting() (w backlog) {
	if s.rmu.TryLock() {
		if s.current != nil {
			w.add(s.current)
		}
		s.rmu.Unlock()
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.addUnread(&w)
	return w
}

// addUnread needs mu.
func (s *Stream) addUnread(w *backlog) {
	for c := s.first; c != nil; c = c.next {
		w.add(c)
	}
	w.read, w.pace, w.habit = int64(s.total-s.mark), s.pace, s.habit
}

// moving says, as far as that can be told at any time, that the stream's reader
// takes at once what comes. It needs mu.
func (s *Stream) moving() bool {
	var w backlog
	s.addUnread(&w)
	return w.bytes == 0 && w.habit > 0 || w.pace > w.bytes/paceShare
}

// spared says that a stream may bring c beyond twice the budget: its reader moves,
// or rests, or has had nothing to read and gets little. It needs mu.
func (s *Stream) spared(c *chunk, now int64) bool {
	var w backlog
	if s.addUnread(&w); w.bytes == 0 && len(c.buf) <= largeFrame {
		return true
	}
	return s.moving() || w.bytes > 0 && w.standing(now-w.since, false) == rests
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
	if s.err == nil && !(s.finSent && s.finSeen) {
		s.resetWith(rstOverloaded)
	}
	s.err = ErrOverloaded
	s.m.out.cancel(s)
	s.dropUnread()
	s.wake()
	s.mu.Unlock()
	s.dropCurrent()
	s.m.remove(s)
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
