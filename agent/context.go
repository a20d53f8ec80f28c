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
