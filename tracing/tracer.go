package tracing

import (
	"context"
	"crypto/tls"
	"encoding/hex"
	"errors"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/sdk/resource"
	sdk "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"
)

// scope is the name of the instrumentation in what is exported.
const scope = "piko"

// Bounds of one span; what is beyond them is cut or left out.
const (
	maxValue      = 1024 // bytes of a text
	maxAttributes = 64
)

// Options say what is traced, and where to spans go. Only URL is required.
type Options struct {
	// URL takes the spans: OTLP over HTTP, as protobuf. One without a path gets /v1/traces.
	URL string
	// Header is sent with the spans, such as an Authorization.
	Header http.Header
	// GetTLS is asked for each connection to an https URL; nil is the system's authorities.
	GetTLS func() *tls.Config

	// Service, Version and Instance name who makes the spans.
	Service, Version, Instance string

	// Ratio, 0 to 1, is how much of the requests is sampled that have no traceparent. Of those that have one the sampled are.
	Ratio float64
	// MaxRate bounds the requests sampled by Serve, each second, and as many at once, whatever their clients want. 0 is no bound.
	MaxRate int

	// Logger gets word of spans that cannot be sent, at most once a minute. nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics. nil is none.
	Registerer prometheus.Registerer
}

// Tracer decides which requests are traced. A nil one traces nothing: ask before anything else is done for a span. Its
// methods are safe for concurrent use. Make one with New, and have one goroutine Run it.
type Tracer struct {
	// Static after construction.
	tracer  trace.Tracer
	ratio   float64
	limit   *limiter
	limited prometheus.Counter
	queue   *queue
}

// New checks the options. Nothing is sent before Run.
func New(opt Options) (*Tracer, error) {
	if !(opt.Ratio >= 0 && opt.Ratio <= 1) || opt.MaxRate < 0 {
		return nil, errors.New("tracing: no such ratio or rate")
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	// What the SDK has to say, of the environment for example, would be plain text on standard error.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { opt.Logger.Warn("tracing", "error", err) }))
	m := newMetrics()
	if err := m.register(opt.Registerer); err != nil {
		return nil, err
	}
	c, err := newClient(&opt, m)
	if err != nil {
		return nil, err
	}
	q := newQueue(otlptrace.NewUnstarted(c), m, opt.Logger)
	return &Tracer{
		tracer: provider(q, &opt).Tracer(scope, trace.WithInstrumentationVersion(opt.Version)),
		ratio:  opt.Ratio, limit: newLimiter(opt.MaxRate, time.Now()), limited: m.limited, queue: q,
	}, nil
}

// provider is the SDK, with nothing left to the environment but what it adds to the resource.
func provider(q *queue, opt *Options) *sdk.TracerProvider {
	limits := sdk.NewSpanLimits()
	limits.AttributeValueLengthLimit, limits.AttributeCountLimit = maxValue, maxAttributes
	return sdk.NewTracerProvider(
		sdk.WithSampler(sdk.AlwaysSample()), // who asks for a span has decided
		sdk.WithSpanProcessor(q),
		sdk.WithRawSpanLimits(limits),
		sdk.WithResource(opt.resource()),
	)
}

// resource is what all spans have in common. OTEL_RESOURCE_ATTRIBUTES of the environment adds to it.
func (o *Options) resource() *resource.Resource {
	attrs := []attribute.KeyValue{attribute.String("service.name", o.Service)}
	for key, value := range map[string]string{"service.version": o.Version, "service.instance.id": o.Instance} {
		if value != "" {
			attrs = append(attrs, attribute.String(key, value))
		}
	}
	return resource.NewSchemaless(attrs...)
}

// Run exports spans until ctx ends, and then for at most 3 s what is left. It is called once.
func (t *Tracer) Run(ctx context.Context) { t.queue.run(ctx) }

// Serve begins the span of a request whose sender may be anybody: it is sampled if the sender's traceparent says so or,
// when there is none, by chance; but never more of them than MaxRate. The Span, which is never nil, may be one that is
// not recorded. End must be called.
func (t *Tracer) Serve(r *http.Request, start time.Time) *Span {
	parent, state := readParent(r.Header)
	sampled := parent.IsSampled()
	if state != parentGiven {
		sampled = rand.Float64() < t.ratio
	}
	if sampled && !t.limit.allow(start) {
		t.limited.Inc()
		sampled = false
	}
	if sampled {
		return t.serve(r, parent, state, start)
	}
	if state == parentGiven {
		return &Span{}
	}
	return &Span{parent: unsampled(), fresh: true}
}

// Continue begins the span of a request whose sender has sampled it, and is trusted to have kept a bound. End must be
// called.
func (t *Tracer) Continue(r *http.Request, start time.Time) *Span {
	parent, state := readParent(r.Header)
	return t.serve(r, parent, state, start)
}

func (t *Tracer) serve(r *http.Request, parent trace.SpanContext, state parentState, start time.Time) *Span {
	ctx := trace.ContextWithRemoteSpanContext(context.Background(), parent) // it carries the parent and nothing else
	method, other := knownMethod(r.Method)
	_, span := t.tracer.Start(ctx, spanName(method), trace.WithSpanKind(trace.SpanKindServer),
		trace.WithTimestamp(start), trace.WithAttributes(requestAttributes(r, method, other)...))
	return &Span{tracer: t.tracer, span: span, server: true, method: method, fresh: state != parentGiven}
}

// unsampled is a traceparent that nobody records.
func unsampled() string {
	var b [24]byte
	for i := range 3 {
		for n, j := rand.Uint64(), 0; j < 8; j++ {
			b[8*i+j] = byte(n >> (8 * j))
		}
	}
	b[0], b[16] = b[0]|1, b[16]|1 // neither may be 0
	text := [55]byte{52: '-', 53: '0', 54: '0'}
	text[0], text[1], text[2], text[35] = '0', '0', '-', '-'
	hex.Encode(text[3:], b[:16])
	hex.Encode(text[36:], b[16:])
	return string(text[:])
}
