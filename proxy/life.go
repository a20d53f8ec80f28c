package proxy

import (
	"context"
	"fmt"
	"net/http"
	"sync"
	"time"

	"piko/fault"
	"piko/relay"
)

// What goes on for long ends when the token does with which it began, or when that is accepted no more: a response that
// has not come gets 401, one that is under way breaks off, gRPC gets UNAUTHENTICATED, a WebSocket is told so between two
// frames, and any other connection is reset.

// errLapsed and errRevoked are the causes with which that happens.
var (
	errLapsed  = fmt.Errorf("%w while it was in use: %w", fault.ExpiredToken, relay.ErrGoingAway)
	errRevoked = fmt.Errorf("%w: it was taken back while it was in use: %w", fault.InvalidToken, relay.ErrGoingAway)
)

// lifeCheck is how often it is looked at whether a token is accepted still, by which something goes on.
const lifeCheck = 2 * time.Second

// lapseGrace is for how long a client may still read how its response broke off; some read nothing.
const lapseGrace = time.Second

// live ends the call with the client's token.
func (c *call) live() {
	next, cause := c.x.life()
	if cause == nil && next == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.life = setAlarm(c, next, errLapsed)
}

// life says why what goes on by the client's token is to end, or else when to look again; 0 is never.
func (x *exchange) life() (next time.Duration, cause error) {
	grant := x.bearer.Grant
	if grant == nil {
		return 0, nil
	}
	next = lifeCheck
	if expiry := grant.Expiry(); !expiry.IsZero() {
		left := time.Until(expiry)
		if left <= 0 {
			return 0, errLapsed
		}
		next = min(next, left)
	}
	return next, nil
}

// judgeLife is life when something has gone on for a while.
func (x *exchange) judgeLife() (next time.Duration, cause error) {
	if next, cause = x.life(); cause == nil && !x.f.opt.Auth.Holds(x.bearer.Tenant, x.bearer.Grant) {
		cause = errRevoked
	}
	return next, cause
}

// outlive takes live back: something else sees to it from now on.
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

// lapsed is why, if the client's token has expired or was taken back meanwhile; else nil.
func (c *call) lapsed() error {
	if cause := c.Cause(); cause == errLapsed || cause == errRevoked {
		return cause
	}
	return nil
}

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
	ctx := x.r.Context()
	next, cause := x.life()
	if next == 0 && cause == nil {
		return ctx, func() {}
	}
	m := &mortal{x: x}
	ctx, m.end = context.WithCancelCause(ctx)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.timer = time.AfterFunc(next, m.look)
	return ctx, m.stop
}

// mortal ends a context with a token.
type mortal struct {
	x   *exchange
	end context.CancelCauseFunc

	// Guarded by mu.
	mu    sync.Mutex
	timer *time.Timer
	over  bool
}

func (m *mortal) look() {
	next, cause := m.x.judgeLife()
	if cause != nil {
		m.end(cause)
		return
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.over {
		m.timer.Reset(next)
	}
}

func (m *mortal) stop() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.over = true
	m.timer.Stop()
	m.end(context.Canceled)
}
