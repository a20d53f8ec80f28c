package admin

import (
	"encoding/json"
	"errors"
	"io"
	"iter"
	"maps"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// testServer has all that a node has to show.
func testServer() *Server {
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "piko_test_total"})
	reg.MustRegister(c)
	c.Add(42)
	return &Server{
		Gatherer:  reg,
		Endpoints: func() iter.Seq2[string, int] { return maps.All(map[string]int{"one": 1, "two": 2}) },
	}
}

// local is a request as one of this machine makes it.
func local(method, target string) *http.Request {
	r := httptest.NewRequest(method, target, nil)
	r.RemoteAddr, r.Host = "127.0.0.1:50000", "localhost:8002"
	return r
}

func do(h http.Handler, r *http.Request) *httptest.ResponseRecorder {
	rec := httptest.NewRecorder()
	h.ServeHTTP(rec, r)
	return rec
}

func TestRoutes(t *testing.T) {
	tests := []struct {
		method, path string
		status       int
		allow        string
		body         string // a part of it
	}{
		{"GET", "/health", 200, "", ""},
		{"HEAD", "/health", 200, "", ""},
		{"POST", "/health", 405, "GET, HEAD", `"code":"method-not-allowed"`},
		{"GET", "/ready", 200, "", ""},
		{"GET", "/metrics", 200, "", "piko_test_total 42"},
		{"POST", "/metrics", 405, "GET, HEAD", `"code":"method-not-allowed"`},
		{"GET", "/status/upstream/endpoints", 200, "", `{"one":1,"two":2}`},
		{"DELETE", "/status/upstream/endpoints", 405, "GET, HEAD", `"code":"method-not-allowed"`},
		{"GET", "/status/upstream/endpoints/", 404, "", `{"error":"not found","code":"not-found"}`},
		{"GET", "/status", 404, "", `"code":"not-found"`},
		{"GET", "/", 404, "", `"code":"not-found"`},
		{"GET", "/healthy", 404, "", `"code":"not-found"`},
		{"GET", "/debug/pprof/", 200, "", "goroutine"},
		{"GET", "/debug/pprof/goroutine?debug=1", 200, "", "goroutine profile"},
		{"GET", "/debug/pprof/heap", 200, "", ""},
		{"GET", "/debug/pprof/symbol", 200, "", "num_symbols: 1"},
		{"POST", "/debug/pprof/symbol", 200, "", "num_symbols: 1"},
		{"POST", "/debug/pprof/heap", 405, "GET", `"code":"method-not-allowed"`},
		{"GET", "/debug/pprof/cmdline", 404, "", `"code":"not-found"`},
		{"GET", "/debug/pprof/other", 404, "", `"code":"not-found"`},
	}
	h := testServer().Handler()
	for _, tt := range tests {
		t.Run(tt.method+" "+tt.path, func(t *testing.T) {
			rec := do(h, local(tt.method, tt.path))
			if rec.Code != tt.status || !strings.Contains(rec.Body.String(), tt.body) {
				t.Errorf("got %d %.200q, want %d %q", rec.Code, rec.Body, tt.status, tt.body)
			}
			if got := strings.Join(rec.Header().Values("Allow"), ", "); got != tt.allow {
				t.Errorf("Allow: got %q, want %q", got, tt.allow)
			}
		})
	}
}

func TestProbes(t *testing.T) {
	var healthy, ready atomic.Bool
	h := (&Server{Healthy: healthy.Load, Ready: ready.Load}).Handler()
	check := func(path string, want int) {
		t.Helper()
		if rec := do(h, local("GET", path)); rec.Code != want || rec.Body.Len() > 0 {
			t.Errorf("%s: got %d %q, want %d without a body", path, rec.Code, rec.Body, want)
		}
	}
	check("/health", 503)
	check("/ready", 503)
	healthy.Store(true)
	check("/health", 200)
	check("/ready", 503)
	ready.Store(true)
	check("/ready", 200)
}

func TestZeroServer(t *testing.T) {
	h := (&Server{}).Handler()
	for path, want := range map[string]string{"/health": "", "/ready": "", "/status/upstream/endpoints": "{}\n"} {
		if rec := do(h, local("GET", path)); rec.Code != 200 || rec.Body.String() != want {
			t.Errorf("%s: %d %q", path, rec.Code, rec.Body)
		}
	}
	if rec := do(h, local("GET", "/metrics")); rec.Code != 404 {
		t.Errorf("metrics of nobody: %d", rec.Code)
	}
}

