package proxy

import (
	"maps"
	"net/http"
	"sync"
	"time"

	"piko/relay"
)

// call is the context of a request to upstreams: it ends with the client's, or when an upstream has not answered in
// time. It is a relay.Watcher, which saves a dozen allocations for each request; for everybody else it is a context
// like any other.
type call struct {
	relay.Call

	// Static after construction.
	x     *exchange
	limit time.Duration // for the answer, once the request is out; less than 0 is none
	send  time.Duration // in which something of the request must leave; less than 0 is for ever

	// Owned by the handler's goroutine.
	hold bool      // the entry node waits for a 100 that is not the service's
	due  time.Time // when the client's time for the whole call is over; zero is never. Only set before the first attempt

	// Guarded by mu.
	mu       sync.Mutex
	senders  int // attempts whose request is not out yet
	alarm    *alarm
	sending  *alarm // looks after requests with a body that is to leave; nil is none
	stuck    stuck
	deadline *alarm      // of the whole call; nil is none
	life     *alarm      // of the client's token; nil is none
	cutter   *time.Timer // cuts the client off, after life has rung; nil is none
	answered bool        // the final response has come, or nobody waits for it
}

// begin makes the call follow the client's context. end must be called.
func (c *call) begin(x *exchange, limit, send time.Duration) {
	c.x, c.limit, c.send = x, limit, send
	c.Begin(x.r.Context())
}

// end releases everything; whoever still waits for the context is told.
func (c *call) end() {
	if c.Context == nil {
		return // begin was not called
	}
	c.mu.Lock()
	if c.deadline != nil {
		c.deadline.clear()
	}
	c.clearLife()
	c.clearSending()
	c.mu.Unlock()
	c.End()
	c.answer()
}

// expireAfter gives the whole call, response included, so much time, and those who know of it a grace to say so.
func (c *call) expireAfter(d, grace time.Duration) {
	c.due = time.Now().Add(d)
	c.mu.Lock()
	defer c.mu.Unlock()
	c.deadline = setAlarm(c, d+grace, errDeadline)
}

// cancel ends the call, unless it has ended.
func (c *call) cancel(cause error) {
	if !c.Cancel(cause) || cause != errLapsed && cause != errRevoked {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.life != nil { // the handler is at work
		c.cutter = time.AfterFunc(lapseGrace, c.cut)
	}
}

// timedOut reports whether the upstream did not answer in time.
func (c *call) timedOut() bool {
	cause := c.Cause()
	return cause == errNoResponse || cause == errNotTaken || cause == error(errHeld) || c.expired()
}

// expired reports whether the call took longer than its client allows. Servers of gRPC reset a stream whose time is over,
// which is no other failure than ours to wait.
func (c *call) expired() bool {
	return c.Cause() == errDeadline || !c.due.IsZero() && !time.Now().Before(c.due)
}

// Watch implements relay.Watcher.
func (c *call) Watch(a relay.Aborter) {
	c.mu.Lock()
	c.senders++
	c.clearAlarm() // of the attempt before
	c.watchSending()
	c.mu.Unlock()
	c.Call.Watch(a)
	if t := c.x.trace; t != nil {
		t.opened()
	}
	if c.hold {
		// There is a stream to an upstream, so that the body has somewhere to go. To say so here, before anybody reads the
		// body, keeps net/http from saying it in the sender's goroutine while a 1xx of the service is passed on.
		c.hold = false
		c.x.w.WriteHeader(http.StatusContinue)
	}
}

// rest says that no attempt is under way.
func (c *call) rest() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearAlarm()
}

// WroteRequest starts the time that an upstream has for its answer. It may be called late: the sender of an attempt that
// is over finds that out when the client sends more, and the next attempt may have a long body to send by then.
func (c *call) WroteRequest(error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.senders--
	if c.senders == 0 {
		c.clearSending()
	}
	if c.senders == 0 && c.limit >= 0 && c.alarm == nil && !c.answered {
		c.alarm = setAlarm(c, c.limit, errNoResponse)
	}
}

// answer says that the answer has come, or that nobody waits for it.
func (c *call) answer() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.answered = true
	c.clearAlarm()
}

// clearAlarm wants mu.
func (c *call) clearAlarm() {
	if c.alarm != nil {
		c.alarm.clear()
		c.alarm = nil
	}
}

// Informational passes a 1xx response on, 100 only to a client that waits for it.
func (c *call) Informational(status int, header http.Header) error {
	r := c.x.r
	if !r.ProtoAtLeast(1, 1) || status == http.StatusContinue && (r.Header["Expect"] == nil || r.Header[headerExpect] != nil && c.x.peer != nil) {
		return nil
	}
	c.mu.Lock()
	answered := c.answered
	c.mu.Unlock()
	if answered {
		return nil
	}
	// Without mu: a client that reads nothing must not hold up who ends the call.
	h := c.x.w.Header()
	final := maps.Clone(h)
	clear(h)
	maps.Copy(h, relay.OutHeader(header, internal))
	c.x.w.WriteHeader(status)
	clear(h)
	maps.Copy(h, final)
	return nil
}

// alarm ends a call that waits for too long. Alarms are used again, since each request sets one and hardly any goes off.
type alarm struct {
	timer *time.Timer

	// Guarded by mu.
	mu    sync.Mutex
	c     *call
	cause error
}

var alarms sync.Pool

func setAlarm(c *call, d time.Duration, cause error) *alarm {
	if a, ok := alarms.Get().(*alarm); ok {
		a.mu.Lock()
		a.c, a.cause = c, cause
		a.mu.Unlock()
		a.timer.Reset(d)
		return a
	}
	a := &alarm{c: c, cause: cause}
	a.mu.Lock() // it may ring, and be set again, at once
	defer a.mu.Unlock()
	a.timer = time.AfterFunc(d, a.ring)
	return a
}

func (a *alarm) ring() {
	a.mu.Lock()
	c, cause := a.c, a.cause
	a.mu.Unlock()
	switch {
	case c == nil:
	case cause == errNotTaken:
		if cause := c.look(); cause != nil {
			c.cancel(cause)
		} else {
			a.again(c, c.nextLook())
		}
	case cause == errLapsed:
		if next, cause := c.x.judgeLife(); cause != nil {
			c.cancel(cause)
		} else {
			a.again(c, next)
		}
	default:
		c.cancel(cause)
	}
}

// clear turns the alarm off. One that is ringing already may not be used again.
func (a *alarm) clear() {
	stopped := a.timer.Stop()
	a.mu.Lock()
	a.c = nil
	a.mu.Unlock()
	if stopped {
		alarms.Put(a)
	}
}
