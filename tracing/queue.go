package tracing

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	sdk "go.opentelemetry.io/otel/sdk/trace"
)

const (
	// maxQueue is how many spans wait to be sent. One is 2 to 4 KB.
	maxQueue = 2048
	// maxBatch is how many are sent together, and batchTime how long the first of them waits for others.
	maxBatch  = 512
	batchTime = time.Second
	// flushTime is what sending the last ones may take.
	flushTime = 3 * time.Second
	// sayAgain is the time between two lines of the log about spans that cannot be sent.
	sayAgain = time.Minute
)

// queue holds the spans that have ended until run exports them. It stands where the SDK's own batch processor would, which
// does not say how many it drops.
type queue struct {
	// Static after construction.
	spans    chan sdk.ReadOnlySpan
	exporter *otlptrace.Exporter
	metrics  *metrics
	log      *slog.Logger

	// Owned by run.
	batch  []sdk.ReadOnlySpan
	said   time.Time // when a failure was logged last; zero: the last export went well
	silent int       // spans lost since then
}

func newQueue(e *otlptrace.Exporter, m *metrics, log *slog.Logger) *queue {
	return &queue{spans: make(chan sdk.ReadOnlySpan, maxQueue), exporter: e, metrics: m, log: log}
}

// OnStart implements sdk.SpanProcessor.
func (q *queue) OnStart(context.Context, sdk.ReadWriteSpan) {}

// OnEnd implements sdk.SpanProcessor: it never waits.
func (q *queue) OnEnd(s sdk.ReadOnlySpan) {
	select {
	case q.spans <- s:
	default:
		q.metrics.full.Inc()
	}
}

// Shutdown implements sdk.SpanProcessor; run ends with its context.
func (q *queue) Shutdown(context.Context) error { return nil }

// ForceFlush implements sdk.SpanProcessor; nobody asks.
func (q *queue) ForceFlush(context.Context) error { return nil }

// run exports until ctx ends, and then what is left.
func (q *queue) run(ctx context.Context) {
	_ = q.exporter.Start(ctx)
	for q.collect(ctx) {
		q.export(ctx)
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), flushTime)
	defer cancel()
	for q.rest() {
		q.export(last)
	}
	_ = q.exporter.Shutdown(last)
}

// collect waits for the next batch; false is that ctx has ended.
func (q *queue) collect(ctx context.Context) bool {
	select {
	case s := <-q.spans:
		q.batch = append(q.batch, s)
	case <-ctx.Done():
		return false
	}
	timer := time.NewTimer(batchTime)
	defer timer.Stop()
	for len(q.batch) < maxBatch {
		select {
		case s := <-q.spans:
			q.batch = append(q.batch, s)
		case <-timer.C:
			return true
		case <-ctx.Done():
			return false
		}
	}
	return true
}

// rest takes what is there, and reports whether that is anything.
func (q *queue) rest() bool {
	for len(q.batch) < maxBatch {
		select {
		case s := <-q.spans:
			q.batch = append(q.batch, s)
			continue
		default:
		}
		break
	}
	return len(q.batch) > 0
}

// export sends the batch. What cannot be sent, after some attempts, is lost.
func (q *queue) export(ctx context.Context) {
	n := len(q.batch)
	err := q.exporter.ExportSpans(ctx, q.batch)
	clear(q.batch)
	q.batch = q.batch[:0]
	if err == nil {
		q.metrics.exported.Add(float64(n))
		if !q.said.IsZero() {
			q.log.Info("spans are exported again", "lost", q.silent)
		}
		q.said, q.silent = time.Time{}, 0
		return
	}
	q.metrics.failed.Add(float64(n))
	q.silent += n
	if now := time.Now(); now.Sub(q.said) >= sayAgain {
		q.log.Warn("spans could not be exported", "error", err, "lost", q.silent)
		q.said, q.silent = now, 0
	}
}
