package bench

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"text/tabwriter"
	"time"
)

// Result is what a measurement found out, and its form in JSON. Latencies are of
// the exchanges that worked.
type Result struct {
	Target     string           `json:"target,omitempty"`
	Requests   uint64           `json:"requests"` // that worked
	Failed     int64            `json:"failed"`
	Errors     map[string]int64 `json:"errors,omitempty"` // failed requests by kind
	Seconds    float64          `json:"seconds"`
	Throughput float64          `json:"requests_per_second"`
	Latency    Latency          `json:"latency_ms"`
	Processes  []Spent          `json:"processes,omitempty"`
	CPU        float64          `json:"cpu_us_per_request,omitempty"` // of all processes, for each that worked

	Clients int     `json:"clients"`
	Rate    float64 `json:"rate,omitempty"` // that was asked for
}

// Latency is in milliseconds.
type Latency struct {
	Mean float64 `json:"mean"`
	P50  float64 `json:"p50"`
	P90  float64 `json:"p90"`
	P99  float64 `json:"p99"`
	P999 float64 `json:"p99.9"`
	Max  float64 `json:"max"`
}

func latencyOf(h *histogram) Latency {
	ms := func(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }
	return Latency{
		Mean: ms(h.mean()), P50: ms(h.quantile(0.5)), P90: ms(h.quantile(0.9)),
		P99: ms(h.quantile(0.99)), P999: ms(h.quantile(0.999)), Max: ms(h.longest()),
	}
}

// String is l for a person.
func (l Latency) String() string {
	return fmt.Sprintf("p50 %.2f ms, p90 %.2f ms, p99 %.2f ms, p99.9 %.2f ms, max %.2f ms, mean %.2f ms", l.P50, l.P90, l.P99, l.P999, l.Max, l.Mean)
}

// result sums up what was done in d.
func (r *run) result(d time.Duration, processes []Spent) *Result {
	seconds := max(d.Seconds(), 1e-9)
	n := r.hist.count()
	res := &Result{
		Target: r.target.Name, Requests: n, Failed: r.failed, Errors: r.failures,
		Seconds: d.Seconds(), Throughput: float64(n) / seconds, Latency: latencyOf(&r.hist),
		Processes: processes, Clients: r.load.Clients, Rate: r.load.Rate,
	}
	var cpu float64
	for _, p := range processes {
		cpu += p.CPU
	}
	if n > 0 {
		res.CPU = cpu / float64(n) * 1e6
	}
	return res
}

// Write prints r for a person. size is how many bytes an exchange carries each
// way, and about what else there is to say of the load.
func (r *Result) Write(w io.Writer, size int, about string) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	if r.Target != "" {
		fmt.Fprintf(t, "Target\t%s\n", r.Target)
	}
	fmt.Fprintf(t, "Requests\t%d in %.2f s; %d clients, %s%d bytes each way\n", r.Requests, r.Seconds, r.Clients, about, size)
	asked := ""
	if r.Rate > 0 {
		asked = fmt.Sprintf(" of %.1f asked for", r.Rate)
	}
	fmt.Fprintf(t, "Throughput\t%.1f requests/s%s, %.2f MB/s each way\n", r.Throughput, asked, r.Throughput*float64(size)/1e6)
	fmt.Fprintf(t, "Latency\t%v\n", r.Latency)
	writeProcesses(t, r.Processes)
	if len(r.Processes) > 0 {
		fmt.Fprintf(t, "CPU\t%.1f µs a request, of these processes\n", r.CPU)
	}
	fmt.Fprintf(t, "Errors\t%d\n", r.Failed)
	for _, kind := range slices.SortedFunc(maps.Keys(r.Errors), func(a, b string) int {
		return cmp.Or(cmp.Compare(r.Errors[b], r.Errors[a]), strings.Compare(a, b))
	}) {
		fmt.Fprintf(t, "\t%d  %s\n", r.Errors[kind], kind)
	}
	return t.Flush()
}

func writeProcesses(t io.Writer, list []Spent) {
	for _, p := range list {
		fmt.Fprintf(t, "Process\t%s: %.2f s CPU, %.1f MB resident, %+.1f MB\n", p.Name, p.CPU, float64(p.RSS)/1e6, float64(p.Grew)/1e6)
	}
}

// Progress is how far a measurement has got.
type Progress struct {
	Share     float64 // of all that is to be done, 0 to 1
	Requests  uint64  // that worked
	PerSecond uint64  // lately
	P99       time.Duration
	Failed    int64
}

// String is one line.
func (p Progress) String() string {
	return fmt.Sprintf("%3.0f %%  %d requests, %d/s, p99 %.2f ms, %d failed", p.Share*100, p.Requests, p.PerSecond,
		float64(p.P99)/float64(time.Millisecond), p.Failed)
}

const progressInterval = 500 * time.Millisecond

// report calls f until over is closed.
func (r *run) report(f func(Progress), over <-chan struct{}) {
	tick := time.NewTicker(progressInterval)
	defer tick.Stop()
	var before uint64
	for {
		select {
		case <-over:
			return
		case <-tick.C:
			p := r.progress(time.Since(r.begin))
			p.PerSecond = uint64(float64(p.Requests-before) / progressInterval.Seconds())
			before = p.Requests
			f(p)
		}
	}
}

func (r *run) progress(d time.Duration) Progress {
	p := Progress{Requests: r.hist.count(), P99: r.hist.quantile(0.99)}
	if r.load.Requests > 0 {
		p.Share = float64(p.Requests) / float64(r.load.Requests)
	} else {
		p.Share = d.Seconds() / r.load.Duration.Seconds()
	}
	p.Share = min(p.Share, 1)
	r.mu.Lock()
	p.Failed = r.failed
	r.mu.Unlock()
	return p
}
