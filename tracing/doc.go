// Package tracing makes spans of requests and exports them by OTLP over HTTP, with
// OpenTelemetry's SDK. It is the one door to that: the parts that serve requests
// know a Tracer, which is nil when nothing is traced, and Spans.
//
// The flow: Serve decides for one request by its traceparent (W3C Trace Context),
// the ratio and the rate; a part hangs a Child below that Span for each time that it
// sends the request, and has the Child write the traceparent that goes with it.
// Spans that have ended wait in a queue, which is bounded, for the one goroutine of
// Run, which sends them in batches. Nothing that a request does waits for that: what
// the queue has no room for is dropped and counted.
//
// A request that is not sampled costs the reading of its header and makes no span.
// Its traceparent passes as it came, so that what its client and its service trace
// between themselves stays whole. One without any gets one that says "not sampled",
// for those behind us, who would otherwise each decide on their own.
package tracing
