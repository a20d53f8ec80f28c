package fault

import (
	"context"
	"errors"
	"net"
	"net/http"
	"os"
	"time"
)

// Error is an error with a code: what the client may know of a failure, and
// for the log what it may not. It is not changed once it was handed on, so any
// number of goroutines may read it.
type Error struct {
	// Code says which kind of failure it is. The zero Code counts as Internal.
	Code Code
	// Detail, if not empty, replaces Code.Text() for the client.
	Detail string
	// RetryAfter is when the client should come back; 0 means the code's own
	// delay: 1 s for overloaded, auth-unavailable and rate-limited, at once
	// for draining, and for all others no such advice.
	RetryAfter time.Duration
	// Err is the cause: for logs only, never shown to the client.
	Err error
}

// New returns an Error of the code with its cause, which may be nil.
func New(code Code, cause error) *Error {
	return &Error{Code: code, Err: cause}
}

// Text is what the client reads.
func (e *Error) Text() string {
	if e.Detail != "" {
		return e.Detail
	}
	return e.Code.Text()
}

// Error is the text for the client followed by the cause.
func (e *Error) Error() string {
	if e.Err == nil {
		return e.Text()
	}
	return e.Text() + ": " + e.Err.Error()
}

// Unwrap returns the cause.
func (e *Error) Unwrap() error { return e.Err }

// Is reports whether target is a Code or an *Error of the same code.
func (e *Error) Is(target error) bool {
	switch t := target.(type) {
	case Code:
		return e.Code == t
	case *Error:
		return t != nil && e.Code == t.Code
	}
	return false
}

// From is the map from errors to faults. An *Error or a Code within err stays
// what it is; whatever ran out of time is upstream-timeout, a body over its
// limit is too-large, and everything else is internal. From(nil) is nil.
//
// A time-out that is not the upstream's, such as that of a client that stopped
// sending, has to be given its code where it happens.
func From(err error) *Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e
	}
	if code, ok := errors.AsType[Code](err); ok {
		return New(code, err)
	}
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		return New(TooLarge, err)
	}
	if isTimeout(err) {
		return New(UpstreamTimeout, err)
	}
	return New(Internal, err)
}

func isTimeout(err error) bool {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, os.ErrDeadlineExceeded) {
		return true
	}
	ne, ok := errors.AsType[net.Error](err)
	return ok && ne.Timeout()
}
