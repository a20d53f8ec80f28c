package tracing

import (
	"context"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/trace"
)

// Attributes that only piko has. Times are in seconds.
const (
	Endpoint  = "piko.endpoint"
	Tenant    = "piko.tenant"
	Node      = "piko.node"     // that makes the span
	Upstream  = "piko.upstream" // the tunnel, or the service, that the request was sent to
	HopTo     = "piko.hop.node" // the node that it was sent to
	Retries   = "piko.retries"
	Resend    = "http.request.resend_count"
	Client    = "client.address"
	Queued    = "piko.queue.duration"      // from the request's arrival until it was sent for the first time
	Dial      = "piko.dial.duration"       // until there was a stream or a connection to send it on
	FirstByte = "piko.first_byte.duration" // until the head of the response was there
	Upgrade   = "piko.upgrade"             // protocol
	BytesIn   = "http.request.body.size"
	BytesOut  = "http.response.body.size"
)

const errorType = "error.type"

// Span is one span, or what stands for one that is not recorded; nil stands for none at all, and all methods do nothing
// then. They are safe for concurrent use.
type Span struct {
	// Static after construction.
	tracer trace.Tracer
	span   trace.Span // nil: not recorded
	server bool
	method string
	parent string // what is sent on if it is not recorded; "" is what came
	fresh  bool   // no trace came that could be continued: a tracestate belongs to none
}

// Recorded reports whether there is a span: attributes that cost something are worth their while.
func (s *Span) Recorded() bool { return s != nil && s.span != nil }

// TraceID is the trace's, in hexadecimal; "" if the span is not recorded.
func (s *Span) TraceID() string {
	if !s.Recorded() {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// Propagate has the header of the request that is sent on say that this span is its parent. The map is changed, and none
// of its values.
func (s *Span) Propagate(h http.Header) {
	if s == nil {
		return
	}
	if s.fresh {
		delete(h, headerState)
	}
	switch {
	case s.span != nil:
		propagation.TraceContext{}.Inject(trace.ContextWithSpan(context.Background(), s.span), carrier(h))
	case s.parent != "":
		h[headerParent] = []string{s.parent}
	}
}

// Child begins the span of sending the request on, once; nil if this one is not recorded. End must be called.
func (s *Span) Child(start time.Time) *Span {
	if !s.Recorded() {
		return nil
	}
	_, span := s.tracer.Start(trace.ContextWithSpan(context.Background(), s.span), spanName(s.method),
		trace.WithSpanKind(trace.SpanKindClient), trace.WithTimestamp(start),
		trace.WithAttributes(attribute.String("http.request.method", s.method)))
	return &Span{tracer: s.tracer, span: span, method: s.method, fresh: s.fresh}
}

// Text sets an attribute, unless the value is empty.
func (s *Span) Text(key, value string) {
	if s.Recorded() && value != "" {
		s.span.SetAttributes(attribute.String(key, strings.ToValidUTF8(value, "\uFFFD")))
	}
}

// Int sets an attribute.
func (s *Span) Int(key string, value int64) {
	if s.Recorded() {
		s.span.SetAttributes(attribute.Int64(key, value))
	}
}

// Duration sets an attribute.
func (s *Span) Duration(key string, d time.Duration) {
	if s.Recorded() {
		s.span.SetAttributes(attribute.Float64(key, d.Seconds()))
	}
}

// Status says how the request was answered. A failure that has no other name is the status.
func (s *Span) Status(status int) {
	if !s.Recorded() || status == 0 {
		return
	}
	s.span.SetAttributes(attribute.Int("http.response.status_code", status))
	if status >= 500 || status >= 400 && !s.server { // a server that refuses has not failed
		s.Fail(strconv.Itoa(status))
	}
}

// Fail says that it failed, and how: a code of few values.
func (s *Span) Fail(code string) {
	if !s.Recorded() {
		return
	}
	s.span.SetAttributes(attribute.String(errorType, code))
	s.span.SetStatus(codes.Error, "")
}

// End ends the span. What is said of it later is ignored.
func (s *Span) End() {
	if s.Recorded() {
		s.span.End()
	}
}

// requestAttributes are those of a request that a server got, but for secrets: neither the query nor a field of the header.
func requestAttributes(r *http.Request, method, other string) []attribute.KeyValue {
	scheme := "http"
	if r.TLS != nil {
		scheme = "https"
	}
	attrs := make([]attribute.KeyValue, 0, 16)
	add := func(key, value string) {
		if value != "" {
			attrs = append(attrs, attribute.String(key, strings.ToValidUTF8(value, "\uFFFD")))
		}
	}
	add("http.request.method", method)
	add("http.request.method_original", other)
	add("url.scheme", scheme)
	add("url.path", r.URL.Path)
	add("network.protocol.version", strings.TrimSuffix(strings.TrimPrefix(r.Proto, "HTTP/"), ".0"))
	host, port := splitHost(r.Host)
	add("server.address", host)
	if port > 0 {
		attrs = append(attrs, attribute.Int("server.port", port))
	}
	return attrs
}

func splitHost(hostport string) (host string, port int) {
	host, text, err := net.SplitHostPort(hostport)
	if err != nil {
		return strings.Trim(hostport, "[]"), 0
	}
	n, err := strconv.ParseUint(text, 10, 16)
	if err != nil {
		return host, 0
	}
	return host, int(n)
}

// knownMethod keeps clients from making up names of spans.
func knownMethod(method string) (known, other string) {
	switch method {
	case http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete,
		http.MethodConnect, http.MethodOptions, http.MethodTrace:
		return method, ""
	}
	return "_OTHER", method
}

// spanName is the method: paths and endpoints would be too many names.
func spanName(method string) string {
	if method == "_OTHER" {
		return "HTTP"
	}
	return method
}
