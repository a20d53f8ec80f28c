package tracing

import (
	"context"
	"net/http"
	"strings"

	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Names in canonical form.
const (
	headerParent = "Traceparent"
	headerState  = "Tracestate"
)

// maxTraceState is how much of a tracestate is parsed, in bytes; a longer one passes all the same, and no span shows it.
const maxTraceState = 4 << 10

// parentState is what a request says of its trace.
type parentState int

const (
	parentNone parentState = iota
	parentGiven
	parentMalformed // as if there were none, and its tracestate means nothing either
)

// readParent reads traceparent and tracestate (W3C Trace Context, section 3).
func readParent(h http.Header) (trace.SpanContext, parentState) {
	values := h[headerParent]
	if len(values) == 0 {
		return trace.SpanContext{}, parentNone
	}
	if len(values) > 1 {
		return trace.SpanContext{}, parentMalformed
	}
	ctx := propagation.TraceContext{}.Extract(context.Background(), carrier(h)) // a context is how it says its result
	sc := trace.SpanContextFromContext(ctx)
	if !sc.IsValid() {
		return sc, parentMalformed
	}
	return sc, parentGiven
}

// Unsampled reports whether the value of a traceparent says, beyond doubt, that the request has no span. It allocates
// nothing.
func Unsampled(value []byte) bool {
	const trace, parent, flags = 3, 36, 53 // where they begin
	if len(value) != flags+2 || value[0] != '0' || value[1] != '0' || value[flags] != '0' || value[flags+1] != '0' && value[flags+1] != '2' {
		return false
	}
	for _, dash := range [...]int{trace, parent, flags} {
		if value[dash-1] != '-' {
			return false
		}
	}
	return isID(value[trace:parent-1]) && isID(value[parent:flags-1])
}

// isID takes digits of which not all are 0.
func isID(b []byte) bool {
	some := false
	for _, c := range b {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
		some = some || c != '0'
	}
	return some
}

// carrier is how the SDK reads a header.
type carrier http.Header

// Get implements propagation.TextMapCarrier. Several lines of tracestate are one list (RFC 9110, section 5.3).
func (c carrier) Get(key string) string {
	values := c[http.CanonicalHeaderKey(key)]
	if len(values) == 1 && len(values[0]) <= maxTraceState {
		return values[0]
	}
	n := 0
	for _, v := range values {
		n += len(v) + 1
	}
	if n > maxTraceState {
		return ""
	}
	return strings.Join(values, ",")
}

// Set implements propagation.TextMapCarrier. A tracestate stays as it is: nothing of ours is added.
func (c carrier) Set(key, value string) {
	if key = http.CanonicalHeaderKey(key); key == headerParent {
		c[key] = []string{value}
	}
}

// Keys implements propagation.TextMapCarrier; nobody asks.
func (c carrier) Keys() []string { return []string{headerParent, headerState} }
