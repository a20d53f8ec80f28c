package proxy

import (
	"errors"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"piko/fault"
)

const headerGRPCTimeout = "Grpc-Timeout"

// grpcGrace is what a call may take above its grpc-timeout, which the service has got as well: its own answer is to win.
const grpcGrace = 100 * time.Millisecond

// errDeadline is the cause with which a call ends that took longer than its grpc-timeout.
var errDeadline = errors.New("grpc-timeout is over")

// isGRPC: gRPC has time-outs of its own, and streams that rest for long. gRPC-Web counts.
func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// grpcTimeout is how long this node lets a call take: its client's time, which the entry node keeps for those on the way
// that would wait for ever.
func (x *exchange) grpcTimeout() (time.Duration, bool) {
	values := x.r.Header[headerGRPCTimeout]
	if x.peer != nil || len(values) != 1 || !isGRPC(x.r) {
		return 0, false
	}
	return parseGRPCTimeout(values[0])
}

// parseGRPCTimeout reads up to eight digits and a unit.
func parseGRPCTimeout(s string) (time.Duration, bool) {
	if len(s) < 2 || len(s) > 9 {
		return 0, false
	}
	n, err := strconv.ParseUint(s[:len(s)-1], 10, 32)
	if err != nil {
		return 0, false
	}
	var unit time.Duration
	switch s[len(s)-1] {
	case 'H':
		unit = time.Hour
	case 'M':
		unit = time.Minute
	case 'S':
		unit = time.Second
	case 'm':
		unit = time.Millisecond
	case 'u':
		unit = time.Microsecond
	case 'n':
		unit = time.Nanosecond
	default:
		return 0, false
	}
	const longest = math.MaxInt64 / 2 // centuries
	if time.Duration(n) > longest/unit {
		return longest, true
	}
	return time.Duration(n) * unit, true
}

// endGRPC ends a gRPC response that broke off with a status, if there is anybody to read it. HTTP/1 has no such clients.
func (x *exchange) endGRPC(err error) bool {
	if x.peer != nil || x.r.ProtoMajor < 2 || !fault.IsGRPC(x.r.Header) || isClientError(err) || x.r.Context().Err() != nil {
		return false
	}
	code := fault.UpstreamUnreachable
	if x.call.expired() {
		code = fault.UpstreamTimeout
	}
	fault.EndGRPC(x.w, fault.New(code, err))
	return true
}
