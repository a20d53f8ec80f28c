package proxy

import (
	"context"
	"fmt"
	"io"
	"math"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/stats"
)

// accounted is an upstream that keeps account of its failures.
type accounted struct {
	upstream
	mu    sync.Mutex
	codes []fault.Code
}

func (a *accounted) NoteFailure(code fault.Code, _ string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.codes = append(a.codes, code)
}

// TestTrafficIsCounted: which requests an endpoint has failed, and what is said
// of it to the upstream.
func TestTrafficIsCounted(t *testing.T) {
	traffic := stats.New()
	w := newWorld(t, func(o *Options) { o.Traffic = traffic })
	w.serve("e", func(w http.ResponseWriter, r *http.Request) {
		switch r.URL.Path {
		case "/500":
			w.WriteHeader(500)
		case "/404":
			w.WriteHeader(404)
		case "/half":
			w.Header().Set("Content-Length", "10")
			io.WriteString(w, "half")
			http.NewResponseController(w).Flush()
			panic(http.ErrAbortHandler)
		}
	})
	down := &accounted{upstream: upstream{&relay.Pool{Dial: noDial}}}
	t.Cleanup(w.table.Add("down", router.NewLocal(down)))
	for _, tt := range []struct{ endpoint, path string }{
		{"e", "/"}, {"e", "/404"}, {"e", "/500"}, {"e", "/half"}, {"down", "/"}, {"nobody", "/"},
	} {
		w.talk(fmt.Sprintf("GET %s HTTP/1.1\r\nHost: %s.x\r\nConnection: close\r\n\r\n", tt.path, tt.endpoint))
	}
	for endpoint, want := range map[string]string{
		"e":      "[broken-off 200 upstream-1][ 500 upstream-1]",
		"down":   "[upstream-unreachable 502 upstream-1]",
		"nobody": "",
	} {
		eventually(t, func() error {
			var got strings.Builder
			d := traffic.Endpoint(endpoint, time.Now())
			for _, f := range d.Failures {
				got.WriteString(fmt.Sprintf("[%s %d %s]", f.Code, f.Status, f.Upstream))
			}
			if got.String() != want || d.Load.InFlight != 0 {
				return fmt.Errorf("%s: got %s, want %s; %d in flight", endpoint, got.String(), want, d.Load.InFlight)
			}
			return nil
		})
	}
	if l := traffic.Node(time.Now()); math.Abs(l.RequestsPerSecond*4-l.ErrorsPerSecond*6) > 1e-6 || l.RequestsPerSecond == 0 {
		t.Errorf("the node: %+v, want 6 requests of which 4 failed", l)
	}
	if len(down.codes) == 0 || down.codes[0] != fault.UpstreamUnreachable {
		t.Errorf("the upstream was told %v", down.codes)
	}
}

// TestFailuresSayWhy: what an operator is told of a failure, with and without a hop.
func TestFailuresSayWhy(t *testing.T) { theseWays(t, testFailuresSayWhy, noHop, oneOwner) }

func testFailuresSayWhy(t *testing.T, newWorld worldMaker) {
	traffic := stats.New()
	w := newWorld(t, func(o *Options) { o.Traffic = traffic })
	w.serve("ill", func(w http.ResponseWriter, r *http.Request) { w.WriteHeader(500) })
	w.add("silent", func(context.Context) (net.Conn, error) {
		a, b := net.Pipe()
		go func() {
			_, _ = b.Read(make([]byte, 1<<10))
			b.Close()
		}()
		return a, nil
	})
	w.add("away", noDial)
	silent := "read response: "
	if len(w.owners) > 0 {
		silent = "read response: none, says node owner-1: read response: "
	}
	for endpoint, want := range map[string]string{
		"ill":    "the service answered 500 Internal Server Error",
		"silent": silent,
		"away":   errDial.Error(),
	} {
		w.talk("POST / HTTP/1.1\r\nHost: " + endpoint + ".x\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
		eventually(t, func() error {
			failures := traffic.Endpoint(endpoint, time.Now()).Failures
			if len(failures) == 0 || !strings.Contains(failures[0].Detail, want) {
				return fmt.Errorf("%s: got %+v, want %q", endpoint, failures, want)
			}
			return nil
		})
	}
}

func TestReasonTextIsBounded(t *testing.T) {
	for s, want := range map[string]string{
		"": "", "dial tcp: refused": "dial tcp: refused", "a\r\nX: b\x00\x7f\u00fc": "a??X: b???", strings.Repeat("x", 1000): strings.Repeat("x", maxReason),
	} {
		if got := reasonText(s); got != want {
			t.Errorf("%q: %q, want %q", s, got, want)
		}
	}
}
