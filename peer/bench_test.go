package peer

import (
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
)

// BenchmarkRoundTrip is a GET of 13 bytes across a link, both nodes in this
// process; cpu-ns/op is what both use for it.
func BenchmarkRoundTrip(b *testing.B) {
	for _, c := range []struct {
		name    string
		secure  bool
		callers int
	}{{"plain-1", false, 1}, {"plain-64", false, 64}, {"secure-1", true, 1}, {"secure-64", true, 64}, {"plain-256", false, 256}} {
		b.Run(c.name, func(b *testing.B) {
			var g gossip
			near := g.start(b, "a", c.secure, nil)
			far := g.start(b, "b", c.secure, func(w http.ResponseWriter, r *http.Request) {
				w.Header()["Content-Length"] = []string{"13"}
				io.WriteString(w, "Hello, World!")
			})
			l, _ := connect(b, near, far)
			load(b, c.callers, l)
			sessions, _ := l.Stats()
			b.ReportMetric(float64(sessions), "sessions")
		})
	}
}

// load makes b.N requests by several callers.
func load(b *testing.B, callers int, rt http.RoundTripper) {
	var left atomic.Int64
	left.Store(int64(b.N))
	var wg sync.WaitGroup
	b.ReportAllocs()
	b.ResetTimer()
	before := cpuTime()
	for range callers {
		wg.Go(func() {
			req := httptest.NewRequestWithContext(b.Context(), "GET", "http://e.example.com/", nil)
			req.RequestURI, req.Body = "", nil
			for left.Add(-1) >= 0 {
				res, err := rt.RoundTrip(req)
				if err != nil {
					b.Error(err)
					return
				}
				if n, err := io.Copy(io.Discard, res.Body); n != 13 || err != nil {
					b.Errorf("%d bytes, %v", n, err)
				}
			}
		})
	}
	wg.Wait()
	b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
}

// BenchmarkConnect is a handshake, both sides of it, and the session's end.
func BenchmarkConnect(b *testing.B) {
	for name, secure := range map[string]bool{"plain": false, "secure": true} {
		b.Run(name, func(b *testing.B) {
			var g gossip
			near, far := g.start(b, "a", secure, nil), g.start(b, "b", secure, nil)
			b.ReportAllocs()
			before := cpuTime()
			for b.Loop() {
				conn, err := near.dial(b.Context(), &far.node)
				if err != nil {
					b.Fatal(err)
				}
				conn.Close()
			}
			b.ReportMetric(float64(cpuTime()-before)/float64(b.N), "cpu-ns/op")
		})
	}
}
