package auth

import (
	"context"
	"crypto/sha256"
	"log/slog"
	"math/rand/v2"
	"net/url"
	"sync"
	"sync/atomic"
	"time"

	"piko/fault"
)

const (
	fetchTimeout = 10 * time.Second

	minRefresh, maxRefresh, anyRefresh = 5 * time.Minute, time.Hour, time.Hour // what max-age may ask for; without one
	minTTL                             = 10 * time.Second                      // what the configuration may ask for

	// refreshGap is between two fetches that tokens with unknown keys cause.
	refreshGap = 30 * time.Second
	// filePoll is how often a file is looked at; tokens cause that no more often.
	filePoll = 2 * time.Second

	firstRetry, lastRetry = time.Second, 30 * time.Second // after fetches that failed

	refreshWait = 5 * time.Second // for how long a token waits for a fetch
	maxWaiting  = 256             // tokens that do so
	maxAsked    = 1024            // names of keys that were asked for and not there
)

// source is a key set that comes from elsewhere. Its run fetches it, again and
// again; the last good set is used for as long as no other can be had.
type source struct {
	// Static after construction.
	load  func(ctx context.Context, was *loaded) (*loaded, error)
	where string // for the log
	gap   time.Duration
	cfg   JWKS
	log   *slog.Logger
	wake  chan struct{} // asks run for a fetch; holds one

	set      atomic.Pointer[keySet] // nil: none yet
	loads    atomic.Uint64          // sets that were stored
	failures atomic.Uint64          // of all fetches
	success  atomic.Int64           // Unix time in ns of the last good one

	// Guarded by mu.
	mu      sync.Mutex
	last    *loaded
	began   time.Time            // when the last fetch that has ended began
	tried   time.Time            // when it ended
	err     error                // of that fetch
	retry   time.Duration        // until the next, after a failure
	pending *fetch               // that somebody waits for
	waiting int                  // how many do
	asked   map[string]time.Time // when a key that was not there was asked for first
}

// loaded is what a fetch brought.
type loaded struct {
	keys    []key
	skipped int
	sum     [sha256.Size]byte
	refresh time.Duration // until the next fetch
	state   any           // of load
}

// fetch is one that tokens wait for.
type fetch struct{ done chan struct{} }

func newSource(cfg Config, u *url.URL, log *slog.Logger) (*source, error) {
	s := &source{cfg: cfg.JWKS, where: shown(u), gap: refreshGap, log: log, wake: make(chan struct{}, 1), asked: map[string]time.Time{}}
	if u.Scheme != "file" {
		s.load = newFetcher(cfg.JWKS, u).load
		if u.Scheme == "http" && !isLoopback(u.Hostname()) {
			log.Warn("the key set is fetched without TLS: who is on the way can let anybody in; use https", "option", cfg.Option("jwks.endpoint"), "url", s.where)
		}
		return s, nil
	}
	s.gap = filePoll
	s.load = keyFile(filePath(u)).load
	if err := s.fetch(context.Background()); err != nil {
		return nil, cfg.wrap("jwks.endpoint", err)
	}
	return s, nil
}

// shown is a URL without what may be a secret.
func shown(u *url.URL) string {
	v := *u
	v.User, v.RawQuery, v.Fragment = nil, "", ""
	return v.String()
}

// adopt takes over what another source of the same set has. It is called before
// run.
func (s *source) adopt(old *source) {
	old.mu.Lock()
	defer old.mu.Unlock()
	s.load = old.load
	s.failures.Store(old.failures.Load())
	if old.last == nil || s.last != nil {
		return
	}
	s.last, s.began, s.tried, s.err = old.last, old.began, old.tried, old.err
	s.success.Store(old.success.Load())
	s.set.Store(newKeySet(s.last.keys, true))
}

// run fetches the set when it is time to, and when a token asks for it.
func (s *source) run(ctx context.Context) {
	timer := time.NewTimer(s.untilNext())
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		case <-s.wake:
		}
		_ = s.fetch(ctx) // logged there
		timer.Reset(s.untilNext())
	}
}

// untilNext is how long the set is good, or a failure lasts.
func (s *source) untilNext() time.Duration {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.tried.IsZero():
		return 0
	case s.err != nil:
		return time.Until(s.tried.Add(s.retry))
	}
	after := s.last.refresh
	return time.Until(s.tried.Add(after - time.Duration(rand.Int64N(int64(after)/10+1))))
}

