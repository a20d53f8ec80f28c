package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// benchResult is what a benchmark found out, and its form in JSON. Latencies
// are in milliseconds; they are of the requests that worked.
type benchResult struct {
	Requests   uint64           `json:"requests"` // that worked
	Failed     int64            `json:"failed"`
	Errors     map[string]int64 `json:"errors,omitempty"` // failed requests by kind
	Seconds    float64          `json:"seconds"`
	Throughput float64          `json:"requests_per_second"`
	Bytes      float64          `json:"body_bytes_per_second"` // each way
	Latency    benchLatency     `json:"latency_ms"`

	Clients   int     `json:"clients"`
	Endpoints int     `json:"endpoints"`
	Upstreams int     `json:"upstreams"`
	Size      int     `json:"size"`
	Rate      float64 `json:"rate,omitempty"` // that was asked for
}

type benchLatency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

// result sums up what l did in d.
func (c *benchHTTPCmd) result(l *load, d time.Duration) *benchResult {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	seconds := max(d.Seconds(), 1e-9)
	n := l.hist.count()
	return &benchResult{
		Requests: n, Failed: l.failed, Errors: l.failures,
		Seconds: d.Seconds(), Throughput: float64(n) / seconds, Bytes: float64(n) * float64(c.Size) / seconds,
		Latency: benchLatency{
			Mean: ms(l.hist.mean()), P50: ms(l.hist.quantile(0.5)), P90: ms(l.hist.quantile(0.9)),
			P99: ms(l.hist.quantile(0.99)), P999: ms(l.hist.quantile(0.999)), Max: ms(l.hist.longest()),
		},
		Clients: c.Clients, Endpoints: c.Endpoints, Upstreams: c.Upstreams, Size: c.Size, Rate: c.Rate,
	}
}

// write prints r for a person or, if asJSON, for a program.
func (r *benchResult) write(w io.Writer, asJSON bool) error {
	if asJSON {
		e := json.NewEncoder(w)
		e.SetIndent("", "  ")
		return e.Encode(r)
	}
	return r.writeText(w)
}

func (r *benchResult) writeText(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Requests\t%d in %.2f s; %d clients, %d endpoints, %d upstreams, %d bytes each way\n",
		r.Requests, r.Seconds, r.Clients, r.Endpoints, r.Upstreams, r.Size)
	asked := ""
	if r.Rate > 0 {
		asked = fmt.Sprintf(" of %.1f asked for", r.Rate)
	}
	fmt.Fprintf(t, "Throughput\t%.1f requests/s%s, %.2f MB/s each way\n", r.Throughput, asked, r.Bytes/1e6)
	l := r.Latency
	fmt.Fprintf(t, "Latency\tp50 %.2f ms, p90 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms, mean %.2f ms\n",
		l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean)
	fmt.Fprintf(t, "Errors\t%d\n", r.Failed)
	for _, kind := range slices.SortedFunc(maps.Keys(r.Errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Errors[b], r.Errors[a]), strings.Compare(a, b))
	}) {
		fmt.Fprintf(t, "\t%d  %s\n", r.Errors[kind], kind)
	}
	return t.Flush()
}

// progress keeps one line on a terminal up to date until stop is closed, and
// wipes it then.
func (l *load) progress(w io.Writer, stop <-chan struct{}) {
	begin := time.Now()
	tick := time.NewTicker(500 * time.Millisecond)
	defer tick.Stop()
	var before uint64
	for {
		select {
		case <-stop:
			fmt.Fprint(w, "\r\x1b[K")
			return
		case <-tick.C:
			n := l.hist.count()
			fmt.Fprintf(w, "\r\x1b[K%s", l.progressLine(n, 2*(n-before), time.Since(begin)))
			before = n
		}
	}
}

// progressLine says how far it got: n requests in d, perSecond of them lately.
func (l *load) progressLine(n, perSecond uint64, d time.Duration) string {
	var share float64
	if l.requests > 0 {
		share = float64(n) / float64(l.requests)
	} else {
		share = d.Seconds() / l.duration.Seconds()
	}
	l.mu.Lock()
	failed := l.failed
	l.mu.Unlock()
	return fmt.Sprintf("%3.0f %%  %d requests, %d/s, p99 %.2f ms, %d failed", min(share, 1)*100, n, perSecond,
		float64(l.hist.quantile(0.99))/float64(time.Millisecond), failed)
}
