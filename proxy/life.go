package proxy

import (
	"context"
	"fmt"
	"net/http"
	"time"

	"piko/fault"
	"piko/relay"
)

// What goes on for long ends when the token does with which it began: a response that has not come gets 401, one that is
// under way breaks off, gRPC gets UNAUTHENTICATED, a WebSocket is told so between two frames, and any other connection is
// reset.

// errLapsed is the cause with which that happens.
var errLapsed = fmt.Errorf("%w while it was in use: %w", fault.ExpiredToken, relay.ErrGoingAway)

// lapseGrace is for how long a client may still read how its response broke off; some read nothing.
const lapseGrace = time.Second

// lapseAt ends the call at a time.
func (c *call) lapseAt(t time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = setAlarm(c, time.Until(t), errLapsed)
}

// outlive takes lapseAt back: something else sees to it from now on.
func (c *call) outlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.clearLife()
}

// clearLife wants mu.
func (c *call) clearLife() {
	if c.life != nil {
		c.life.clear()
		c.life = nil
	}
	if c.cutter != nil {
		c.cutter.Stop()
		c.cutter = nil
	}
}

// lapsed reports whether the client's token has expired meanwhile.
func (c *call) lapsed() bool { return c.Cause() == errLapsed }

// cut is for a client who reads nothing of what is left for it. It is called with the handler at work or not at all,
// since the connection may have its next request afterwards.
func (c *call) cut() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cutter != nil {
		_ = http.NewResponseController(c.x.w).SetWriteDeadline(longAgo)
	}
}

// mortal is the context of a connection that goes on for as long as both sides like: it ends with the client's token.
func (x *exchange) mortal() (context.Context, context.CancelFunc) {
	ctx, expiry := x.r.Context(), x.bearer.Grant.Expiry()
	if expiry.IsZero() {
		return ctx, func() {}
	}
	return context.WithDeadlineCause(ctx, expiry, errLapsed)
}
