package agent

import (
	"maps"
	"net"
	"net/http"
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
	relay.Call

	// Static after begin.
	x        *exchange
	unstream func()      // nil: the stream is not watched
	timer    *time.Timer // nil: there is no time-out
}

// begin makes the call follow whatever ends it. end must be called.
func (c *call) begin(x *exchange) {
	c.x = x
	client := x.in.Context()
	if d, ok := fault.GRPCTimeout(x.in.Header); ok {
		x.due = x.start.Add(d)
		c.timer = time.AfterFunc(d+grpcGrace, func() { c.Cancel(errDeadline) })
	}
	if stream, ok := client.Value(streamKey{}).(net.Conn); ok && x.body != nil {
		c.unstream = cancelWith(stream, func() { c.Cancel(errStreamGone) })
	}
	c.Begin(client)
}

// end releases everything; whoever still waits for the context is told.
func (c *call) end() {
	if c.unstream != nil {
		c.unstream()
	}
	if c.timer != nil {
		c.timer.Stop()
	}
	c.End()
}

// ended is why nobody waits for the service any more; nil if its failure is one.
// Servers of gRPC reset a stream whose time is over.
func (c *call) ended() error {
	cause := c.Cause()
	if cause == nil && !c.x.due.IsZero() && !time.Now().Before(c.x.due) {
		return errDeadline
	}
	return cause
}

// Watch implements relay.Watcher.
func (c *call) Watch(a relay.Aborter) {
	c.Call.Watch(a)
	if t := c.x.trace; t != nil {
		t.opened()
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