// fetch gets the set once and replaces the old one, whole: a key that is gone
// is revoked. After a failure the old one stays.
func (s *source) fetch(ctx context.Context) error {
	s.mu.Lock()
	was, began := s.last, time.Now()
	if s.pending == nil {
		s.pending = &fetch{make(chan struct{})}
	}
	s.mu.Unlock()
	next, err := s.load(ctx, was)
	if err != nil && ctx.Err() != nil {
		return err // we are ending, which says nothing about the set
	}

	s.mu.Lock()
	defer s.mu.Unlock()
	before := s.err
	s.began, s.tried, s.err = began, time.Now(), err
	close(s.pending.done)
	s.pending = nil
	if err != nil {
		s.failures.Add(1)
		s.retry = min(max(s.retry*2, firstRetry), lastRetry)
		s.logFailure(before)
		return err
	}
	s.retry = 0
	s.success.Store(s.tried.UnixNano())
	s.last = next
	if was == nil || was.sum != next.sum {
		s.set.Store(newKeySet(next.keys, true))
		s.loads.Add(1)
		s.log.Info("key set loaded", "url", s.where, "keys", len(next.keys), "skipped", next.skipped)
	} else if before != nil {
		s.log.Info("key set loaded again, it has not changed", "url", s.where)
	}
	return nil
}

// logFailure logs the first failure and those with another reason. mu is held.
func (s *source) logFailure(before error) {
	if before != nil && before.Error() == s.err.Error() {
		return
	}
	if s.last == nil {
		s.log.Error("key set not loaded: until it is, tokens are answered with 503", "url", s.where, "error", s.err)
		return
	}
	s.log.Warn("key set not loaded again, the old one stays", "url", s.where, "error", s.err, "age", time.Since(time.Unix(0, s.success.Load())).Round(time.Second))
}

// keysFor is the set for a token. If the token names a key that is not in it,
// a new set is fetched, but not more often than the gap allows; then it waits
// for that, until done. A token is refused for good only if a set was fetched
// after it was first seen: agents do not come back after a 401, and the key may
// be new.
func (s *source) keysFor(done <-chan struct{}, h header) (*keySet, error) {
	if ks := s.set.Load(); ks != nil && (!h.hasKid || ks.hasKid(h.kid)) {
		return ks, nil
	}
	f, err := s.ask(h.kid)
	if err != nil {
		return nil, err
	}
	timer := time.NewTimer(refreshWait)
	defer timer.Stop()
	select {
	case <-f.done:
	case <-timer.C:
	case <-done:
	}
	return s.after(h.kid)
}

// ask has run fetch the set because of a key's name.
func (s *source) ask(kid string) (*fetch, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	wait := s.gap - now.Sub(s.tried)
	switch {
	case s.last == nil:
		return nil, because(fault.AuthUnavailable, reasonNoKeySet)
	case wait > 0 && s.isMissing(kid):
		return nil, refuse(reasonUnknownKey)
	}
	if _, ok := s.asked[kid]; !ok {
		if len(s.asked) >= maxAsked {
			for name := range s.asked {
				delete(s.asked, name)
				break
			}
		}
		s.asked[kid] = now
	}
	switch {
	case s.waiting >= maxWaiting:
		return nil, because(fault.AuthUnavailable, reasonUnknownKey)
	case s.pending == nil && wait > 0:
		e := because(fault.AuthUnavailable, reasonUnknownKey)
		e.RetryAfter = wait
		return nil, e
	case s.pending == nil:
		s.pending = &fetch{make(chan struct{})}
		select {
		case s.wake <- struct{}{}:
		default: // asked already
		}
	}
	s.waiting++
	return s.pending, nil
}

// isMissing reports whether the set was fetched since the key was asked for
// first, and has it not. mu is held.
func (s *source) isMissing(kid string) bool {
	first, ok := s.asked[kid]
	return ok && s.err == nil && !s.began.Before(first)
}

// after is the set after a fetch that was asked for because of kid.
func (s *source) after(kid string) (*keySet, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.waiting--
	if ks := s.set.Load(); ks.hasKid(kid) {
		return ks, nil
	}
	if s.isMissing(kid) {
		return nil, refuse(reasonUnknownKey)
	}
	return nil, because(fault.AuthUnavailable, reasonUnknownKey)
}
