package proxy

import (
	"errors"
	"net/http"
	"strings"
	"time"

	"piko/fault"
)

// grpcGrace is what a call may take above its grpc-timeout, which the service has got as well: its own answer is to win.
const grpcGrace = 100 * time.Millisecond

// errDeadline is the cause with which a call ends that took longer than its grpc-timeout.
var errDeadline = errors.New("grpc-timeout is over")

// isGRPC: gRPC has time-outs of its own, and streams that rest for long. gRPC-Web counts.
func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// grpcTimeout is how long this node lets a call take: its client's time, which the entry node keeps for those on the way
// that would wait for ever. gRPC-Web is left to its client and the service: we could not tell such a client why.
func (x *exchange) grpcTimeout() (time.Duration, bool) {
	if x.peer != nil {
		return 0, false
	}
	return fault.GRPCTimeout(x.r.Header)
}

// endGRPC ends a gRPC response that broke off with a status, if there is anybody to read it. HTTP/1 has no such clients.
func (x *exchange) endGRPC(err error) bool {
	if x.peer != nil || x.r.ProtoMajor < 2 || !fault.IsGRPC(x.r.Header) || isClientError(err) || x.r.Context().Err() != nil {
		return false
	}
	code := fault.UpstreamUnreachable
	switch {
	case x.call.lapsed() != nil:
		code = fault.ExpiredToken
	case x.call.expired():
		code = fault.UpstreamTimeout
	}
	fault.EndGRPC(x.w, fault.New(code, err))
	return true
}
