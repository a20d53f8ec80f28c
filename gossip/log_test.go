package gossip

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"strings"
	"testing"

	"piko/tunnel"
)

// memory is a level.
type memory map[string]int

func (m memory) set(endpoints map[string]int) {
	clear(m)
	maps.Copy(m, endpoints)
}

func (m memory) patch(endpoints map[string]int) {
	for e, w := range endpoints {
		if m[e] = w; w == 0 {
			delete(m, e)
		}
	}
}

func (m memory) weight(endpoint string) int { return m[endpoint] }

// contents is what the log holds.
func (l *ownLog) contents() map[string]int {
	m := map[string]int{}
	for e, i := range l.index {
		m[e] = l.slots[i].class.weight()
	}
	return m
}

// feed applies all frames of b.
func feed(c *remoteCopy, b []byte) error {
	r := newFrameReader(bytes.NewReader(b))
	for {
		f, err := r.next()
		if errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
			return nil
		}
		if err == nil {
			err = c.apply(f)
		}
		if err != nil {
			return err
		}
	}
}

// catchUp reads the log to its end.
func catchUp(t *testing.T, l *ownLog, c *remoteCopy) {
	t.Helper()
	for cur := l.cursorAt(c.position()); ; {
		var b []byte
		if b, cur = l.next(nil, cur); len(b) == 0 {
			break
		}
		if err := feed(c, b); err != nil {
			t.Fatal(err)
		}
	}
	if err := feed(c, l.heartbeat(nil)); err != nil {
		t.Fatal(err)
	}
}

func TestClasses(t *testing.T) {
	last := 0
	for c := class(1); c <= maxClass; c++ {
		if w := c.weight(); w <= last || classOf(w) != c {
			t.Errorf("class %d has the weight %d, whose class is %d; the one before has %d", c, w, classOf(w), last)
		}
		last = c.weight()
	}
	for w, want := range map[int]int{-5: 0, 0: 0, 1: 1, 5: 12, 34: 33, 99: 100, 100: 100, 120: 100, 130: 150, 250: 300, 1000: 1200, 1 << 40: 100 << 20} {
		if got := classOf(w).weight(); got != want {
			t.Errorf("%d is told as %d, want %d", w, got, want)
		}
	}
	for w := 1; w < 100_000; w++ {
		if got := classOf(w).weight(); w >= 25 && (got*3 < w*2 || got*2 > w*3) || classOf(w) < classOf(w-1) {
			t.Fatalf("%d is told as %d", w, got)
		}
	}
}

func TestLogTellsChangesOfClass(t *testing.T) {
	l := newOwnLog("n-1")
	for i, tt := range []struct {
		weight int
		want   bool
	}{{0, false}, {100, true}, {100, false}, {110, false}, {200, true}, {1, true}, {0, true}, {0, false}} {
		if got := l.set("e", tt.weight); got != tt.want {
			t.Errorf("%d: weight %d is news: %v", i, tt.weight, got)
		}
	}
	if h := l.head(); h.seq != 5 || h.count != 0 || h.digest != 0 {
		t.Errorf("head %+v", h)
	}
}

func TestChangedIsClosedByTheNextChange(t *testing.T) {
	l := newOwnLog("n-1")
	ch := l.changed()
	l.set("e", 0)
	select {
	case <-ch:
		t.Error("nothing changed")
	default:
	}
	l.set("e", 100)
	select {
	case <-ch:
	default:
		t.Error("a change was not told")
	}
}

func TestEmptyLogIsReadOnce(t *testing.T) {
	l, c := newOwnLog("n-1"), newRemoteCopy("n-1", memory{})
	catchUp(t, l, c)
	if !c.synced() {
		t.Error("the copy of an empty log is not complete")
	}
	if b, _ := l.next(nil, l.cursorAt(c.position())); len(b) != 0 {
		t.Errorf("there is more to read: %x", b)
	}
}

