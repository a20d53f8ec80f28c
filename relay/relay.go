// Package relay carries one HTTP/1.1 exchange from a server handler to a service and back.
//
// It is the half that the node (over streams of a tunnel) and the agent (over TCP or TLS to the service) share:
// Pool makes exchanges in the caller's goroutine over connections that it keeps, Body hands a client's request body
// to an exchange and takes it back, CopyResponse and Upgrade bring the answer to the client. It knows neither
// endpoints nor tunnels nor retries: callers decide, with NeverExecuted, Responded and ClientError to go by.
package relay

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"time"
)

// Pool keeps idle HTTP/1.1 connections to one destination and makes exchanges over them in the caller's goroutine.
// The zero value with Dial works. It is safe for concurrent use; its fields must not change after the first use.
type Pool struct {
	// Dial opens a connection. An error from it is NeverExecuted.
	Dial func(ctx context.Context) (net.Conn, error)
	// MaxIdle bounds the idle connections. 0: as many as were busy at once lately, at least 64, at most 4096.
	MaxIdle int
	// IdleTimeout ends connections that were idle that long; 0 is 90 s, less never.
	IdleTimeout time.Duration
	// MaxResponseHeader bounds a response's header in bytes; 0 is 256 KiB.
	MaxResponseHeader int
	// Fresh says that a request must have a new connection.
	Fresh func(*http.Request) bool
	// RetryStale tries an idempotent request without a body again on a new connection, once, when a reused one ended
	// before a byte of the response. It is for services that close idle connections at their own time.
	RetryStale bool
}

// RoundTrip implements http.RoundTripper.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) { return nil, errors.ErrUnsupported }

// CloseIdle closes the connections that no exchange uses now.
func (p *Pool) CloseIdle() {}

// Close closes the idle connections, now and for good: exchanges under way finish, new ones fail.
func (p *Pool) Close() {}

// NeverExecuted says that nothing of the request can have reached a service: it may be tried elsewhere, whatever its method.
// Errors that have a method `Refused() bool` which says true (a stream reset before it was accepted) count.
func NeverExecuted(err error) bool { return false }

// Responded says that a byte of the response had been read when err happened.
func Responded(err error) bool { return false }

// ClientError is a failure of the client's side of an exchange: its request body could not be read, or the response not be
// written to it. It says nothing about the upstream.
type ClientError struct {
	Op  string // "read request body" or "write response"
	Err error
}

// Error implements error.
func (e *ClientError) Error() string { return e.Op + ": " + e.Err.Error() }

// Unwrap returns the cause.
func (e *ClientError) Unwrap() error { return e.Err }

// ProtocolError says that the service did not speak HTTP/1.1.
type ProtocolError struct{ Reason string }

// Error implements error.
func (e *ProtocolError) Error() string { return "read response: " + e.Reason }

// Body is a server request's body on its way through RoundTrip. Take one per request, Attach it to each attempt's request,
// Finish it before the handler returns. All methods work on nil, which stands for no body.
type Body struct{}

// BodyOptions: see its fields.
type BodyOptions struct {
	// Keep is how many bytes are kept so that the body can be sent again; 0 is none.
	Keep int
	// Progress ends the request when a body with a Content-Length makes no progress for that long; 0 is never.
	Progress time.Duration
}

// TakeBody takes the body of a server's request: full duplex is switched on. It returns nil for a request without one.
func TakeBody(w http.ResponseWriter, r *http.Request, opt BodyOptions) *Body { return nil }

// Attach makes out carry the body from its first byte: Body, ContentLength, Trailer.
func (b *Body) Attach(out *http.Request) { out.Body = http.NoBody }

// Replayable says whether another Attach can still give the whole body.
func (b *Body) Replayable() bool { return true }

// Release gives up replaying: a response has come.
func (b *Body) Release() {}

// Bytes says how many bytes the client has sent.
func (b *Body) Bytes() int64 { return 0 }

// Finish ends a read that still waits for the client and returns when nobody reads the body any more.
func (b *Body) Finish() {}

// OutHeader copies a header for the other side: without hop-by-hop fields, those that Connection names, Proxy and
// HTTP2-Settings, and those that drop (may be nil; it gets canonical names) says. Values are shared, not copied.
// TE stays as far as it says trailers; Upgrade stays when UpgradeType allows it, with its Connection.
func OutHeader(in http.Header, drop func(name string) bool) http.Header { return in.Clone() }

// UpgradeType returns what the header asks, or agrees, to upgrade to: "" for nothing. h2c, HTTP and TLS are never passed on.
// A token with forbidden bytes is an error, and the request malformed.
func UpgradeType(h http.Header) (string, error) { return "", nil }

// CopyResponse writes res to the client: header without hop-by-hop fields, body, trailers. It flushes only when the length is
// unknown. It closes res.Body. Once committed is true an error must end in panic(http.ErrAbortHandler), or the client takes
// half an answer for a whole one. A *ClientError says that the client's side failed.
func CopyResponse(w http.ResponseWriter, res *http.Response) (n int64, committed bool, err error) {
	return 0, false, errors.ErrUnsupported
}

// Upgrade answers a 101 response: it takes the client's connection over and copies both ways, with half-close and without
// any time-out, until both directions have ended, one failed, or the request's context ended. in counts bytes from the client.
func Upgrade(w http.ResponseWriter, req *http.Request, res *http.Response) (in, out int64, err error) {
	return 0, 0, errors.ErrUnsupported
}

var _ io.Reader
