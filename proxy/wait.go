package proxy

import (
	"context"
	"errors"
	"time"

	"piko/fault"
	"piko/router"
)

// When every node that had an upstream has none any more, or cannot be reached, most likely an upstream is on its way
// from one node to another, and word of that on its way here. A request that may be tried again may wait for it.
const (
	// waitTime is how long one request waits, all in all.
	waitTime = time.Second
	// waitPoll is how often the table is asked meanwhile: a lookup costs less than telling waiters of each change.
	waitPoll = 15 * time.Millisecond
	// maxWaiters bounds the requests that wait at a node. Beyond it they fail at once.
	maxWaiters = 1024
)

// await returns a candidate that came up when none was left, or why there is none; last is the error of the last
// attempt, if there was any.
func (x *exchange) await(last error) (router.Target, error) {
	if !x.mayWait(last) {
		return router.Target{}, x.nobody(last)
	}
	f := x.f
	if f.waiters.Add(1) > maxWaiters {
		f.waiters.Add(-1)
		f.metrics.waits[waitRefused].Inc()
		return router.Target{}, x.nobody(last)
	}
	defer f.waiters.Add(-1)
	x.call.rest()
	target, err := x.wait()
	switch {
	case err != nil:
		f.metrics.waits[waitLeft].Inc()
	case target.OK():
		f.metrics.waits[waitFound].Inc()
	default:
		f.metrics.waits[waitInVain].Inc()
		err = x.nobody(last)
	}
	return target, err
}

// mayWait: an endpoint that is in the table was served a moment ago; one that is not may never have been.
func (x *exchange) mayWait(last error) bool {
	a := &x.attempt
	switch {
	case x.peer != nil, a.overloaded, isWrongProtocol(last), !x.body.Whole():
		return false
	case last == nil:
		return x.f.opt.Lookup(x.endpoint) != nil
	}
	if _, broken := errors.AsType[*hopError](last); broken {
		return false // it is the service that fails, wherever its upstream is
	}
	return a.hopped || a.draining
}

// wait asks the table until it has a candidate, the time is over, or the client is gone.
func (x *exchange) wait() (router.Target, error) {
	if x.attempt.until.IsZero() {
		x.attempt.until = time.Now().Add(waitTime)
	}
	tick := time.NewTicker(waitPoll)
	defer tick.Stop()
	ctx := x.r.Context()
	for first := true; ; first = false {
		if !first && x.attempt.regained() {
			x.tried.Remove(x.attempt.lost)
			x.attempt.lost = router.Target{}
		}
		target := x.pick()
		if target.OK() || !time.Now().Before(x.attempt.until) {
			return target, nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return router.Target{}, context.Cause(ctx)
		}
	}
}

// nobody is the error for a request for which no candidate is left.
func (x *exchange) nobody(last error) error {
	a := &x.attempt
	switch {
	case last == nil:
		return fault.New(fault.NoUpstream, nil)
	case a.uncertain || !a.hopped && !a.draining, isWrongProtocol(last):
		return last
	case a.overloaded:
		return fault.New(fault.Overloaded, last)
	}
	return fault.New(fault.NoUpstream, last)
}
