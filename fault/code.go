// Package fault holds piko's error codes and is the one place that turns an
// error into what a client sees: HTTP status, JSON body, x-piko-error header,
// or grpc-status. It also reads such an answer back, for the clients of ours
// that were refused.
//
// It decides nothing else: it neither logs nor counts, and it imports nothing
// of ours, so that every package can name a fault.
package fault

import (
	"maps"
	"net/http"
	"slices"
)

// Code names one kind of failure, in the words that machines compare: it is
// the "code" of the JSON body and the value of x-piko-error. A Code is an error
// too, so that errors.Is(err, fault.NoUpstream) asks whether err is of that kind.
type Code string

// The codes that a node or an agent answers with. A text that v0.9.0 has too is
// kept word for word, since its users compare texts for want of codes.
const (
	MalformedRequest Code = "malformed-request" // 400; the connection is closed
	MissingEndpoint  Code = "missing-endpoint"  // 400
	InvalidEndpoint  Code = "invalid-endpoint"  // 400
	WrongProtocol    Code = "wrong-protocol"    // 400; a TCP connection to an endpoint that serves HTTP

	MissingAuthorization Code = "missing-authorization"  // 401
	InvalidAuthorization Code = "invalid-authorization"  // 401
	UnsupportedAuthType  Code = "unsupported-auth-type"  // 401
	InvalidToken         Code = "invalid-token"          // 401
	ExpiredToken         Code = "expired-token"          // 401
	UnknownTenant        Code = "unknown-tenant"         // 401
	EndpointNotPermitted Code = "endpoint-not-permitted" // 401

	Forbidden        Code = "forbidden"          // 403; such as pprof asked for from afar
	NotFound         Code = "not-found"          // 404
	ReservedPath     Code = "reserved-path"      // 404; below /_piko/
	MethodNotAllowed Code = "method-not-allowed" // 405; the caller of Write sets Allow

	RequestTimeout  Code = "request-timeout"  // 408; the connection is closed
	DuplicateTunnel Code = "duplicate-tunnel" // 409; the upstream named this node as one that it has
	TooLarge        Code = "too-large"        // 413
	InvalidConfig   Code = "invalid-config"   // 422; a reload has found a mistake
	URITooLong      Code = "uri-too-long"     // 414
	RateLimited     Code = "rate-limited"     // 429, Retry-After
	HeaderTooLarge  Code = "header-too-large" // 431

	Internal            Code = "internal"             // 500
	NoUpstream          Code = "no-upstream"          // 502
	UpstreamUnreachable Code = "upstream-unreachable" // 502
	Overloaded          Code = "overloaded"           // 503, Retry-After
	Draining            Code = "draining"             // 503, Retry-After: 0
	AuthUnavailable     Code = "auth-unavailable"     // 503, Retry-After
	UpstreamTimeout     Code = "upstream-timeout"     // 504
	LoopDetected        Code = "loop-detected"        // 508; the request has come by here again and again
)

// The numbers of grpc-status that we use.
const (
	grpcInvalidArgument   = 3
	grpcDeadlineExceeded  = 4
	grpcAlreadyExists     = 6
	grpcPermissionDenied  = 7
	grpcResourceExhausted = 8
	grpcFailedPrecond     = 9
	grpcUnimplemented     = 12
	grpcInternal          = 13
	grpcUnavailable       = 14
	grpcUnauthenticated   = 16
)

// kind is what a code stands for.
type kind struct {
	status int
	text   string
	grpc   int
}

// kinds is the table of all codes; it is never written.
var kinds = map[Code]kind{
	MalformedRequest: {http.StatusBadRequest, "malformed request", grpcInvalidArgument},
	MissingEndpoint:  {http.StatusBadRequest, "missing endpoint id", grpcInvalidArgument},
	InvalidEndpoint:  {http.StatusBadRequest, "invalid endpoint id", grpcInvalidArgument},
	WrongProtocol:    {http.StatusBadRequest, "endpoint serves HTTP, not TCP connections", grpcInvalidArgument},

	MissingAuthorization: {http.StatusUnauthorized, "missing authorization", grpcUnauthenticated},
	InvalidAuthorization: {http.StatusUnauthorized, "invalid authorization", grpcUnauthenticated},
	UnsupportedAuthType:  {http.StatusUnauthorized, "unsupported auth type", grpcUnauthenticated},
	InvalidToken:         {http.StatusUnauthorized, "invalid token", grpcUnauthenticated},
	ExpiredToken:         {http.StatusUnauthorized, "expired token", grpcUnauthenticated},
	UnknownTenant:        {http.StatusUnauthorized, "unknown tenant", grpcUnauthenticated},
	// 401 as in v0.9.0, but for gRPC not UNAUTHENTICATED: its clients would
	// fetch a new token and try again, for nothing.
	EndpointNotPermitted: {http.StatusUnauthorized, "endpoint not permitted", grpcPermissionDenied},

	Forbidden:        {http.StatusForbidden, "forbidden", grpcPermissionDenied},
	NotFound:         {http.StatusNotFound, "not found", grpcUnimplemented},
	ReservedPath:     {http.StatusNotFound, "not found", grpcUnimplemented},
	MethodNotAllowed: {http.StatusMethodNotAllowed, "method not allowed", grpcUnimplemented},

	RequestTimeout:  {http.StatusRequestTimeout, "request timeout", grpcDeadlineExceeded},
	DuplicateTunnel: {http.StatusConflict, "node has a tunnel of this upstream already", grpcAlreadyExists},
	TooLarge:        {http.StatusRequestEntityTooLarge, "request entity too large", grpcResourceExhausted},
	InvalidConfig:   {http.StatusUnprocessableEntity, "configuration has a mistake", grpcInvalidArgument},
	URITooLong:      {http.StatusRequestURITooLong, "request uri too long", grpcResourceExhausted},
	RateLimited:     {http.StatusTooManyRequests, "rate limited", grpcResourceExhausted},
	HeaderTooLarge:  {http.StatusRequestHeaderFieldsTooLarge, "request header fields too large", grpcResourceExhausted},

	Internal:            {http.StatusInternalServerError, "internal error", grpcInternal},
	NoUpstream:          {http.StatusBadGateway, "no available upstreams", grpcUnavailable},
	UpstreamUnreachable: {http.StatusBadGateway, "upstream unreachable", grpcUnavailable},
	Overloaded:          {http.StatusServiceUnavailable, "overloaded", grpcUnavailable},
	Draining:            {http.StatusServiceUnavailable, "draining", grpcUnavailable},
	AuthUnavailable:     {http.StatusServiceUnavailable, "authentication unavailable", grpcUnavailable},
	UpstreamTimeout:     {http.StatusGatewayTimeout, "upstream timeout", grpcDeadlineExceeded},
	// For gRPC not UNAVAILABLE, which its clients try again.
	LoopDetected: {http.StatusLoopDetected, "request loop detected", grpcFailedPrecond},
}

// Codes returns all codes, in order.
func Codes() []Code { return slices.Sorted(maps.Keys(kinds)) }

// kind of a code that is not in the table (the zero Code, or one that a newer
// server sent) is that of Internal.
func (c Code) kind() kind {
	if k, ok := kinds[c]; ok {
		return k
	}
	return kinds[Internal]
}

// Text is what the client reads as "error" when nothing more is to be said.
func (c Code) Text() string { return c.kind().text }

// Status is the HTTP status of the code.
func (c Code) Status() int { return c.kind().status }

// Error is Text; it makes a Code a target for errors.Is.
func (c Code) Error() string { return c.Text() }
