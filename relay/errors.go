package relay

import (
	"errors"
	"fmt"
)

// Causes that callers may look for with errors.Is.
var (
	// ErrPoolClosed is what RoundTrip fails with after Pool.Close.
	ErrPoolClosed = errors.New("pool closed")
	// ErrBodyClosed is what reading a response body fails with after its Close.
	ErrBodyClosed = errors.New("response body closed")
)

// ClientError is a failure of the client's side of an exchange: its request body could not be read, or the response
// not be written to it. It says nothing about the upstream.
type ClientError struct {
	Op  string // "read request body" or "write response"
	Err error
}

// Error implements error.
func (e *ClientError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ClientError) Unwrap() error { return e.Err }

// ProtocolError says that the service does not speak HTTP/1.1 as it must.
type ProtocolError struct{ Reason string }

// Error implements error.
func (e *ProtocolError) Error() string { return "malformed response: " + e.Reason }

func malformed(format string, args ...any) error {
	return &ProtocolError{Reason: fmt.Sprintf(format, args...)}
}

// exchangeError is a failure of the upstream's side, or of the request before it got there.
type exchangeError struct {
	op        string
	err       error
	never     bool // nothing of the request was written
	responded bool // something of the response was read
}

func (e *exchangeError) Error() string { return e.op + ": " + e.err.Error() }
func (e *exchangeError) Unwrap() error { return e.err }

// NeverExecuted says that nothing of the request can have reached a service, so that it may be tried elsewhere
// whatever its method: no connection was to be had, the connection broke before a byte was written, or err holds an
// error whose method `Refused() bool` says true (a stream that was reset before the other side accepted it).
func NeverExecuted(err error) bool {
	if e, ok := errors.AsType[*exchangeError](err); ok && (e.never || e.responded) {
		return e.never
	}
	r, ok := errors.AsType[refusal](err)
	return ok && r.Refused()
}

// refusal is what tells a stream that was never accepted from one that broke.
type refusal interface {
	error
	Refused() bool
}

// Responded says that something of the response had been read when err happened.
func Responded(err error) bool {
	e, ok := errors.AsType[*exchangeError](err)
	return ok && e.responded
}
