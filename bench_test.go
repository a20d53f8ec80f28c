package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"piko/fault"
)

// testLoad is a load on the handler.
func testLoad(t *testing.T, h http.HandlerFunc) *load {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	l := &load{
		client: &http.Client{Transport: loadTransport(4, time.Second)}, url: s.URL,
		endpoints: []string{"endpoint-0", "endpoint-1"}, size: 100, timeout: 10 * time.Second,
	}
	t.Cleanup(l.client.CloseIdleConnections)
	return l
}

func TestLoadSendsAsManyRequestsAsAskedFor(t *testing.T) {
	var requests atomic.Int64
	l := testLoad(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if e := r.Header.Get("x-piko-endpoint"); !strings.HasPrefix(e, "endpoint-") {
			t.Errorf("request is for endpoint %q", e)
		}
		echo(w, r)
	})
	l.requests = 200
	l.run(t.Context(), 4)
	if requests.Load() != 200 || l.hist.count() != 200 || l.failed != 0 {
		t.Errorf("%d requests arrived, %d are done and %d failed (%v), want 200, 200 and 0", requests.Load(), l.hist.count(), l.failed, l.failures)
	}
}

func TestLoadCountsFailuresByKind(t *testing.T) {
	for _, tt := range []struct {
		name, want string
		answer     http.HandlerFunc
	}{
		{"error of ours", "status 502 no-upstream", func(w http.ResponseWriter, r *http.Request) {
			fault.Write(w, r, fault.New(fault.NoUpstream, nil))
		}},
		{"error of somebody else", "status 503", func(w http.ResponseWriter, r *http.Request) {
			http.Error(w, "busy", http.StatusServiceUnavailable)
		}},
		{"another answer", "answer differs from the request", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("x", 100))
		}},
		{"too much", "answer differs from the request", func(w http.ResponseWriter, r *http.Request) {
			echo(w, r)
			io.WriteString(w, "x")
		}},
		{"too little, as if complete", "answer ended early, as if it were complete", func(w http.ResponseWriter, r *http.Request) {
			io.CopyN(w, r.Body, 50)
		}},
		{"cut in the answer", "connection closed in the answer", func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Length", "100")
			io.CopyN(w, r.Body, 50)
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}},
		{"closed before the answer", "connection closed before the answer", func(w http.ResponseWriter, r *http.Request) {
			io.Copy(io.Discard, r.Body)
			panic(http.ErrAbortHandler)
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			l := testLoad(t, tt.answer)
			l.requests = 3
			if tt.name == "too much" {
				l.size = 0 // no Content-Length that would keep the surplus back
			}
			l.run(t.Context(), 1)
			if l.failed != 3 || l.failures[tt.want] != 3 || l.hist.count() != 0 {
				t.Errorf("%d done, %d failed: %v; want 3 of %q", l.hist.count(), l.failed, l.failures, tt.want)
			}
			if err := l.verdict(t.Context()); err == nil {
				t.Error("failed requests are no failure of the benchmark")
			}
		})
	}
}

func TestErrorKindOfErrorsThatAreRareInTests(t *testing.T) {
	for _, tt := range []struct {
		err  error
		want string
	}{
		{context.DeadlineExceeded, "timeout"},
		{fmt.Errorf("read: %w", os.ErrDeadlineExceeded), "timeout"},
		{&net.OpError{Op: "dial", Err: &net.DNSError{Name: "nowhere.test"}}, "cannot dial"},
		{errors.New("something else"), "something else"},
	} {
		if got := errorKind(tt.err); got != tt.want {
			t.Errorf("kind of %q is %q, want %q", tt.err, got, tt.want)
		}
	}
	refused := &load{client: &http.Client{}, url: "http://127.0.0.1:1", timeout: time.Second, endpoints: []string{"a"}, requests: 1}
	refused.run(t.Context(), 1)
	if refused.failures["connection refused"] != 1 {
		t.Errorf("nobody listens, and the failures are %v", refused.failures)
	}
}

