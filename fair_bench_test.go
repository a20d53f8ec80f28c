package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"sync"
	"testing"
	"time"
)

// BenchmarkFair measures what a bulk stream does to small requests beside it: in the same tunnel, and, since it takes
// time of the processors wherever it is, in another tunnel of the same node and agent, and past chained reverse proxies.
// At gigabit it leaves processors free, so that what is seen is the tunnel; as fast as it can, the requests wait for
// processors above all. The machine drifts, so turns with and without the stream alternate.
func BenchmarkFair(b *testing.B) {
	const gigabit = 125_000_000
	for _, c := range []struct {
		name, system, method string
		rate                 int // bytes a second; 0 is as fast as it can
	}{
		{"gigabit-download", "tunnels", "GET", gigabit},
		{"gigabit-upload", "tunnels", "PUT", gigabit},
		{"download", "tunnels", "GET", 0},
		{"upload", "tunnels", "PUT", 0},
		{"chained-gigabit-download", "chained", "GET", gigabit},
		{"chained-gigabit-upload", "chained", "PUT", gigabit},
	} {
		b.Run(c.name, func(b *testing.B) {
			origin := httptest.NewServer(http.HandlerFunc(fairOrigin))
			defer origin.Close()
			child := startPathChild(b, c.system, origin.URL)
			fairRequests(b, child.url, 200)
			took := map[string][]time.Duration{}
			b.ResetTimer()
			for left := b.N; left > 0; left -= 3 * fairTurn {
				for _, endpoint := range []string{"", "other", "bench"} { // of the bulk stream
					ctx, cancel := context.WithCancel(b.Context())
					var bulk sync.WaitGroup
					if endpoint != "" {
						bulk.Go(func() { fairBulk(ctx, child.url, c.method, endpoint, c.rate) })
					}
					took[endpoint] = append(took[endpoint], fairRequests(b, child.url, min(fairTurn, left/3+1))...)
					cancel()
					bulk.Wait()
				}
			}
			b.StopTimer()
			for endpoint, name := range map[string]string{"": "alone", "other": "beside", "bench": "within"} {
				t := took[endpoint]
				slices.Sort(t)
				b.ReportMetric(float64(t[len(t)/2].Microseconds()), "p50-µs-"+name)
				b.ReportMetric(float64(t[len(t)*99/100].Microseconds()), "p99-µs-"+name)
			}
		})
	}
}

// fairTurn is how many requests follow each other with the same stream beside them.
const fairTurn = 500

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
func fairBulk(ctx context.Context, url, method, endpoint string, rate int) {
	var body io.Reader
	if method == http.MethodPut {
		body = &pacedReader{r: endlessZeros{}, rate: rate}
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
	io.CopyBuffer(struct{ io.Writer }{io.Discard}, &pacedReader{r: res.Body, rate: rate}, make([]byte, 64<<10))
}

// pacedReader reads at a rate in bytes a second, if that is not 0.
type pacedReader struct {
	r     io.Reader
	rate  int
	began time.Time
	n     int64
}

func (p *pacedReader) Read(b []byte) (int, error) {
	if p.began.IsZero() {
		p.began = time.Now()
	}
	if p.rate > 0 {
		<-time.After(time.Until(p.began.Add(time.Duration(p.n) * time.Second / time.Duration(p.rate))))
	}
	n, err := p.r.Read(b)
	p.n += int64(n)
	return n, err
}

type endlessZeros struct{}

func (endlessZeros) Read(p []byte) (int, error) { return len(p), nil }

// fairRequests sends n small requests, of which 4 are under way at most, with a pause behind each; it returns how long
// they took.
func fairRequests(b *testing.B, url string, n int) (took []time.Duration) {
	const clients = 4
	transport := &http.Transport{MaxIdleConnsPerHost: clients, DisableCompression: true}
	defer transport.CloseIdleConnections()
	var mu sync.Mutex
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			for range (n + i) / clients {
				d, err := fairRequest(transport, url)
				if err != nil {
					b.Error(err)
					return
				}
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

func fairRequest(transport *http.Transport, url string) (time.Duration, error) {
	req, err := http.NewRequest("GET", url, nil)
	if err != nil {
		return 0, err
	}
	req.Header.Set("x-piko-endpoint", "bench")
	began := time.Now()
	res, err := transport.RoundTrip(req)
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	if body, err := io.ReadAll(res.Body); err != nil || string(body) != "Hello, world!" {
		return 0, fmt.Errorf("got %d, %q, %v", res.StatusCode, body, err)
	}
	return time.Since(began), nil
}
