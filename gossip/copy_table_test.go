package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"testing"

	"piko/router"
)

// replica follows one owner into a table that it shares with the replicas of
// others, over a network that loses, repeats and swaps whole frames: what a
// stream never does, and a defect might.
type replica struct {
	table *router.Table
	rng   *rand.Rand
	id    string
	start int
	log   *ownLog
	node  *router.Node
	copy  *remoteCopy
	cur   cursor
	late  [][]byte // frames from before, which may come again
}

// restart is a new process of the node: the old one is forgotten.
func (r *replica) restart() {
	if r.node != nil {
		r.table.ForgetNode(r.node)
	}
	r.start++
	epoch := fmt.Sprint(r.id, "-", r.start)
	r.log, r.node = newOwnLog(epoch), router.NewNode(epoch, nil)
	r.copy = newRemoteCopy(epoch, nodeLevel{r.table, r.node})
	r.subscribe()
}

func (r *replica) subscribe() { r.cur = r.log.cursorAt(r.copy.position()) }

// forget is a node that was away for so long that nothing is kept of it.
func (r *replica) forget() {
	r.table.ForgetNode(r.node)
	r.copy = newRemoteCopy(r.log.epoch, nodeLevel{r.table, r.node})
	r.subscribe()
}

func (r *replica) step() {
	switch r.rng.IntN(30) {
	case 0:
		r.restart()
	case 1:
		r.forget()
	case 2: // the ring runs over
		for i := range ringSize + 1 {
			r.log.set("both-0", 100*(i%2+1))
		}
	case 3, 4, 5:
		r.subscribe()
	case 6, 7, 8, 9, 10, 11, 12:
		r.read(true)
	default:
		for range r.rng.IntN(50) {
			r.log.set(fmt.Sprint("both-", r.rng.IntN(40)), r.rng.IntN(4)*50)
		}
	}
}

// read brings what follows, through the network if it is bad.
func (r *replica) read(bad bool) {
	for b, next := r.log.next(nil, r.cur); len(b) > 0; b, next = r.log.next(nil, r.cur) {
		r.cur = next
		r.deliver(b, bad)
	}
	r.deliver(r.log.heartbeat(nil), bad)
}

func (r *replica) deliver(b []byte, bad bool) {
	frames := framesOf(b)
	if bad {
		frames = r.spoil(frames)
	}
	for _, f := range frames {
		if err := feed(r.copy, f); err != nil {
			r.subscribe()
			return
		}
	}
}

// spoil loses, repeats and swaps frames, and lets old ones in.
func (r *replica) spoil(frames [][]byte) (out [][]byte) {
	r.late = append(r.late, frames...)
	r.late = r.late[max(0, len(r.late)-20):]
	for _, f := range frames {
		switch r.rng.IntN(12) {
		case 0:
		case 1:
			out = append(out, f, f)
		case 2:
			out = append(out, r.late[r.rng.IntN(len(r.late))], f)
		default:
			out = append(out, f)
		}
	}
	if r.rng.IntN(8) == 0 {
		r.rng.Shuffle(len(out), func(i, j int) { out[i], out[j] = out[j], out[i] })
	}
	return out
}

// framesOf takes what next wrote apart. It writes lengths in three bytes.
func framesOf(b []byte) (frames [][]byte) {
	for len(b) > 0 {
		n := lengthBytes + (int(b[0]&0x7f) | int(b[1]&0x7f)<<7 | int(b[2])<<14)
		frames, b = append(frames, b[:n:n]), b[n:]
	}
	return frames
}

// settle lets the network work again. What went wrong is found out by one
// heartbeat and mended by the snapshot that follows.
func (r *replica) settle() {
	r.subscribe()
	for range 3 {
		r.read(false)
	}
}

// TestBadFramesEndInEqualTables: two nodes serve the same endpoints and are
// followed into one table. Whatever a network does to their frames, when it works
// again the table is what they serve.
func TestBadFramesEndInEqualTables(t *testing.T) {
	for seed := range uint64(60) {
		rng := rand.New(rand.NewPCG(seed, 11))
		table := router.NewTable()
		a := &replica{table: table, rng: rng, id: "a"}
		b := &replica{table: table, rng: rng, id: "b"}
		a.restart()
		b.restart()
		for range 150 {
			[]*replica{a, b}[rng.IntN(2)].step()
		}
		for _, r := range []*replica{a, b} {
			r.settle()
			got, want := maps.Collect(table.NodeEndpoints(r.node)), r.log.contents()
			if !maps.Equal(got, want) {
				t.Fatalf("seed %d: of %s the table has %v, want %v", seed, r.log.epoch, got, want)
			}
		}
		if err := table.ConsistencyCheck(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}

// TestLongestEpochIsRead: what may be a node's name can be said in a frame and in
// a head.
func TestLongestEpochIsRead(t *testing.T) {
	epoch := string(bytes.Repeat([]byte("n"), maxNodeID)) + "-00dc6acfac00"
	if _, _, err := parseEpoch(epoch); err != nil {
		t.Fatal(err)
	}
	l, c := newOwnLog(epoch), newRemoteCopy(epoch, memory{})
	catchUp(t, l, c)
	if h, err := parseHead(appendHead(nil, l.head())); err != nil || h != l.head() {
		t.Errorf("the head is read as %+v, %v", h, err)
	}
}

// FuzzFrames: whatever follows a good snapshot, in whatever state the copy is, is
// refused or leaves the digest and the count of what the level has; and what is
// read is never larger than a frame can be.
func FuzzFrames(f *testing.F) {
	l := newOwnLog("n-1")
	l.set("one", 100)
	l.set("two", 50)
	snapshot, cur := l.next(nil, cursor{})
	l.set("one", 0)
	l.set("three", 300)
	more, _ := l.next(nil, cur)
	f.Add(more)
	f.Add(l.heartbeat(more))
	f.Add(append(appendBegin(nil, "n-1", 1<<63, maxEntries), appendEnd(nil, 1<<63)...))
	f.Add(appendHeartbeat(nil, head{seq: 1<<64 - 1, count: 1<<64 - 1}))
	f.Add([]byte{0xff, 0xff, 0x03, 2})
	f.Fuzz(func(t *testing.T, b []byte) {
		level := memory{}
		c := newRemoteCopy("n-1", level)
		if err := feed(c, snapshot); err != nil {
			t.Fatal(err)
		}
		r := newFrameReader(bytes.NewReader(b))
		for {
			fr, err := r.next()
			if err != nil {
				break
			}
			if cap(r.buf) > maxFrame || len(fr.entries) > maxFrame/3 {
				t.Fatalf("a frame takes %d bytes, %d entries", cap(r.buf), len(fr.entries))
			}
			if err := c.apply(fr); err != nil && c.seq != 0 && errors.Is(err, errResync) {
				t.Fatalf("a copy that is wrong goes on at %d", c.seq)
			}
		}
		var want digest
		for e, w := range level {
			want.replace(e, 0, classOf(w))
		}
		if c.digest != want || c.count != uint64(len(level)) {
			t.Errorf("the copy has %d, %x; the level %d, %x", c.count, c.digest, len(level), want)
		}
	})
}

// FuzzHead: what is a head is written as one again.
func FuzzHead(f *testing.F) {
	f.Add(appendHead(nil, head{"n-1", 5, 1 << 63, 1000, 2000}))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := parseHead(b)
		if err != nil {
			return
		}
		if again, err := parseHead(appendHead(nil, h)); err != nil || again != h {
			t.Errorf("%+v is read as %+v, %v", h, again, err)
		}
	})
}
