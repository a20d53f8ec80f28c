package agent

import (
	"context"
	"maps"
	"net"
	"net/http"
	"sync"
	"time"

	"piko/fault"
	"piko/relay"
)

// call is the context of a request to the service: it ends with the client's,
// when the time of a call of gRPC is over, and with the stream that brought the
// request: net/http notices the end of that only while somebody reads the body
// or after it was read, and a service may keep a body waiting. It is a
// relay.Watcher, which saves a dozen allocations for each request; for everybody
// else it is a context like any other.
type call struct {
	context.Context // the client's

	// Static after begin.
	x        *exchange
	unhook   func() bool
	unstream func()      // nil: the stream is not watched
	timer    *time.Timer // nil: there is no time-out

	// Guarded by mu.
	mu      sync.Mutex
	cause   error // why it has ended
	done    chan struct{}
	aborter relay.Aborter
}

// begin makes the call follow whatever ends it. end must be called.
func (c *call) begin(x *exchange) {
	c.Context, c.x = x.in.Context(), x
	if d, ok := fault.GRPCTimeout(x.in.Header); ok {
		x.due = x.start.Add(d)
		c.timer = time.AfterFunc(d+grpcGrace, func() { c.cancel(errDeadline) })
	}
	if stream, ok := c.Context.Value(streamKey{}).(net.Conn); ok && x.body != nil {
		c.unstream = cancelWith(stream, func() { c.cancel(errStreamGone) })
	}
	c.unhook = context.AfterFunc(c.Context, c.clientGone)
}

// end releases everything; whoever still waits for the context is told.
func (c *call) end() {
	c.unhook()
	if c.unstream != nil {
		c.unstream()
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.mu.Lock()
	c.aborter = nil // what is over may still be sending its last bytes
	c.mu.Unlock()
	c.cancel(context.Canceled)
}

func (c *call) clientGone() { c.cancel(context.Cause(c.Context)) }

func (c *call) cancel(cause error) {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return
	}
	c.cause = cause
	if c.done != nil {
		close(c.done)
	}
	a := c.aborter
	c.mu.Unlock()
	if a != nil {
		a.Abort(cause)
	}
}

// ended is why nobody waits for the service any more; nil if its failure is one.
// Servers of gRPC reset a stream whose time is over.
func (c *call) ended() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil && !c.x.due.IsZero() && !time.Now().Before(c.x.due) {
		return errDeadline
	}
	return c.cause
}

// Done implements context.Context.
func (c *call) Done() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.done == nil {
		c.done = make(chan struct{})
		if c.cause != nil {
			close(c.done)
		}
	}
	return c.done
}

// Err implements context.Context.
func (c *call) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.cause == nil {
		return nil
	}
	return context.Canceled
}

// Watch implements relay.Watcher.
func (c *call) Watch(a relay.Aborter) {
	c.mu.Lock()
	c.aborter = a
	cause := c.cause
	c.mu.Unlock()
	if cause != nil {
		a.Abort(cause)
	}
}

// WroteRequest implements relay.Watcher.
func (c *call) WroteRequest(error) {}

// Informational passes a 1xx answer of the service on.
func (c *call) Informational(status int, header http.Header) error {
	extra := relay.OutHeader(header, nil)
	h := c.x.w.Header()
	maps.Copy(h, extra)
	c.x.w.WriteHeader(status)
	for name := range extra {
		delete(h, name) // it is not the final answer's
	}
	return nil
}
