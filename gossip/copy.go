package gossip

import (
	"errors"
	"fmt"
)

// level is where a copy of a node's log is kept: the router's table.
type level interface {
	// set replaces everything, patch some; a weight of 0 is gone.
	set(endpoints map[string]int)
	patch(endpoints map[string]int)
	weight(endpoint string) int
}

var (
	// errResync: the copy is not what the node has, and is to be read anew.
	errResync = errors.New("copy differs from the node's log")
	// errViolation: what the node sent is no log. It would be none again at once.
	errViolation = errors.New("not the log of a node")
)

func violation(format string, args ...any) error {
	return fmt.Errorf("%w: %w", errViolation, fmt.Errorf(format, args...))
}

// maxEntries bounds what one node may serve.
const maxEntries = 2_000_000

// remoteCopy is what is known of one node's log. The endpoints are in the level
// alone. It belongs to one goroutine.
type remoteCopy struct {
	// Static after construction.
	epoch string
	level level

	seq    uint64 // up to which all changes are in; 0: nothing is
	digest digest // of the level
	count  uint64

	// A snapshot that is coming.
	aside       map[string]int // nil: none is
	asideDigest digest
	began       uint64
	announced   uint64 // how many entries, about
}

func newRemoteCopy(epoch string, l level) *remoteCopy { return &remoteCopy{epoch: epoch, level: l} }

// position is where a subscription has to begin.
func (c *remoteCopy) position() (epoch string, seq uint64) { return c.epoch, c.seq }

// synced reports whether a snapshot has been applied.
func (c *remoteCopy) synced() bool { return c.seq > 0 }

// apply takes the next frame of a stream. After an error the stream is to be
// closed; position says where the next one begins. Frames may come again, but
// none may be missing.
func (c *remoteCopy) apply(f frame) error {
	switch f.kind {
	case frameBegin:
		return c.begin(f)
	case frameEntries:
		return c.collect(f)
	case frameEnd:
		return c.complete(f)
	case frameChanges:
		return c.change(f)
	case frameHeartbeat:
		return c.compare(f)
	}
	return violation("apply frame: unknown kind %d", f.kind)
}

// reset has the next stream begin with a snapshot.
func (c *remoteCopy) reset(err error) error {
	c.seq, c.aside = 0, nil
	return err
}

func (c *remoteCopy) begin(f frame) error {
	if f.epoch != c.epoch {
		return c.reset(violation("apply snapshot: it is of %.80q, want %q", f.epoch, c.epoch))
	}
	if f.count > maxEntries {
		return c.reset(tooMany(f.count))
	}
	c.aside, c.asideDigest, c.began, c.announced = make(map[string]int), 0, f.seq, f.count
	return nil
}

func tooMany(n uint64) error {
	return violation("apply snapshot: %d endpoints, want at most %d", n, maxEntries)
}

func (c *remoteCopy) collect(f frame) error {
	if c.aside == nil {
		return c.reset(violation("apply snapshot: entries before its beginning"))
	}
	for _, e := range f.entries {
		old := c.aside[e.endpoint]
		c.asideDigest.replace(e.endpoint, old, e.class)
		if e.class == 0 {
			delete(c.aside, e.endpoint)
			continue
		}
		c.aside[e.endpoint] = e.class.weight()
	}
	// Entries may have come since the beginning, but hardly more than the log is long.
	if n := uint64(len(c.aside)); n > min(c.announced+ringSize, maxEntries) {
		return c.reset(tooMany(n))
	}
	return nil
}

// complete makes the snapshot the level.
func (c *remoteCopy) complete(f frame) error {
	if c.aside == nil || f.seq != c.began || f.seq == 0 {
		return c.reset(violation("apply snapshot: end without a beginning"))
	}
	c.level.set(c.aside)
	c.seq, c.digest, c.count = f.seq, c.asideDigest, uint64(len(c.aside))
	c.aside = nil
	return nil
}

// change applies what is new of some changes.
func (c *remoteCopy) change(f frame) error {
	if c.aside != nil || c.seq == 0 {
		return c.reset(violation("apply changes: no snapshot before them"))
	}
	if f.seq > c.seq {
		return c.reset(fmt.Errorf("apply changes: %d are missing: %w", f.seq-c.seq, errResync))
	}
	known := c.seq - f.seq
	if known >= uint64(len(f.entries)) {
		return nil // all of it has come before
	}
	news := make(map[string]int, len(f.entries)-int(known))
	for _, e := range f.entries[known:] {
		old, again := news[e.endpoint]
		if !again {
			old = c.level.weight(e.endpoint)
		}
		c.digest.replace(e.endpoint, old, e.class)
		c.count += present(e.class.weight()) - present(old)
		news[e.endpoint] = e.class.weight()
	}
	if c.count > maxEntries {
		return c.reset(tooMany(c.count))
	}
	c.level.patch(news)
	c.seq = f.seq + uint64(len(f.entries))
	return nil
}

func present(weight int) uint64 {
	if weight > 0 {
		return 1
	}
	return 0
}

// compare finds out whether the copy is right, if it is up to date.
func (c *remoteCopy) compare(f frame) error {
	if c.aside != nil || f.seq != c.seq || f.digest == c.digest && f.count == c.count {
		return nil
	}
	return c.reset(errResync)
}
