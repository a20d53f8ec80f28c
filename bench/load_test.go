package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
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

// testHTTP is requests to the handler.
func testHTTP(t *testing.T, h http.HandlerFunc) HTTP {
	t.Helper()
	s := httptest.NewServer(h)
	t.Cleanup(s.Close)
	return HTTP{URL: s.URL, Endpoints: []string{"endpoint-0", "endpoint-1"}, Size: 100, ConnectTimeout: time.Second}
}

func mustRun(t *testing.T, l Load, target Target) *Result {
	t.Helper()
	if l.Timeout == 0 {
		l.Timeout = 10 * time.Second
	}
	r, err := l.Run(t.Context(), target, nil)
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func TestLoadSendsAsManyRequestsAsAskedFor(t *testing.T) {
	var requests atomic.Int64
	h := testHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		if e := r.Header.Get("x-piko-endpoint"); !strings.HasPrefix(e, "endpoint-") {
			t.Errorf("request is for endpoint %q", e)
		}
		echo(w, r)
	})
	r := mustRun(t, Load{Clients: 4, Requests: 200}, h.Target("it"))
	if requests.Load() != 200 || r.Requests != 200 || r.Failed != 0 {
		t.Errorf("%d requests arrived, %d are done and %d failed (%v), want 200, 200 and 0", requests.Load(), r.Requests, r.Failed, r.Errors)
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
		{"another place", "status 302", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "/elsewhere", http.StatusFound)
		}},
		{"another answer", "answer differs from the request", func(w http.ResponseWriter, r *http.Request) {
			io.WriteString(w, strings.Repeat("\x00", 100))
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
			h := testHTTP(t, tt.answer)
			if tt.name == "too much" {
				h.Size = 0 // no Content-Length that would keep the surplus back
			}
			r := mustRun(t, Load{Clients: 1, Requests: 3}, h.Target("it"))
			if r.Failed != 3 || r.Errors[tt.want] != 3 || r.Requests != 0 {
				t.Errorf("%d done, %d failed: %v; want 3 of %q", r.Requests, r.Failed, r.Errors, tt.want)
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
	nobody := HTTP{URL: "http://127.0.0.1:1", ConnectTimeout: time.Second}
	if r := mustRun(t, Load{Clients: 1, Requests: 1}, nobody.Target("")); r.Errors["connection refused"] != 1 {
		t.Errorf("nobody listens, and the failures are %v", r.Errors)
	}
}

// TestKindsOfFailuresAreBounded: an error's text may have anything in it.
func TestKindsOfFailuresAreBounded(t *testing.T) {
	var n atomic.Int64
	target := Target{Client: func() Client {
		return clientFunc(func(context.Context) error { return fmt.Errorf("error %d", n.Add(1)) })
	}}
	r := mustRun(t, Load{Clients: 2, Requests: 1000}, target)
	if len(r.Errors) != maxKinds+1 || r.Errors["other"] != 1000-maxKinds {
		t.Errorf("%d kinds, %d other", len(r.Errors), r.Errors["other"])
	}
}

func TestInterruptedLoadCountsWhatWasInFlightAsNothing(t *testing.T) {
	arrived := make(chan struct{})
	h := testHTTP(t, func(w http.ResponseWriter, r *http.Request) {
		io.Copy(io.Discard, r.Body)
		close(arrived)
		<-r.Context().Done()
	})
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-arrived
		cancel()
	}()
	r, err := Load{Clients: 1, Requests: 10, Timeout: time.Minute}.Run(ctx, h.Target(""), nil)
	if err != nil || r.Requests != 0 || r.Failed != 0 {
		t.Errorf("%+v, %v, want neither a request nor a failure", r, err)
	}
}

// clientFunc is a client without a connection.
type clientFunc func(context.Context) error

func (f clientFunc) Exchange(ctx context.Context) error { return f(ctx) }
func (clientFunc) Close()                               {}

// slow takes d for an exchange, in virtual time.
func slow(d time.Duration) Target {
	return Target{Client: func() Client {
		return clientFunc(func(context.Context) error {
			time.Sleep(d)
			return nil
		})
	}}
}

func TestOpenLoopKeepsItsRateAndCountsFromTheIntendedStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Load{Clients: 4, Requests: 100, Rate: 50}, slow(10*time.Millisecond))
		if want := (99*20*time.Millisecond + 10*time.Millisecond).Seconds(); r.Seconds != want {
			t.Errorf("100 requests at 50/s took %v s, want %v", r.Seconds, want)
		}
		if r.Latency.Max != 10 {
			t.Errorf("a request took %v ms at a rate that the server bears, want 10", r.Latency.Max)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		// One client at 20 ms each cannot keep up with 100/s: request i starts
		// at 20i ms instead of 10i, and that is the server's delay.
		r := mustRun(t, Load{Clients: 1, Requests: 100, Rate: 100}, slow(20*time.Millisecond))
		if want := 99*10.0 + 20; r.Latency.Max != want {
			t.Errorf("the last request took %v ms since it was to start, want %v", r.Latency.Max, want)
		}
	})
}

func TestDurationEndsTheLoad(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := mustRun(t, Load{Clients: 2, Duration: time.Second}, slow(10*time.Millisecond))
		if r.Seconds != 1 || r.Requests != 200 {
			t.Errorf("%d requests of 10 ms by 2 clients in %v s, want 200 in 1", r.Requests, r.Seconds)
		}
	})
}

// TestWarmupCountsForNothing: the first requests are slow, and nobody hears of it.
func TestWarmupCountsForNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := time.Now()
		target := Target{Client: func() Client {
			return clientFunc(func(context.Context) error {
				d := 10 * time.Millisecond
				if time.Since(begin) < time.Second {
					d = 100 * time.Millisecond
				}
				time.Sleep(d)
				return nil
			})
		}}
		r := mustRun(t, Load{Clients: 1, Requests: 10, Warmup: 2 * time.Second}, target)
		if r.Requests != 10 || r.Latency.Max != 10 {
			t.Errorf("%d requests, the slowest of %v ms, want 10 of 10", r.Requests, r.Latency.Max)
		}
		if d := time.Since(begin); d != 2*time.Second+100*time.Millisecond {
			t.Errorf("all took %v", d)
		}
	})
}

func TestProgress(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lines []string
		l := Load{Clients: 1, Requests: 400, Timeout: time.Minute}
		if _, err := l.Run(t.Context(), slow(7*time.Millisecond), func(p Progress) { lines = append(lines, p.String()) }); err != nil {
			t.Fatal(err)
		}
		if want := " 18 %  71 requests, 142/s, p99 7.00 ms, 0 failed"; len(lines) < 3 || lines[0] != want {
			t.Errorf("lines %q, want the first of at least 3 to be %q", lines, want)
		}
	})
	r := &run{load: Load{Duration: 10 * time.Second}}
	if got := r.progress(time.Second); got.Share != 0.1 {
		t.Errorf("after 1 of 10 s the share is %v", got.Share)
	}
}
