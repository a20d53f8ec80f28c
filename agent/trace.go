package agent

import (
	"bytes"
	"net/http"
	"time"

	"piko/tracing"
)

// errorGone is what spans call it that the client, or the node, went away.
const errorGone = "client-gone"

// trace is what an exchange keeps of its spans: one of the whole, and one of what
// goes to the service. It belongs to the handler's goroutine.
type trace struct {
	span    *tracing.Span
	service *tracing.Span // nil before the request is sent, and if nothing is recorded
	sent    time.Time     // when service began
	open    bool          // there is a connection
	ended   bool
}

// send begins the span of the service, and names it in the request's header as the
// parent of what follows.
func (t *trace) send(x *exchange, h http.Header) {
	if !t.span.Recorded() {
		t.span.Propagate(h)
		return
	}
	t.sent = time.Now()
	t.service = t.span.Child(t.sent)
	t.service.Text(tracing.Upstream, x.l.service.host)
	t.service.Propagate(h)
}

// opened says that there is a connection. It may be called more than once, for pools
// try again by themselves.
func (t *trace) opened() {
	if t.service == nil || t.open {
		return
	}
	t.open = true
	t.service.Duration(tracing.Dial, time.Since(t.sent))
}

// answered says that the head of a response has come.
func (t *trace) answered(res *http.Response) {
	t.service.Duration(tracing.FirstByte, time.Since(t.sent))
	t.service.Status(res.StatusCode)
}

// endTrace ends the spans. It may be called twice: an upgraded connection outlives
// them.
func (x *exchange) endTrace() {
	t := x.trace
	if t.ended || !t.span.Recorded() {
		return
	}
	t.ended = true
	t.span.Text(tracing.Endpoint, x.l.cfg.Endpoint)
	if x.retries > 0 {
		t.service.Int(tracing.Resend, int64(x.retries))
	}
	t.span.Int(tracing.BytesIn, x.received)
	t.span.Int(tracing.BytesOut, x.sent)
	t.span.Status(x.status)
	if x.err != nil {
		code := errorGone
		if x.status != statusClientGone {
			code = string(serviceFault(x.err).Code)
		}
		t.span.Fail(code)
		t.service.Fail(code)
	}
	t.service.End()
	t.span.End()
}

// untraced is the relay.LaneFilter of an agent that traces: it leaves to the handler
// what may have a span, which is all but requests whose traceparent says that they
// have none. With a node that traces, too, every request has a traceparent.
type untraced struct {
	parents int // in the head that was read last
}

var traceparent = []byte("traceparent")

// Target implements relay.LaneFilter. It is what begins a head.
func (u *untraced) Target([]byte) bool {
	u.parents = 0
	return true
}

// RequestField implements relay.LaneFilter.
func (u *untraced) RequestField(name, value []byte) (keep, ok bool) {
	if len(name) != len(traceparent) || !bytes.EqualFold(name, traceparent) {
		return true, true
	}
	u.parents++
	return true, u.parents == 1 && tracing.Unsampled(value)
}

// ResponseField implements relay.LaneFilter.
func (*untraced) ResponseField(int, []byte, []byte) (keep, ok bool) { return true, true }

// ResponseHeader implements relay.LaneFilter.
func (*untraced) ResponseHeader(int, http.Header) {}
