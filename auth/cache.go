package auth

import (
	"hash/maphash"
	"sync"
	"sync/atomic"
	"time"
)

// A cache keeps what verified tokens grant. It is a table of a few entries for
// each hash, which grows as they are needed up to maxSets: it is bounded, finds
// an entry without a lock and without garbage, and drops one for another when
// all of a hash are in use.
//
// A token is found by a hash with a seed of this process, and then compared
// whole. That the comparison ends at the first difference tells nobody
// anything: to come that far, a guess must have the hash of a token, which
// nobody can compute without both seed and token.
//
// The zero value is ready.
type cache struct {
	table atomic.Pointer[[]cacheSet]

	mu sync.Mutex // held while an entry is added
}

const (
	setSize = 4
	minSets = 64
	maxSets = 2560 // 10,240 tokens
)

type cacheSet [setSize]atomic.Pointer[cached]

// cached is a verified token.
type cached struct {
	hash  uint64
	token string
	grant *Grant
}

var seed = maphash.MakeSeed()

func hashOf(token string) uint64 { return maphash.String(seed, token) }

// get returns what the token grants, or nil.
func (c *cache) get(hash uint64, token string) *Grant {
	table := c.table.Load()
	if table == nil {
		return nil
	}
	set := setOf(*table, hash)
	for i := range set {
		if e := set[i].Load(); e != nil && e.hash == hash && e.token == token {
			return e.grant
		}
	}
	return nil
}

// put adds a token that was verified at now.
func (c *cache) put(hash uint64, token string, g *Grant, now time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	table := c.table.Load()
	if table == nil {
		table = c.grow(nil, minSets, now)
	}
	e := &cached{hash: hash, token: token, grant: g}
	for !add(*table, e, now) {
		if len(*table) == maxSets {
			setOf(*table, hash)[hash>>32%setSize].Store(e)
			return
		}
		table = c.grow(*table, min(len(*table)*4, maxSets), now)
	}
}

// grow replaces the table by one of n sets. Readers may use the old one for a
// moment longer. mu is held.
func (c *cache) grow(old []cacheSet, n int, now time.Time) *[]cacheSet {
	table := make([]cacheSet, n)
	for i := range old {
		for j := range old[i] {
			if e := old[i][j].Load(); e != nil {
				add(table, e, now)
			}
		}
	}
	c.table.Store(&table)
	return &table
}

// add puts e where its own predecessor, nothing or an expired token is.
func add(table []cacheSet, e *cached, now time.Time) bool {
	set := setOf(table, e.hash)
	free := -1
	for i := range set {
		switch was := set[i].Load(); {
		case was != nil && was.hash == e.hash && was.token == e.token:
			set[i].Store(e)
			return true
		case was == nil || !was.grant.validAt(now):
			free = i
		}
	}
	if free >= 0 {
		set[free].Store(e)
	}
	return free >= 0
}

func setOf(table []cacheSet, hash uint64) *cacheSet { return &table[hash%uint64(len(table))] }