func TestInterruptedLoadCountsWhatWasInFlightAsNothing(t *testing.T) {
	arrived := make(chan struct{})
	l := testLoad(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	})
	l.requests = 10
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-arrived
		cancel(errSignal{os.Interrupt})
	}()
	l.run(ctx, 1)
	if l.hist.count() != 0 || l.failed != 0 {
		t.Errorf("%d done and %d failed (%v), want neither", l.hist.count(), l.failed, l.failures)
	}
	if err := l.verdict(ctx); err == nil || !strings.Contains(err.Error(), "interrupt") {
		t.Errorf("verdict is %v, want that it was interrupted", err)
	}
}

// roundTripFunc is a transport without a network, for virtual time.
type roundTripFunc func(*http.Request) *http.Response

func (f roundTripFunc) RoundTrip(r *http.Request) (*http.Response, error) { return f(r), nil }

func slowEcho(d time.Duration) *http.Client {
	return &http.Client{Transport: roundTripFunc(func(r *http.Request) *http.Response {
		time.Sleep(d)
		return &http.Response{StatusCode: http.StatusOK, Body: r.Body, Header: http.Header{}}
	})}
}

func TestOpenLoopKeepsItsRateAndCountsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{client: slowEcho(10 * time.Millisecond), endpoints: []string{"a"}, requests: 100, rate: 50, timeout: time.Minute}
		took := l.run(t.Context(), 4)
		if want := 99*20*time.Millisecond + 10*time.Millisecond; took != want {
			t.Errorf("100 requests at 50/s took %v, want %v", took, want)
		}
		if got := l.hist.longest(); got != 10*time.Millisecond {
			t.Errorf("a request took %v at a rate that the server bears, want 10ms", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// One worker at 20 ms each cannot keep up with 100/s: request i starts
		// at 20i ms instead of 10i, and that is the server's delay.
		l := &load{client: slowEcho(20 * time.Millisecond), endpoints: []string{"a"}, requests: 100, rate: 100, timeout: time.Minute}
		l.run(t.Context(), 1)
		if got, want := l.hist.longest(), 99*10*time.Millisecond+20*time.Millisecond; got != want {
			t.Errorf("the last request took %v since it was to start, want %v", got, want)
		}
	})
}

func TestDurationEndsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &load{client: slowEcho(10 * time.Millisecond), endpoints: []string{"a"}, duration: time.Second, timeout: time.Minute}
		took := l.run(t.Context(), 2)
		if took != time.Second || l.hist.count() != 200 {
			t.Errorf("%d requests of 10 ms by 2 workers in %v, want 200 in 1s", l.hist.count(), took)
		}
	})
}

func TestBenchFlagsAreChecked(t *testing.T) {
	good := benchHTTPCmd{Requests: 1, Clients: 1, Endpoints: 1, Upstreams: 1, Timeout: 1, Connect: benchConnect{Timeout: 1}}
	if err := good.Validate(); err != nil {
		t.Errorf("good flags are refused: %v", err)
	}
	for name, spoil := range map[string]func(*benchHTTPCmd){
		"--requests":  func(c *benchHTTPCmd) { c.Requests = 0 },
		"--clients":   func(c *benchHTTPCmd) { c.Clients = -1 },
		"--endpoints": func(c *benchHTTPCmd) { c.Endpoints = 0 },
		"--size":      func(c *benchHTTPCmd) { c.Size = -1 },
		"--duration":  func(c *benchHTTPCmd) { c.Duration = -1 },
		"--rate":      func(c *benchHTTPCmd) { c.Rate = -1 },
		"--timeout":   func(c *benchHTTPCmd) { c.Timeout = 0 },
		"--upstreams": func(c *benchHTTPCmd) { c.Endpoints = 2 },
	} {
		c := good
		spoil(&c)
		if err := c.Validate(); err == nil || !strings.Contains(err.Error(), name) {
			t.Errorf("bad %s: error %v, want one that names it", name, err)
		}
	}
}

