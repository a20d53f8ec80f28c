package tracing

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"piko/tracing/tracingtest"
)

const (
	traceID = "0af7651916cd43dd8448eb211c80319c"
	spanID  = "b7ad6b7169203331"
	given   = "00-" + traceID + "-" + spanID + "-01"
	ungiven = "00-" + traceID + "-" + spanID + "-00"
)

// newTracer is one that exports to c until the test calls stop, or ends.
func newTracer(t *testing.T, c *tracingtest.Collector, change func(*Options)) (tr *Tracer, stop func()) {
	t.Helper()
	opt := Options{URL: c.URL, Service: "test", Ratio: 1}
	if change != nil {
		change(&opt)
	}
	tr, err := New(opt)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var wg sync.WaitGroup
	wg.Go(func() { tr.Run(ctx) })
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return tr, stop
}

func request(parent ...string) *http.Request {
	r := httptest.NewRequest("GET", "http://my-endpoint.example.com:8000/a/b?token=secret", nil)
	r.Header.Set("Authorization", "Bearer secret")
	if len(parent) > 0 {
		r.Header[headerParent] = parent
	}
	return r
}

// A span goes on with what the client began, and who gets the request goes on with the span.
func TestTraceContinues(t *testing.T) {
	t.Parallel()
	c := tracingtest.Start(t)
	tr, stop := newTracer(t, c, func(o *Options) { o.Header = http.Header{"Authorization": {"Bearer collector"}} })
	r := request(given)
	r.Header["Tracestate"] = []string{"a=1", "b=2"}
	start := time.Now().Add(-time.Second)
	s := tr.Serve(r, start)
	s.Text(Endpoint, "my-endpoint")
	child := s.Child(time.Now())
	h := r.Header.Clone()
	child.Propagate(h)
	child.Status(404)
	child.End()
	s.Status(404)
	s.Int(BytesOut, 7)
	s.Duration(Queued, 1500*time.Millisecond)
	s.End()
	stop()

	spans := c.Spans()
	if len(spans) != 2 {
		t.Fatalf("%d spans were exported", len(spans))
	}
	out, whole := spans[0], spans[1]
	if whole.Trace != traceID || whole.Parent != spanID || whole.Kind != "SERVER" || whole.Name != "GET" || whole.State != "a=1,b=2" || whole.Service != "test" {
		t.Errorf("span of the request: %+v", whole)
	}
	if out.Trace != traceID || out.Parent != whole.ID || out.Kind != "CLIENT" {
		t.Errorf("span of what was sent on: %+v", out)
	}
	if got, want := h.Get(headerParent), "00-"+traceID+"-"+out.ID+"-01"; got != want {
		t.Errorf("traceparent %q was sent on, want %q", got, want)
	}
	if got := h[headerState]; len(got) != 2 {
		t.Errorf("tracestate was changed: %q", got)
	}
	for key, want := range map[string]string{
		"http.request.method": "GET", "url.path": "/a/b", "url.scheme": "http", "server.address": "my-endpoint.example.com", "server.port": "8000",
		"network.protocol.version": "1.1", "http.response.status_code": "404", "piko.endpoint": "my-endpoint",
		"http.response.body.size": "7", "piko.queue.duration": "1.5", "error.type": "",
	} {
		if got := whole.Attrs[key]; got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	if whole.Failed || !out.Failed || out.Attrs["error.type"] != "404" {
		t.Error("a 404 is a failure for who asks, and for nobody else")
	}
	if d := whole.End.Sub(whole.Start); d < time.Second {
		t.Errorf("the span took %v and not a second", d)
	}
	for _, s := range spans {
		for key, value := range s.Attrs {
			if strings.Contains(value, "secret") {
				t.Errorf("%s has a secret", key)
			}
		}
	}
	if got := c.Requests()[0].Header.Get("Authorization"); got != "Bearer collector" {
		t.Errorf("the collector got the header %q", got)
	}
}

// What is sampled, and what is sent on, by what comes.
func TestDecision(t *testing.T) {
	t.Parallel()
	const random = "00-x"
	for name, tt := range map[string]struct {
		parent  []string
		ratio   float64
		sampled bool
		sent    string // "00-x" is one of its own
		state   bool   // tracestate is sent on
	}{
		"none":              {nil, 0, false, random, false},
		"none, by chance":   {nil, 1, true, random, false},
		"sampled":           {[]string{given}, 0, true, "00-" + traceID, true},
		"not sampled":       {[]string{ungiven}, 1, false, ungiven, true},
		"later version":     {[]string{"cc-" + traceID + "-" + spanID + "-00-what-it-will-be"}, 1, false, "cc-" + traceID + "-" + spanID + "-00-what-it-will-be", true},
		"malformed":         {[]string{"00-zz"}, 1, true, random, false},
		"malformed, unseen": {[]string{"00-zz"}, 0, false, random, false},
		"version ff":        {[]string{"ff" + given[2:]}, 0, false, random, false},
		"zero trace":        {[]string{"00-00000000000000000000000000000000-" + spanID + "-01"}, 0, false, random, false},
		"zero parent":       {[]string{"00-" + traceID + "-0000000000000000-01"}, 0, false, random, false},
		"upper case":        {[]string{strings.ToUpper(given)}, 0, false, random, false},
		"two of them":       {[]string{given, given}, 0, false, random, false},
		"empty":             {[]string{""}, 0, false, random, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			tr, err := New(Options{URL: "http://127.0.0.1:1", Ratio: tt.ratio})
			if err != nil {
				t.Fatal(err)
			}
			r := request(tt.parent...)
			r.Header.Set(headerState, "a=1")
			s := tr.Serve(r, time.Now())
			defer s.End()
			if s.Recorded() != tt.sampled || (s.TraceID() != "") != tt.sampled {
				t.Errorf("sampled: %v", s.Recorded())
			}
			if child := s.Child(time.Now()); child.Recorded() != tt.sampled {
				t.Errorf("what is sent on is sampled: %v", child.Recorded())
			}
			s.Propagate(r.Header)
			sent := r.Header[headerParent]
			if len(sent) != 1 {
				t.Fatalf("sent on: %q", sent)
			}
			switch {
			case tt.sent == random:
				if sc, state := readParent(r.Header); state != parentGiven || sc.IsSampled() != tt.sampled || sc.TraceID().String() == traceID {
					t.Errorf("sent on: %q", sent)
				}
			case tt.sampled:
				if !strings.HasPrefix(sent[0], tt.sent) || sent[0] == given {
					t.Errorf("sent on: %q", sent)
				}
			case sent[0] != tt.sent:
				t.Errorf("sent on: %q, want what came", sent)
			}
			if got := r.Header[headerState] != nil; got != tt.state {
				t.Errorf("tracestate is sent on: %v", got)
			}
		})
	}
}