// TestPprofIsLocal: a profile shows the process's memory.
func TestPprofIsLocal(t *testing.T) {
	tests := []struct {
		name   string
		remote string
		host   string
		header http.Header
		want   int
	}{
		{"this machine", "127.0.0.1:1", "127.0.0.1:8002", nil, 200},
		{"this machine by name", "127.0.0.1:1", "localhost:8002", nil, 200},
		{"this machine by its IPv6 address", "[::1]:1", "[::1]:8002", nil, 200},
		{"an IPv4 address on an IPv6 socket", "[::ffff:127.0.0.1]:1", "localhost", nil, 200},
		{"another machine", "192.0.2.1:1", "localhost:8002", nil, 403},
		{"another machine over IPv6", "[2001:db8::1]:1", "localhost:8002", nil, 403},
		{"an address that is none", "@", "localhost:8002", nil, 403},
		{"a proxy on this machine", "127.0.0.1:1", "localhost", http.Header{"X-Forwarded-For": {"127.0.0.1"}}, 403},
		{"a proxy that is polite", "127.0.0.1:1", "localhost", http.Header{"Forwarded": {"for=127.0.0.1"}}, 403},
		{"a page whose name points here", "127.0.0.1:1", "evil.example.com:8002", nil, 403},
		{"a page whose name looks like it", "127.0.0.1:1", "localhost.evil.example.com", nil, 403},
		{"an empty host", "127.0.0.1:1", "", nil, 403},
	}
	h := testServer().Handler()
	for _, tt := range tests {
		for _, path := range []string{"/debug/pprof/", "/debug/pprof/heap", "/debug/pprof/symbol", "/debug/pprof/goroutine"} {
			r := local("GET", path)
			r.RemoteAddr, r.Host = tt.remote, tt.host
			maps.Copy(r.Header, tt.header)
			if rec := do(h, r); rec.Code != tt.want {
				t.Errorf("%s: %s: got %d, want %d", tt.name, path, rec.Code, tt.want)
			}
		}
	}
	r := local("POST", "/debug/pprof/symbol")
	r.RemoteAddr = "192.0.2.1:1"
	if rec := do(h, r); rec.Code != 403 || !strings.Contains(rec.Body.String(), "loopback") {
		t.Errorf("POST from afar: %d %s", rec.Code, rec.Body)
	}
}

// FuzzFromLoopback: the host and the headers are the client's; from afar none
// of them helps.
func FuzzFromLoopback(f *testing.F) {
	for _, host := range []string{"localhost", "[::1]:80", "127.0.0.1", "a:b:c", "[", ".", "127.0.0.1.example.com"} {
		f.Add(host, "192.0.2.1:1")
	}
	f.Fuzz(func(t *testing.T, host, remote string) {
		r := local("GET", "/")
		r.Host, r.RemoteAddr = host, "192.0.2.1:1"
		if fromLoopback(r) {
			t.Errorf("host %q made a stranger local", host)
		}
		r.Host, r.RemoteAddr = "example.com", remote
		if fromLoopback(r) {
			t.Errorf("a foreign host is local for peer %q", remote)
		}
	})
}

// broken is a collector that cannot say anything.
type broken struct{}

func (broken) Describe(c chan<- *prometheus.Desc) { c <- brokenDesc }
func (broken) Collect(c chan<- prometheus.Metric) {
	c <- prometheus.NewInvalidMetric(brokenDesc, errors.New("broken"))
}

var brokenDesc = prometheus.NewDesc("piko_broken", "Cannot be gathered.", nil, nil)

func TestMetricsOfABrokenCollector(t *testing.T) {
	s := testServer()
	reg := prometheus.NewRegistry()
	reg.MustRegister(broken{})
	s.Gatherer = prometheus.Gatherers{s.Gatherer, reg}
	rec := do(s.Handler(), local("GET", "/metrics"))
	if rec.Code != 200 || !strings.Contains(rec.Body.String(), "piko_test_total 42") {
		t.Errorf("got %d %q, want what could be gathered", rec.Code, rec.Body)
	}
}

// TestOverTheNetwork is the handler as main serves it.
func TestOverTheNetwork(t *testing.T) {
	srv := httptest.NewServer(testServer().Handler())
	defer srv.Close()
	defer srv.Client().CloseIdleConnections()
	res, err := srv.Client().Get(srv.URL + "/status/upstream/endpoints")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	var got map[string]int
	if err != nil || json.Unmarshal(body, &got) != nil || got["two"] != 2 {
		t.Errorf("got %s, %v", body, err)
	}
	for name, want := range map[string]string{"Content-Type": "application/json; charset=utf-8", "Cache-Control": "no-store"} {
		if res.Header.Get(name) != want {
			t.Errorf("%s is %q", name, res.Header.Get(name))
		}
	}
}
