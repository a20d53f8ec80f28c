package relay

import (
	"context"
	"sync"
)

// Call is the context of one request to upstreams, by what a handler embeds it in: it ends with its client's context, or when
// it is cancelled. Who embeds it adds WroteRequest and Informational, and is a Watcher. The zero value can be ended only;
// Begin makes it a context, and it must not be copied then. All methods but Begin and End are safe for concurrent use.
type Call struct {
	context.Context // the client's

	unhook func() bool // static after Begin

	// Guarded by mu.
	mu      sync.Mutex
	cause   error // why it has ended
	done    chan struct{}
	aborter Aborter
}

// Begin makes the call follow the client's context. End must be called.
func (c *Call) Begin(client context.Context) {
	c.Context = client
	c.unhook = context.AfterFunc(client, c.clientGone)
}

// End releases everything; whoever still waits for the context is told. It does nothing if Begin was not called.
func (c *Call) End() {
	if c.Context == nil {
		return
	}
	c.unhook()
	c.mu.Lock()
	c.aborter = nil // what is over may still be sending its last bytes
	c.mu.Unlock()
	c.Cancel(context.Canceled)
}

func (c *Call) clientGone() { c.Cancel(context.Cause(c.Context)) }

// Cancel ends the call and aborts the exchange under way, and reports whether it had not ended before.
func (c *Call) Cancel(cause error) bool {
	c.mu.Lock()
	if c.cause != nil {
		c.mu.Unlock()
		return false
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
	return true
}

// Cause is why the call has ended; nil while it goes on. context.Cause knows the client's reasons only.
func (c *Call) Cause() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cause
}

// Done implements context.Context.
func (c *Call) Done() <-chan struct{} {
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
func (c *Call) Err() error {
	if c.Cause() == nil {
		return nil
	}
	return context.Canceled
}

// Watch implements Watcher.
func (c *Call) Watch(a Aborter) {
	c.mu.Lock()
	c.aborter = a
	cause := c.cause
	c.mu.Unlock()
	if cause != nil {
		a.Abort(cause)
	}
}