// TestLargeLog: a snapshot comes in pieces, whatever changes meanwhile.
func TestLargeLog(t *testing.T) {
	l, level := newOwnLog("n-1"), memory{}
	c := newRemoteCopy("n-1", level)
	for i := range 20_000 {
		l.set(fmt.Sprint("endpoint-", i), 100)
	}
	rng := rand.New(rand.NewPCG(1, 2))
	pieces := 0
	for cur := l.cursorAt(c.position()); ; pieces++ {
		var b []byte
		if b, cur = l.next(nil, cur); len(b) == 0 {
			break
		}
		if len(b) > 2*pieceSize {
			t.Fatalf("a piece of %d bytes", len(b))
		}
		if err := feed(c, b); err != nil {
			t.Fatal(err)
		}
		if pieces < 100 {
			l.set(fmt.Sprint("endpoint-", rng.IntN(30_000)), rng.IntN(3)*100)
		}
	}
	if pieces < 10 {
		t.Errorf("%d pieces", pieces)
	}
	if err := feed(c, l.heartbeat(nil)); err != nil || !maps.Equal(level, l.contents()) {
		t.Errorf("the copy differs: %v", err)
	}
}

func TestOverflowLeadsToASnapshot(t *testing.T) {
	l, level := newOwnLog("n-1"), memory{}
	c := newRemoteCopy("n-1", level)
	l.set("first", 100)
	catchUp(t, l, c)
	for i := range ringSize {
		l.set("flapping", 100*(i%2+1))
	}
	l.set("first", 0)
	b, _ := l.next(nil, l.cursorAt(c.position()))
	if f, err := newFrameReader(bytes.NewReader(b)).next(); err != nil || f.kind != frameBegin {
		t.Fatalf("the first frame is %+v, %v; want a snapshot", f, err)
	}
	catchUp(t, l, c)
	if !maps.Equal(level, l.contents()) {
		t.Errorf("the copy is %v, want %v", level, l.contents())
	}
	// As many as the ring holds are told as changes.
	for i := range ringSize {
		l.set("flapping", 100*(i%2+1))
	}
	b, _ = l.next(nil, l.cursorAt(c.position()))
	if f, err := newFrameReader(bytes.NewReader(b)).next(); err != nil || f.kind != frameChanges {
		t.Fatalf("the first frame is of kind %d, %v; want changes", f.kind, err)
	}
	catchUp(t, l, c)
}

func TestSlotsAreGivenBack(t *testing.T) {
	l, level := newOwnLog("n-1"), memory{}
	c := newRemoteCopy("n-1", level)
	for i := range 10_000 {
		l.set(fmt.Sprint("endpoint-", i), 100)
	}
	b, cur := l.next(nil, l.cursorAt(c.position()))
	if err := feed(c, b); err != nil {
		t.Fatal(err)
	}
	for i := range 9_990 {
		l.set(fmt.Sprint("endpoint-", i), 0)
	}
	if len(l.slots) > 5000 {
		t.Errorf("%d slots for 10 endpoints", len(l.slots))
	}
	for b, cur = l.next(nil, cur); len(b) > 0; b, cur = l.next(nil, cur) { // the snapshot begins again
		if err := feed(c, b); err != nil {
			t.Fatal(err)
		}
	}
	if !maps.Equal(level, l.contents()) {
		t.Errorf("the copy is %v, want %v", level, l.contents())
	}
}

// TestAnyHistoryEndsInEqualTables: nodes change, restart and lose streams in the
// middle of a frame; frames come twice; copies go wrong. In the end every copy is
// what the owner has.
func TestAnyHistoryEndsInEqualTables(t *testing.T) {
	for seed := range uint64(200) {
		rng := rand.New(rand.NewPCG(seed, 1))
		h := &history{t: t, rng: rng, level: memory{}}
		h.restart()
		for range 100 {
			h.step()
		}
		if h.cut(nil); !t.Failed() {
			h.read(true)
		}
		if want := h.log.contents(); !maps.Equal(h.level, want) || h.copy.count != uint64(len(want)) || h.copy.digest != h.log.head().digest {
			t.Fatalf("seed %d: the copy is %v, want %v", seed, h.level, want)
		}
	}
}

