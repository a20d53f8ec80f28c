package agent

import (
	"context"
	"errors"
	"net"
	"time"

	"piko/fault"
)

// grpcGrace is what a call may take above its grpc-timeout, which the service
// has got as well: its own answer is to win.
const grpcGrace = 100 * time.Millisecond

var (
	// errDeadline ends a call that took longer than its grpc-timeout.
	errDeadline = fault.New(fault.UpstreamTimeout, errors.New("grpc-timeout is over"))
	// errStreamGone ends a request whose stream the node has reset.
	errStreamGone = errors.New("stream was reset")
)

// streamKey is what the context of a request holds its stream under.
type streamKey struct{}

// withStream is the server's ConnContext.
func withStream(ctx context.Context, stream net.Conn) context.Context {
	return context.WithValue(ctx, streamKey{}, stream)
}

// begin makes the context of the exchange, and returns what ends it. Beside the
// client's context there is the time that a call of gRPC may take, and the end
// of the stream: net/http notices that only while somebody reads the body or
// after it was read, and a service may keep a body waiting.
func (x *exchange) begin() (end func()) {
	x.ctx = x.in.Context()
	end = func() {}
	if d, ok := fault.GRPCTimeout(x.in.Header); ok {
		x.due = x.start.Add(d)
		x.ctx, end = context.WithTimeoutCause(x.ctx, d+grpcGrace, errDeadline)
	}
	stream, ok := x.ctx.Value(streamKey{}).(net.Conn)
	if x.body == nil || !ok {
		return end
	}
	ctx, cancel := context.WithCancelCause(x.ctx)
	x.ctx = ctx
	stop := cancelWith(stream, func() { cancel(errStreamGone) })
	timeout := end
	return func() {
		stop()
		cancel(nil)
		timeout()
	}
}

// ended is why nobody waits for the service any more; nil if its failure is one.
// Servers of gRPC reset a stream whose time is over.
func (x *exchange) ended() error {
	cause := context.Cause(x.ctx)
	if cause == nil && !x.due.IsZero() && !time.Now().Before(x.due) {
		return errDeadline
	}
	return cause
}
