package gossip

// What a node serves, as others read it. The code of this file, of frame.go,
// copy.go, weight.go and digest.go decides and does not wait: it knows neither
// memberlist nor connections, clocks or goroutines. The rest of the package uses
// it so:
//
//	owner:  log.set(endpoint, weight)          as the table tells, removals held back
//	        b, cur = log.next(b, cur)          until b stays empty; then wait for log.changed()
//	        b = log.heartbeat(b)               every 5 s
//	reader: copy.position()                    where to subscribe
//	        frame, err := frames.next()
//	        copy.apply(frame)                  errResync: subscribe anew

import "sync"

const (
	// ringSize is how many changes a reader may be behind before it gets a
	// snapshot.
	ringSize = 65_536

	// pieceSize is how many bytes next appends at most, about: a reader's
	// connection is shared with requests.
	pieceSize = 32 << 10
)

// ownLog is what this node serves: a level, and the ring of its last changes. A
// reader is a cursor and nothing else, so that a slow one costs nothing. Safe for
// concurrent use.
type ownLog struct {
	// Static after construction.
	epoch string

	// Guarded by mu.
	mu     sync.Mutex
	seq    uint64 // of the last change; 1 at the beginning, so that 0 is nothing
	digest digest
	index  map[string]int32 // of an endpoint's slot
	slots  []entry          // some are free, and have no endpoint
	free   []int32          // indexes of those
	packed uint64           // how often slots were packed
	ring   []entry          // changes, n at n%len; it grows to ringSize
	oldest uint64           // number of the oldest change in it; seq+1 if it is empty
	news   chan struct{}    // closed at the next change
}

// entry is an endpoint and the class of its weight.
type entry struct {
	endpoint string
	class    class
}

func newOwnLog(epoch string) *ownLog {
	return &ownLog{epoch: epoch, seq: 1, oldest: 2, index: make(map[string]int32), news: make(chan struct{})}
}

// set says what weight the endpoint has here now; 0 is none. It reports whether
// that is news for others. Of more endpoints than they accept of one node they are
// not told: it would make them drop all.
func (l *ownLog) set(endpoint string, weight int) (changed bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	c := classOf(weight)
	i, known := l.index[endpoint]
	switch {
	case !known && c == 0 || known && l.slots[i].class == c:
		return false
	case !known && len(l.index) >= maxEntries:
		return false
	case !known:
		l.insert(entry{endpoint, c})
	default:
		endpoint = l.slots[i].endpoint
		l.digest.toggle(l.slots[i])
		if c == 0 {
			l.remove(i)
		} else {
			l.slots[i].class = c
			l.digest.toggle(l.slots[i])
		}
	}
	l.record(entry{endpoint, c})
	return true
}

func (l *ownLog) insert(e entry) {
	l.digest.toggle(e)
	if n := len(l.free); n > 0 {
		l.index[e.endpoint] = l.free[n-1]
		l.slots[l.free[n-1]] = e
		l.free = l.free[:n-1]
		return
	}
	l.index[e.endpoint] = int32(len(l.slots))
	l.slots = append(l.slots, e)
}

// remove frees a slot. No other entry is moved for it: a snapshot that is being
// read would miss one.
func (l *ownLog) remove(i int32) {
	delete(l.index, l.slots[i].endpoint)
	l.slots[i] = entry{}
	l.free = append(l.free, i)
	if len(l.free) > 1024 && len(l.free) > 3*len(l.index) {
		l.pack()
	}
}

// pack gives the room of free slots back. Snapshots that are being read begin
// again.
func (l *ownLog) pack() {
	slots := make([]entry, 0, len(l.index))
	index := make(map[string]int32, len(l.index)) // a map never shrinks
	for _, e := range l.slots {
		if e.class != 0 {
			index[e.endpoint] = int32(len(slots))
			slots = append(slots, e)
		}
	}
	l.slots, l.index, l.free = slots, index, nil
	l.packed++
}

// record appends a change to the ring.
func (l *ownLog) record(e entry) {
	l.seq++
	switch size := uint64(len(l.ring)); {
	case l.seq-l.oldest < size:
	case size < ringSize:
		ring := make([]entry, max(64, 2*size))
		for n := l.oldest; n < l.seq; n++ {
			ring[n%uint64(len(ring))] = l.ring[n%size]
		}
		l.ring = ring
	default:
		l.oldest++
	}
	l.ring[l.seq%uint64(len(l.ring))] = e
	close(l.news)
	l.news = make(chan struct{})
}

// head is what gossip tells of a node's log. upstreams is the number of tunnels,
// which the log does not know.
type head struct {
	epoch     string
	seq       uint64
	digest    digest
	count     uint64
	upstreams uint64
}

func (l *ownLog) head() head {
	l.mu.Lock()
	defer l.mu.Unlock()
	return head{epoch: l.epoch, seq: l.seq, digest: l.digest, count: uint64(len(l.index))}
}

// changed is closed at the next change. Ask for it before next, and wait after.
func (l *ownLog) changed() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.news
}

// cursor is where a reader is. The zero value is at the beginning of a snapshot.
type cursor struct {
	seq      uint64 // read up to this change; in a snapshot the last one when it began
	snapshot bool   // in a snapshot, whose next slot is slot
	slot     int
	packed   uint64 // how often slots had been packed when it began
}

// cursorAt is where a reader goes on that has the log of the epoch up to since.
func (l *ownLog) cursorAt(epoch string, since uint64) cursor {
	l.mu.Lock()
	defer l.mu.Unlock()
	if epoch != l.epoch || since > l.seq {
		return cursor{}
	}
	return cursor{seq: since}
}

// next appends what a reader at cur needs next: a piece of a snapshot, if it is
// new or too far behind, or changes. Nothing means that it has everything. While a
// snapshot is read entries may change: what is sent of them is what they are then,
// and the changes since the beginning follow, so that it comes out right.
func (l *ownLog) next(b []byte, cur cursor) ([]byte, cursor) {
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case cur.seq+1 < l.oldest || cur.seq == 0 || cur.snapshot && cur.packed != l.packed:
		cur = cursor{seq: l.seq, snapshot: true, packed: l.packed}
		return l.piece(appendBegin(b, l.epoch, l.seq, len(l.index)), cur)
	case cur.snapshot:
		return l.piece(b, cur)
	case cur.seq == l.seq:
		return b, cur
	}
	return l.changes(b, cur)
}

// piece appends some entries of a snapshot, and behind the last its end.
func (l *ownLog) piece(b []byte, cur cursor) ([]byte, cursor) {
	f := beginFrame(b, frameEntries)
	for ; cur.slot < len(l.slots) && f.size() < pieceSize; cur.slot++ {
		if e := l.slots[cur.slot]; e.class != 0 {
			f.entry(e)
		}
	}
	b = f.end()
	if cur.slot < len(l.slots) {
		return b, cur
	}
	return appendEnd(b, cur.seq), cursor{seq: cur.seq}
}

// changes appends some of the changes behind cur.
func (l *ownLog) changes(b []byte, cur cursor) ([]byte, cursor) {
	f := beginFrame(b, frameChanges)
	f.number(cur.seq)
	for cur.seq < l.seq && f.size() < pieceSize {
		cur.seq++
		f.entry(l.ring[cur.seq%uint64(len(l.ring))])
	}
	return f.end(), cur
}

// heartbeat appends where the log is, for a reader to compare.
func (l *ownLog) heartbeat(b []byte) []byte { return appendHeartbeat(b, l.head()) }
