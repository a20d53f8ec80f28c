package tracing

import (
	"bytes"
	"context"
	"log/slog"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	tracepb "go.opentelemetry.io/proto/otlp/trace/v1"

	"piko/tracing/tracingtest"
)

// A collector that does not answer holds nobody up: what the queue has no room for is counted, and the end comes in time.
func TestCollectorHangs(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		m := newMetrics()
		hang := hanging{entered: make(chan struct{}, 1)}
		q := newQueue(otlptrace.NewUnstarted(&hang), m, slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.run(ctx) }()
		tr := tracerTo(q)
		tr.Serve(request(), time.Now()).End()
		<-hang.entered
		for range maxQueue + 10 {
			tr.Serve(request(), time.Now()).End()
		}
		if got := testutil.ToFloat64(m.full); got != 10 {
			t.Errorf("%v spans were counted as dropped", got)
		}
		begin := time.Now()
		cancel()
		<-done
		if took := time.Since(begin); took > flushTime {
			t.Errorf("the end took %v", took)
		}
		if got := testutil.ToFloat64(m.failed); got != 1+maxQueue {
			t.Errorf("%v spans were counted as not sent", got)
		}
		if n := strings.Count(log.String(), "\n"); n != 1 {
			t.Errorf("%d lines in the log: %s", n, log.String())
		}
	})
}

// A collector that is down is worth a line a minute, and one when it is back.
func TestFailuresAreLoggedSeldom(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		var down atomic.Bool
		down.Store(true)
		q := newQueue(otlptrace.NewUnstarted(&failing{&down}), newMetrics(), slog.New(slog.NewTextHandler(&log, nil)))
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan struct{})
		go func() { defer close(done); q.run(ctx) }()
		tr := tracerTo(q)
		for range 90 {
			tr.Serve(request(), time.Now()).End()
			<-time.After(batchTime)
		}
		<-time.After(batchTime)
		synctest.Wait()
		if n := strings.Count(log.String(), "could not be exported"); n != 2 {
			t.Errorf("%d lines in 90 s:\n%s", n, log.String())
		}
		down.Store(false)
		tr.Serve(request(), time.Now()).End()
		<-time.After(2 * batchTime)
		synctest.Wait()
		if n := strings.Count(log.String(), "exported again"); n != 1 {
			t.Errorf("%d lines about its return:\n%s", n, log.String())
		}
		cancel()
		<-done
	})
}

// tracerTo makes spans that end up in the queue.
func tracerTo(q *queue) *Tracer {
	return &Tracer{tracer: provider(q, &Options{}).Tracer(scope), ratio: 1, limit: newLimiter(0, time.Now()), limited: q.metrics.limited, queue: q}
}

type hanging struct{ entered chan struct{} }

func (*hanging) Start(context.Context) error { return nil }
func (*hanging) Stop(context.Context) error  { return nil }

func (h *hanging) UploadTraces(ctx context.Context, _ []*tracepb.ResourceSpans) error {
	select {
	case h.entered <- struct{}{}:
	default:
	}
	<-ctx.Done()
	return ctx.Err()
}

type failing struct{ down *atomic.Bool }

func (*failing) Start(context.Context) error { return nil }
func (*failing) Stop(context.Context) error  { return nil }

func (f *failing) UploadTraces(context.Context, []*tracepb.ResourceSpans) error {
	if f.down.Load() {
		return context.DeadlineExceeded
	}
	return nil
}

// What a collector answers decides whether spans are sent again.
func TestAnswers(t *testing.T) {
	t.Parallel()
	for name, tt := range map[string]struct {
		first            int // status of the first answer
		body             []byte
		exported         int
		failed, rejected float64
	}{
		"taken":         {first: 200, exported: 1},
		"busy, then ok": {first: 503, exported: 1},
		"bad request":   {first: 400, failed: 1},
		"moved":         {first: 302, failed: 1},
		"some rejected": {first: 200, body: []byte{0x0a, 0x02, 0x08, 0x01}, exported: 1, rejected: 1},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := tracingtest.Start(t)
			var n atomic.Int32
			c.Answer(func(w http.ResponseWriter) bool {
				if n.Add(1) > 1 || tt.first == 200 {
					_, _ = w.Write(tt.body)
					return true
				}
				w.Header().Set("Location", "/v1/traces")
				w.WriteHeader(tt.first)
				return false
			})
			m := newMetrics()
			cl, err := newClient(&Options{URL: c.URL}, m)
			if err != nil {
				t.Fatal(err)
			}
			q := newQueue(otlptrace.NewUnstarted(cl), m, slog.New(slog.DiscardHandler))
			tracerTo(q).Serve(request(), time.Now()).End()
			q.rest()
			q.export(t.Context())
			_ = cl.Stop(t.Context())
			if got := len(c.Spans()); got != tt.exported {
				t.Errorf("%d spans were taken", got)
			}
			if got := testutil.ToFloat64(m.failed); got != tt.failed {
				t.Errorf("%v spans were counted as not sent", got)
			}
			if got := testutil.ToFloat64(m.rejected); got != tt.rejected {
				t.Errorf("%v spans were counted as rejected", got)
			}
		})
	}
}

// Where spans go is by the URL's path.
func TestURL(t *testing.T) {
	t.Parallel()
	for from, want := range map[string]string{
		"http://c:4318":            "http://c:4318/v1/traces",
		"http://c:4318/":           "http://c:4318/v1/traces",
		"https://c/otlp/v1/traces": "https://c/otlp/v1/traces",
		"ftp://c":                  "",
		"http://":                  "",
		"http://%zz":               "",
	} {
		c, err := newClient(&Options{URL: from}, newMetrics())
		switch {
		case err != nil && want != "", err == nil && c.url != want:
			t.Errorf("%s: %v, %v", from, c, err)
		}
	}
}

// FuzzRejected: no answer of a collector confuses.
func FuzzRejected(f *testing.F) {
	f.Add([]byte{0x0a, 0x02, 0x08, 0x01})
	f.Add([]byte{0x0a, 0x0a, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Add([]byte{0x12, 0x00, 0x0a})
	f.Fuzz(func(t *testing.T, b []byte) {
		if n := rejected(b); n < 0 || n > 1<<31 {
			t.Errorf("%d spans", n)
		}
	})
}
