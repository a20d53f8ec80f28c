package proxy

import (
	"errors"
	"time"
)

// A service, or an agent, may take a stream and never read it. What waits for it is bounded by windows, but not for how
// long. So a request of which nothing leaves for a while ends: while the client itself is what everybody waits for, no
// time is taken, however long that is.

// errNotTaken is the cause with which a request ends of which nobody takes anything.
var errNotTaken = errors.New("nothing of the request was taken in time")

// looks is how often within the limit it is looked at whether a request moves.
const looks = 8

// stuck is what was seen of a request that is to leave.
type stuck struct {
	turns uint64 // of its body
	still int    // how often in a row it had not moved
}

// watchSending begins with an attempt. It wants mu.
func (c *call) watchSending() {
	c.stuck.still = 0
	switch {
	case c.x.body == nil && c.limit >= 0:
		// A head leaves at once, or never: one alarm for that and the answer saves what a second would cost.
		if !c.answered {
			c.alarm = setAlarm(c, c.limit, errNoResponse)
		}
	case c.send >= 0 && c.sending == nil:
		c.sending = setAlarm(c, c.send/looks, errNotTaken)
	}
}

// moves reports whether to wait further for a request that is to leave.
func (c *call) moves() bool {
	turns, waiting := c.x.body.Turns()
	c.mu.Lock()
	defer c.mu.Unlock()
	if waiting || turns != c.stuck.turns || c.senders == 0 {
		c.stuck = stuck{turns: turns}
		return true
	}
	c.stuck.still++
	return c.stuck.still < looks
}

// clearSending wants mu.
func (c *call) clearSending() {
	if c.sending != nil {
		c.sending.clear()
		c.sending = nil
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