// history is one owner and one reader of its log.
type history struct {
	t      *testing.T
	rng    *rand.Rand
	starts int
	log    *ownLog
	level  memory
	copy   *remoteCopy
	cur    cursor
	sent   []byte // what the present stream has brought, for repeating it
}

func (h *history) step() {
	switch h.rng.IntN(12) {
	case 0:
		h.restart()
	case 1:
		h.cut(nil)
	case 2: // frames that came before, on the same stream
		if len(h.sent) > 0 && h.copy.synced() {
			if err := feed(h.copy, h.sent); err != nil {
				h.cut(err)
			}
		}
	case 3: // a copy that is wrong is found out
		if h.copy.synced() {
			h.level["ghost"] = 100
			h.copy.digest.replace("ghost", 0, classOf(100))
			h.copy.count++
			h.read(false)
			if err := feed(h.copy, h.log.heartbeat(nil)); h.copy.seq == h.log.seq || err == nil {
				h.t.Error("a copy that is wrong was not found out")
			}
			h.cut(errResync)
		}
	case 4, 5, 6:
		h.read(true)
	default:
		for range h.rng.IntN(200) {
			h.log.set(fmt.Sprint("endpoint-", h.rng.IntN(300)), h.rng.IntN(4)*50)
		}
	}
}

// restart is a new epoch: whoever copies starts with nothing.
func (h *history) restart() {
	h.starts++
	clear(h.level)
	epoch := fmt.Sprint("n-", h.starts)
	h.log, h.copy = newOwnLog(epoch), newRemoteCopy(epoch, h.level)
	h.cut(nil)
}

func (h *history) cut(error) { h.cur, h.sent = h.log.cursorAt(h.copy.position()), nil }

// read reads to the end, unless the stream breaks within a frame.
func (h *history) read(compare bool) {
	for {
		b, next := h.log.next(nil, h.cur)
		if len(b) == 0 {
			break
		}
		if h.rng.IntN(20) == 0 {
			if err := feed(h.copy, b[:h.rng.IntN(len(b))]); err != nil && !errors.Is(err, io.ErrUnexpectedEOF) {
				h.t.Errorf("a part of a stream: %v", err)
			}
			h.cut(nil)
			continue
		}
		h.sent, h.cur = append(h.sent, b...), next
		if err := feed(h.copy, b); err != nil {
			h.t.Errorf("a stream: %v", err)
			h.cut(err)
		}
	}
	if !compare {
		return
	}
	if err := feed(h.copy, h.log.heartbeat(nil)); err != nil {
		h.t.Errorf("a heartbeat: %v", err)
	}
}