func TestBenchResultAsTextAndJSON(t *testing.T) {
	c := &benchHTTPCmd{Clients: 2, Endpoints: 3, Upstreams: 4, Size: 1000, Rate: 60}
	l := &load{failed: 3, failures: map[string]int64{"timeout": 1, "status 502 no-upstream": 2}}
	for range 100 {
		l.hist.add(time.Millisecond)
	}
	r := c.result(l, 2*time.Second)
	var text, asJSON bytes.Buffer
	if err := r.write(&text, false); err != nil {
		t.Fatal(err)
	}
	want := `Requests    100 in 2.00 s; 2 clients, 3 endpoints, 4 upstreams, 1000 bytes each way
Throughput  50.0 requests/s of 60.0 asked for, 0.05 MB/s each way
Latency     p50 1.00 ms, p90 1.00 ms, p99 1.00 ms, p99.9 1.00 ms, max 1.00 ms, mean 1.00 ms
Errors      3
            2  status 502 no-upstream
            1  timeout
`
	if text.String() != want {
		t.Errorf("result is\n%s\nwant\n%s", &text, want)
	}
	if err := r.write(&asJSON, true); err != nil {
		t.Fatal(err)
	}
	var back benchResult
	if err := json.Unmarshal(asJSON.Bytes(), &back); err != nil || back.Requests != 100 || back.Failed != 3 || back.Latency.P999 != 1 {
		t.Errorf("JSON %s reads back as %+v, error %v", &asJSON, back, err)
	}
}

func TestProgressLineIsForTerminalsOnly(t *testing.T) {
	if isTerminal(new(bytes.Buffer)) {
		t.Error("a buffer is a terminal")
	}
	f, err := os.CreateTemp(t.TempDir(), "")
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if isTerminal(f) {
		t.Error("a file is a terminal")
	}
	l := &load{requests: 400, failed: 2}
	l.hist.add(time.Millisecond)
	if got, want := l.progressLine(100, 50, time.Second), " 25 %  100 requests, 50/s, p99 1.00 ms, 2 failed"; got != want {
		t.Errorf("line is %q, want %q", got, want)
	}
	l = &load{duration: 10 * time.Second}
	if got, want := l.progressLine(7, 7, time.Second), " 10 %  7 requests, 7/s, p99 0.00 ms, 0 failed"; got != want {
		t.Errorf("line is %q, want %q", got, want)
	}
}

func TestBenchMeasuresANode(t *testing.T) {
	cfg := loopbackServerConfig()
	node, err := newServer(cfg, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- node.Run(ctx) }()
	bench := func(flags ...string) (status int, out string) {
		var stdout bytes.Buffer
		args := append([]string{"bench", "http", "--requests", "200", "--clients", "4", "--endpoints", "3", "--upstreams", "5",
			"--connect.proxy-url", "http://" + node.ProxyAddr().String(), "--connect.upstream-url", "http://" + node.UpstreamAddr().String()}, flags...)
		status = run(args, demoProcess(t.Context(), &stdout, nil))
		return status, stdout.String()
	}
	for _, size := range []string{"0", "13", "100000"} {
		status, out := bench("--json", "--size", size)
		var r benchResult
		if err := json.Unmarshal([]byte(out), &r); err != nil || status != exitOK || r.Requests != 200 || r.Failed != 0 {
			t.Errorf("bench of %s bytes: status %d, error %v, result %s", size, status, err, out)
		}
	}
	if status, out := bench("--connect.proxy-url", "http://"+node.AdminAddr().String(), "--connect.timeout", "100ms"); status != exitFailure || out != "" {
		t.Errorf("bench with a wrong proxy URL: status %d, result %q, want a failure and none", status, out)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("node: %v", err)
	}
	if status, _ := bench("--connect.timeout", "100ms"); status != exitFailure {
		t.Errorf("bench without a server: status %d, want %d", status, exitFailure)
	}
}
