package proxy

import (
	"errors"
	"maps"
	"net/http"
	"time"

	"piko/fault"
	"piko/router"
	"piko/tracing"
	"piko/tunnel"
)

// errorGone is what spans call it that the client went away.
const errorGone = "client-gone"

// valueTrace is headerTrace's.
var valueTrace = []string{"1"}

// trace is what an exchange keeps of its spans: one of the whole, which a client sees, and one of each attempt. It
// belongs to the handler's goroutine.
type trace struct {
	span    *tracing.Span
	began   time.Time
	attempt *tracing.Span // the last one; nil before the first, and if nothing is recorded
	sent    time.Time     // when attempt began
	open    bool          // there is a stream or connection for it
	ended   bool
}

// beginTrace begins the span of a client's request. A connection that is carried byte for byte has none.
func (x *exchange) beginTrace() {
	if _, tcp := tcpEndpoint(x.r); tcp {
		return
	}
	x.trace = &trace{span: x.f.opt.Tracer.Serve(x.r, x.start), began: x.start}
	if x.trace.span.Recorded() {
		if client := x.f.clientAddr(x.r); client.IsValid() {
			x.trace.span.Text(tracing.Client, client.Addr().String())
		}
	}
}

// continueTrace begins the owner's span of a request that the entry node has one of.
func (x *exchange) continueTrace() {
	if x.r.Header[headerTrace] == nil || isReserved(x.r.URL.Path) {
		return
	}
	now := time.Now()
	x.trace = &trace{span: x.f.opt.Tracer.Continue(x.r, now), began: now}
}

// traceAttempt begins the span of one attempt, and returns the header that names it as the parent of what follows.
func (x *exchange) traceAttempt(target router.Target, h http.Header) http.Header {
	t := x.trace
	if !t.span.Recorded() {
		return h
	}
	now := time.Now()
	if t.attempt == nil {
		t.span.Duration(tracing.Queued, now.Sub(t.began))
	}
	t.attempt.End() // one whose response was passed over
	t.attempt, t.sent, t.open = t.span.Child(now), now, false
	if n := x.attempt.used; n > 0 {
		t.attempt.Int(tracing.Resend, int64(n))
	}
	h = maps.Clone(h) // the next attempt's is another
	t.attempt.Propagate(h)
	if target.Node != nil {
		t.attempt.Text(tracing.HopTo, target.Node.ID())
		h[headerTrace] = valueTrace
	} else {
		t.attempt.Text(tracing.Upstream, targetName(target))
	}
	return h
}

// opened says that the attempt has a stream. It may be called more than once, for pools try again by themselves.
func (t *trace) opened() {
	if t.attempt == nil || t.open {
		return
	}
	t.open = true
	t.attempt.Duration(tracing.Dial, time.Since(t.sent))
}

// answered says how the attempt went, up to the head of the response. With a response it goes on.
func (t *trace) answered(res *http.Response, err error) {
	if err == nil {
		t.attempt.Duration(tracing.FirstByte, time.Since(t.sent))
		t.attempt.Status(res.StatusCode)
		return
	}
	t.attempt.Fail(attemptError(err))
	t.attempt.End()
}

// attemptError is what a span calls the failure of an attempt.
func attemptError(err error) string {
	if miss, ok := errors.AsType[*missError](err); ok {
		return string(miss.reason)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return string(f.Code)
	}
	return string(fault.UpstreamUnreachable)
}

// endTrace ends the spans. It may be called twice: an upgraded connection outlives them.
func (x *exchange) endTrace() {
	t := x.trace
	if t.ended || !t.span.Recorded() {
		return
	}
	t.ended = true
	_, endpoint := tunnel.SplitName(x.endpoint)
	t.span.Text(tracing.Endpoint, endpoint)
	t.span.Text(tracing.Tenant, x.bearer.Tenant)
	t.span.Text(tracing.Node, x.f.opt.NodeID)
	t.span.Text(tracing.Upgrade, x.upgrade)
	if x.retries > 0 {
		t.span.Int(tracing.Retries, int64(x.retries))
	}
	t.span.Int(tracing.BytesIn, x.body.Bytes())
	t.span.Int(tracing.BytesOut, x.bytesOut)
	t.span.Status(x.status)
	if x.err != nil {
		code := x.traceError()
		t.span.Fail(code)
		t.attempt.Fail(code)
	}
	t.attempt.End()
	t.span.End()
}

// traceError is what a span calls the failure of the request.
func (x *exchange) traceError() string {
	switch f, ok := errors.AsType[*fault.Error](x.err); {
	case ok:
		return string(f.Code)
	case x.status == statusClientGone, x.r.Context().Err() != nil:
		return errorGone
	}
	if f := x.classify(x.err, false); f != nil {
		return string(f.Code)
	}
	return errorGone
}