func TestCopyRefusesWhatIsNoLog(t *testing.T) {
	entries := func(kind frameKind, seq uint64, e ...entry) []byte {
		f := beginFrame(nil, kind)
		if kind == frameChanges {
			f.number(seq)
		}
		for _, e := range e {
			f.entry(e)
		}
		return f.end()
	}
	snapshot := bytes.Join([][]byte{appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"e", 8}), appendEnd(nil, 5)}, nil)
	for _, tt := range []struct {
		name string
		b    []byte
		want string
	}{
		{"another node's", appendBegin(nil, "n-2", 5, 1), "it is of"},
		{"too many endpoints", appendBegin(nil, "n-1", 5, maxEntries+1), "at most"},
		{"entries before the beginning", entries(frameEntries, 0, entry{"e", 8}), "before its beginning"},
		{"end before the beginning", appendEnd(nil, 5), "without a beginning"},
		{"end of another snapshot", append(appendBegin(nil, "n-1", 5, 0), appendEnd(nil, 6)...), "without a beginning"},
		{"changes before a snapshot", entries(frameChanges, 1, entry{"e", 8}), "no snapshot before"},
		{"a gap", append(snapshot[:len(snapshot):len(snapshot)], entries(frameChanges, 7, entry{"e", 8})...), "2 are missing"},
		{"a wrong digest", append(snapshot[:len(snapshot):len(snapshot)], appendHeartbeat(nil, head{seq: 5, digest: 1, count: 1})...), "differs"},
		{"endpoint in upper case", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"E", 8})...), "no endpoint"},
		{"endpoint with a line break", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"a\nb", 8})...), "no endpoint"},
		{"endpoint with two slashes", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"a/b/c", 8})...), "no endpoint"},
		{"endpoint of an empty tenant", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"/e", 8})...), "no endpoint"},
		{"endpoint of a tenant in upper case", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"T/e", 8})...), "no endpoint"},
		{"endpoint of a tenant that is a step in a path", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"../e", 8})...), "no endpoint"},
		{"class that does not exist", append(appendBegin(nil, "n-1", 5, 1), entries(frameEntries, 0, entry{"e", maxClass + 1})...), "unknown class"},
		{"unknown kind", []byte{1, 99}, "unknown kind"},
		{"length of nothing", []byte{0}, "length of 0"},
		{"length of a lot", []byte{0xff, 0xff, 0xff, 0xff, 0xff, 1}, "length of"},
		{"more than the frame's", []byte{3, byte(frameEnd), 5, 5}, "too many"},
		{"less than the frame's", []byte{1, byte(frameEnd)}, "cut short"},
		{"half a frame", []byte{9, byte(frameEnd)}, "unexpected EOF"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newRemoteCopy("n-1", memory{})
			err := feed(c, tt.b)
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("the error is %v, want %q", err, tt.want)
			}
		})
	}
}

// Endpoints of tenants are endpoints like any other, and each is one of its own.
func TestCopyHasTenants(t *testing.T) {
	tenant, endpoint := strings.Repeat("t", 64), strings.Repeat("e", 253)
	own, level := newOwnLog("n-1"), memory{}
	for i, name := range []string{"e", "t/e", "u/e", tunnel.JoinName(tenant, endpoint)} {
		own.set(name, 100*(i+1))
	}
	c := newRemoteCopy("n-1", level)
	catchUp(t, own, c)
	own.set("t/e", 0)
	catchUp(t, own, c)
	if len(level) != 3 || level["e"] == 0 || level["t/e"] != 0 || level["u/e"] == 0 {
		t.Errorf("the copy has %v", level)
	}
}

func TestHeads(t *testing.T) {
	want := head{"n-1", 5, 1 << 63, 1000, 2000}
	b := appendHead(nil, want)
	if got, err := parseHead(b); err != nil || got != want {
		t.Errorf("got %+v, %v", got, err)
	}
	for n := range b {
		if _, err := parseHead(b[:n]); err == nil {
			t.Errorf("a head of %d of %d bytes was accepted", n, len(b))
		}
	}
}

// FuzzCopy: a stream of anybody is refused or leaves a copy that agrees with
// itself, in bounded memory.
func FuzzCopy(f *testing.F) {
	l := newOwnLog("n-1")
	l.set("one", 100)
	l.set("two", 50)
	b, cur := l.next(nil, cursor{})
	f.Add(b)
	l.set("one", 0)
	l.set("three", 1)
	changes, _ := l.next(nil, cur)
	f.Add(append(b[:len(b):len(b)], changes...))
	f.Add(append(b[:len(b):len(b)], l.heartbeat(nil)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		level := memory{}
		c := newRemoteCopy("n-1", level)
		_ = feed(c, b)
		if !c.synced() {
			return
		}
		var want digest
		for e, w := range level {
			want.replace(e, 0, classOf(w))
		}
		if c.digest != want || c.count != uint64(len(level)) {
			t.Errorf("digest %x, count %d of %v", c.digest, c.count, level)
		}
	})
}