// A client that wants everything traced gets no more than the rate; what is beyond passes as it came.
func TestRateIsBounded(t *testing.T) {
	t.Parallel()
	reg := prometheus.NewRegistry()
	tr, err := New(Options{URL: "http://127.0.0.1:1", MaxRate: 10, Registerer: reg})
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	sampled := 0
	for range 50 {
		r := request(given)
		s := tr.Serve(r, now)
		if s.Recorded() {
			sampled++
			s.End()
			continue
		}
		s.Propagate(r.Header)
		if got := r.Header.Get(headerParent); got != given {
			t.Fatalf("beyond the rate %q was sent on", got)
		}
	}
	if sampled != 10 {
		t.Errorf("%d of 50 at once were sampled", sampled)
	}
	if s := tr.Serve(request(given), now.Add(100*time.Millisecond)); !s.Recorded() {
		t.Error("a tenth of a second later none is sampled")
	}
	if s := tr.Continue(request(given), now); !s.Recorded() {
		t.Error("the rate holds for what another node has sampled")
	}
	if got := testutil.ToFloat64(tr.limited); got != 40 {
		t.Errorf("%v requests were counted as limited", got)
	}
}

// Spans without number, nil ones and those that are not recorded, take everything.
func TestNoSpan(t *testing.T) {
	t.Parallel()
	for _, s := range []*Span{nil, {}} {
		s.Text("a", "b")
		s.Int("a", 1)
		s.Duration("a", 1)
		s.Status(500)
		s.Fail("x")
		s.Child(time.Now()).End()
		s.End()
		h := http.Header{}
		s.Propagate(h)
		if s.TraceID() != "" || s.Recorded() || len(h) != 0 {
			t.Errorf("%#v is a span", s)
		}
	}
}

// FuzzTraceparent: whatever comes, what is sent on is one valid traceparent, and a valid one is never lost.
func FuzzTraceparent(f *testing.F) {
	for _, s := range []string{given, ungiven, "", "00-", given + "-", "cc" + given[2:] + "-x", "ff" + given[2:], given[:54], given + "0", strings.ToUpper(given), "00-" + traceID + "-" + spanID + "-ff", ungiven[:54] + "2",
		"00-" + strings.Repeat("0", 32) + ungiven[35:], ungiven[:36] + strings.Repeat("0", 16) + "-00"} {
		f.Add(s, "a=1")
	}
	f.Add(given, strings.Repeat("a=1,", 2000))
	f.Add(given, "a=\xff")
	tr, err := New(Options{URL: "http://127.0.0.1:1", Ratio: 0.5})
	if err != nil {
		f.Fatal(err)
	}
	f.Fuzz(func(t *testing.T, parent, state string) {
		r := request(parent)
		r.Header[headerState] = []string{state}
		before, was := readParent(r.Header)
		if Unsampled([]byte(parent)) != (was == parentGiven && !before.IsSampled() && parent[:2] == "00") {
			t.Fatalf("Unsampled of %q: %v", parent, Unsampled([]byte(parent)))
		}
		s := tr.Serve(r, time.Now())
		s.Propagate(r.Header)
		after, is := readParent(r.Header)
		if is != parentGiven || len(r.Header[headerParent]) != 1 {
			t.Fatalf("%q is sent on for %q", r.Header[headerParent], parent)
		}
		if was == parentGiven && (after.TraceID() != before.TraceID() || r.Header[headerState][0] != state) {
			t.Fatalf("%q, %q are sent on for %q, %q", r.Header[headerParent], r.Header[headerState], parent, state)
		}
		if was != parentGiven && r.Header[headerState] != nil {
			t.Fatalf("a tracestate is sent on that belongs to no trace: %q", state)
		}
		s.End()
	})
}
