package client

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"piko/fault"
)

// Pauses between attempts to connect: full jitter below a ceiling that doubles
// from firstPause to shortPause in the first minute of an outage, and is
// longPause from then on. With it 10,000 upstreams of a server that was away
// for 5 s are back within 2 s.
const (
	firstPause = 100 * time.Millisecond
	shortPause = 2 * time.Second
	longPause  = 10 * time.Second
	shortFor   = time.Minute

	// healthyAfter is how long a tunnel has to live for its loss to be the
	// beginning of an outage and not the next failure of the last one.
	healthyAfter = 30 * time.Second

	// calmAfter is how long a tunnel has to live for its loss to be met with
	// short pauses again: as long as the long pauses are on average, so that it
	// makes no more attempts than they would.
	calmAfter = longPause / 2

	// maxRetryAfter bounds what we let a server, or whoever answers for it,
	// tell us.
	maxRetryAfter = time.Minute
)

// pause is how long to wait before an attempt: the first of an outage is
// attempt 0. elapsed is how long the outage has lasted, jitter is in [0, 1),
// and retryAfter what the server asked for, which comes on top.
func pause(attempt int, elapsed, retryAfter time.Duration, jitter float64) time.Duration {
	return min(retryAfter, maxRetryAfter) + time.Duration(jitter*float64(ceiling(attempt, elapsed)))
}

// ceiling is what pauses are below.
func ceiling(attempt int, elapsed time.Duration) time.Duration {
	if elapsed >= shortFor {
		return longPause
	}
	const doublings = 5 // 100 ms * 2^5 is above the ceiling
	return min(firstPause<<min(attempt, doublings), shortPause)
}

// outage counts the attempts since the last time that all was well. The zero
// value is the beginning of one.
type outage struct {
	since    time.Time
	attempts int
}

// next is how long to wait before the next attempt, after err.
func (o *outage) next(now time.Time, err error) time.Duration {
	if o.attempts == 0 {
		o.since = now
	}
	p := pause(o.attempts, now.Sub(o.since), retryAfter(err), rand.Float64())
	o.attempts++
	return p
}

// spread is how long to wait with another attempt after one that succeeded: the
// worse the outage was, the more others are back.
func (o *outage) spread() time.Duration {
	return jitter(ceiling(o.attempts, 0))
}

// soothe forgets most of the failures.
func (o *outage) soothe(now time.Time) {
	o.since, o.attempts = now, min(o.attempts, 2)
}

// jitter is anything below d.
func jitter(d time.Duration) time.Duration { return time.Duration(rand.Float64() * float64(d)) }

// search counts the attempts that led to nodes where we were already. The zero
// value is the beginning.
type search struct{ attempts int }

// next is how long to wait before the next attempt: several tries in the first
// second, since a load balancer that goes by turns needs no more, and in the
// end one in 5 s, as one that always leads to the same node never will.
func (s *search) next() time.Duration {
	p := searchPause(s.attempts, rand.Float64())
	s.attempts++
	return p
}

// searchDoublings is after how many attempts a search is in no hurry any more:
// 100 ms * 2^7 is above longPause.
const searchDoublings = 7

func searchPause(attempt int, jitter float64) time.Duration {
	return time.Duration(jitter * float64(min(firstPause<<min(attempt, searchDoublings), longPause)))
}

// retryAfter is what the server asked for, as far as we let it.
func retryAfter(err error) time.Duration {
	if refused, ok := errors.AsType[*fault.Refused](err); ok {
		return min(refused.RetryAfter, maxRetryAfter)
	}
	return 0
}

// final says whether a first attempt that failed with err is the last. A
// refusal is final if it is that of a piko server, which knows; anything else
// may be a load balancer that does not know yet.
func final(err error, tokenMayChange bool) bool {
	refused, ok := errors.AsType[*fault.Refused](err)
	if !ok {
		return false
	}
	switch refused.Status {
	case http.StatusBadRequest:
		return true
	case http.StatusUnauthorized, http.StatusForbidden:
		return refused.Code != "" && !tokenMayChange
	}
	return false
}
