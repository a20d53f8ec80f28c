package proxy

import (
	"errors"
	"time"

	"piko/fault"
)

// A service, or an agent, may take a stream and never read it. What waits for it is bounded by windows, but not for how
// long. So a request of which nothing leaves for a while ends: while the client itself is what everybody waits for, no
// time is taken, however long that is.

// errNotTaken is the cause with which a request ends of which nobody takes anything.
var errNotTaken = errors.New("nothing of the request was taken in time")

const (
	// lookEvery is how often it is looked at whether a request moves, unless the limit is short; looks is how often within
	// that at least.
	lookEvery = 2 * time.Second
	looks     = 8
	// uploadWindow is what net/http may hold of an upload over HTTP/2: the window that the node gives.
	uploadWindow = 512 << 10
)

// errHeld is the cause with which an upload over HTTP/2 ends that does not move, and of which the node would have to hold
// more than it may.
var errHeld = fault.New(fault.Overloaded, errors.New("too much is held of uploads that nobody takes"))

// stuck is what was seen of a request that is to leave.
type stuck struct {
	turns uint64    // of its body
	since time.Time // when it was seen first that it does not move; zero while it does
	held  int       // bytes that were reserved for it
}

// watchSending begins with an attempt. It wants mu.
func (c *call) watchSending() {
	c.moved(c.stuck.turns)
	switch {
	case c.x.body == nil && c.limit >= 0:
		// A head leaves at once, or never: one alarm for that and the answer saves what a second would cost.
		if !c.answered {
			c.alarm = setAlarm(c, c.limit, errNoResponse)
		}
	case c.sending == nil && (c.send >= 0 || c.holds()):
		c.sending = setAlarm(c, c.nextLook(), errNotTaken)
	}
}

func (c *call) nextLook() time.Duration {
	if c.send < 0 {
		return lookEvery
	}
	return min(lookEvery, c.send/looks)
}

// holds reports whether net/http holds a part of the body.
func (c *call) holds() bool {
	return c.x.r.ProtoMajor >= 2 && c.x.body != nil && c.x.f.opt.Held != nil
}

// moved takes note that a request moves. It wants mu.
func (c *call) moved(turns uint64) {
	if c.stuck.held > 0 {
		c.x.f.opt.Held.Release(c.stuck.held)
	}
	c.stuck = stuck{turns: turns}
}

// look says why not to wait any longer for a request that is to leave; nil is to wait.
func (c *call) look() error {
	turns, waiting := c.x.body.Turns()
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	switch {
	case waiting, turns != c.stuck.turns, c.senders == 0:
		c.moved(turns)
	case c.stuck.since.IsZero():
		c.stuck.since = now
		return c.reserve()
	case c.send >= 0 && now.Sub(c.stuck.since) >= c.send:
		return errNotTaken
	}
	return nil
}

// reserve reserves what net/http may hold of the body from now on. It wants mu.
func (c *call) reserve() error {
	if !c.holds() || c.x.body.Done() {
		return nil
	}
	n := uploadWindow
	if left := c.x.r.ContentLength - c.x.body.Bytes(); c.x.r.ContentLength > 0 {
		n = int(min(int64(n), left))
	}
	if !c.x.f.opt.Held.Reserve(n) {
		return errHeld
	}
	c.stuck.held = n
	return nil
}

// clearSending wants mu.
func (c *call) clearSending() {
	if c.sending != nil {
		c.sending.clear()
		c.sending = nil
		c.moved(0)
	}
}

// again sets an alarm that has rung once more, unless it was turned off meanwhile.
func (a *alarm) again(c *call, d time.Duration) {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.c == c {
		a.timer.Reset(d)
	}
}
