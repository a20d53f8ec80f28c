package main

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"
)

// BenchmarkFair measures what a bulk stream does to small requests beside it: in the same tunnel, and, since it takes
// time of the processors wherever it is, in another tunnel of the same node and agent, and past chained reverse proxies.
// Compare within one run.
func BenchmarkFair(b *testing.B) {
	for _, c := range []struct{ name, system, bulk, endpoint string }{
		{"alone", "tunnels", "", ""},
		{"download-in-another-tunnel", "tunnels", "GET", "other"},
		{"download-in-the-tunnel", "tunnels", "GET", "bench"},
		{"upload-in-another-tunnel", "tunnels", "PUT", "other"},
		{"upload-in-the-tunnel", "tunnels", "PUT", "bench"},
		{"chained-alone", "chained", "", ""},
		{"chained-download", "chained", "GET", "bench"},
		{"chained-upload", "chained", "PUT", "bench"},
	} {
		b.Run(c.name, func(b *testing.B) {
			origin := httptest.NewServer(http.HandlerFunc(fairOrigin))
			defer origin.Close()
			child := startPathChild(b, c.system, origin.URL)
			ctx, cancel := context.WithCancel(b.Context())
			var bulk sync.WaitGroup
			defer bulk.Wait()
			defer cancel()
			if c.bulk != "" {
				bulk.Go(func() { fairBulk(ctx, child.url, c.bulk, c.endpoint) })
			}
			took := fairRequests(b, child.url)
			b.ReportMetric(float64(took[len(took)/2].Microseconds()), "p50-µs")
			b.ReportMetric(float64(took[len(took)*99/100].Microseconds()), "p99-µs")
		})
	}
}

// fairOrigin answers with 13 bytes, endless ones, or when it has read all.
func fairOrigin(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPut:
		io.Copy(io.Discard, r.Body)
	case r.URL.Path == "/bulk":
		piece := make([]byte, 64<<10)
		for r.Context().Err() == nil {
			if _, err := w.Write(piece); err != nil {
				return
			}
		}
	default:
		io.WriteString(w, "Hello, world!")
	}
}

// fairBulk downloads or uploads until ctx ends.
func fairBulk(ctx context.Context, url, method, endpoint string) {
	var body io.Reader
	if method == http.MethodPut {
		body = io.LimitReader(endlessZeros{}, 1<<50)
	}
	req, err := http.NewRequestWithContext(ctx, method, url+"/bulk", body)
	if err != nil {
		return
	}
	req.Header.Set("x-piko-endpoint", endpoint)
	transport := &http.Transport{DisableCompression: true, ReadBufferSize: 64 << 10, WriteBufferSize: 64 << 10}
	defer transport.CloseIdleConnections()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return
	}
	defer res.Body.Close()
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, res.Body, make([]byte, 64<<10))
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { return len(p), nil }

// fairRequests sends b.N small requests, of which 4 are under way at most, with a pause behind each; it returns how long
// they took, sorted.
func fairRequests(b *testing.B, url string) []time.Duration {
	const clients = 4
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	ask := func() time.Duration {
		req, err := http.NewRequest("GET", url, nil)
		if err != nil {
			b.Error(err)
			return 0
		}
		req.Header.Set("x-piko-endpoint", "bench")
		began := time.Now()
		res, err := transport.RoundTrip(req)
		if err != nil {
			b.Error(err)
			return 0
		}
		body, _ := io.ReadAll(res.Body)
		res.Body.Close()
		if !strings.HasPrefix(string(body), "Hello") {
			b.Errorf("got %d %q", res.StatusCode, body)
		}
		return time.Since(began)
	}
	run := func(n int) (took []time.Duration) {
		var mu sync.Mutex
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				for range (n + i) / clients {
					d := ask()
					mu.Lock()
					took = append(took, d)
					mu.Unlock()
					<-time.After(time.Millisecond)
				}
			})
		}
		wg.Wait()
		return took
	}
	run(200)
	b.ResetTimer()
	took := run(max(b.N, clients))
	b.StopTimer()
	slices.Sort(took)
	return took
}
