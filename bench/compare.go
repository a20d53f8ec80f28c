package bench

import (
	"context"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
)

// Comparison is two targets under the same load by turns.
type Comparison struct {
	Rounds  [][2]*Result `json:"rounds"`
	Medians [2]Medians   `json:"medians"`
	Ratios  Medians      `json:"ratios"` // of the first to the second, median of the rounds' own
}

// Medians are those of the rounds, or ratios of them.
type Medians struct {
	Target     string  `json:"target,omitempty"`
	Throughput float64 `json:"requests_per_second"`
	P50        float64 `json:"p50_ms"`
	P99        float64 `json:"p99_ms"`
	CPU        float64 `json:"cpu_us_per_request,omitempty"`
}

// Compare sends the load to both targets, so many times in turn, the order being
// the other way round each time: a machine that gets slower is unfair to neither.
func (l Load) Compare(ctx context.Context, targets [2]Target, rounds int, progress func(Progress)) (*Comparison, error) {
	c := new(Comparison)
	for i := range rounds {
		var round [2]*Result
		for j := range 2 {
			at := (i + j) % 2
			res, err := l.Run(ctx, targets[at], progress)
			if err != nil {
				return nil, fmt.Errorf("measure %s: %w", targets[at].Name, err)
			}
			if ctx.Err() != nil {
				return nil, context.Cause(ctx)
			}
			round[at] = res
		}
		c.Rounds = append(c.Rounds, round)
	}
	for at := range c.Medians {
		c.Medians[at] = c.medians(func(r [2]*Result) Medians { return figures(r[at]) })
		c.Medians[at].Target = targets[at].Name
	}
	c.Ratios = c.medians(func(r [2]*Result) Medians {
		a, b := figures(r[0]), figures(r[1])
		return Medians{Throughput: ratio(a.Throughput, b.Throughput), P50: ratio(a.P50, b.P50), P99: ratio(a.P99, b.P99), CPU: ratio(a.CPU, b.CPU)}
	})
	return c, nil
}

func figures(r *Result) Medians {
	return Medians{Throughput: r.Throughput, P50: r.Latency.P50, P99: r.Latency.P99, CPU: r.CPU}
}

// ratio is 0 where there is none, which JSON has no other word for.
func ratio(a, b float64) float64 {
	if b == 0 {
		return 0
	}
	return a / b
}

func (c *Comparison) medians(of func([2]*Result) Medians) Medians {
	var list []Medians
	for _, r := range c.Rounds {
		list = append(list, of(r))
	}
	return Medians{
		Throughput: median(list, func(m Medians) float64 { return m.Throughput }),
		P50:        median(list, func(m Medians) float64 { return m.P50 }),
		P99:        median(list, func(m Medians) float64 { return m.P99 }),
		CPU:        median(list, func(m Medians) float64 { return m.CPU }),
	}
}

func median(list []Medians, figure func(Medians) float64) float64 {
	var all []float64
	for _, m := range list {
		all = append(all, figure(m))
	}
	slices.Sort(all)
	n := len(all)
	if n == 0 {
		return 0
	}
	return (all[(n-1)/2] + all[n/2]) / 2
}

// Failed is how many exchanges failed, of both.
func (c *Comparison) Failed() (n int64) {
	for _, r := range c.Rounds {
		n += r[0].Failed + r[1].Failed
	}
	return n
}

// Write prints c for a person.
func (c *Comparison) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "round\ttarget\trequests/s\tp50 ms\tp99 ms\tCPU µs/request\tfailed\t\n")
	for i, round := range c.Rounds {
		for _, r := range round {
			fmt.Fprintf(t, "%d\t%s\t%.1f\t%.3f\t%.3f\t%s\t%d\t\n", i+1, r.Target, r.Throughput, r.Latency.P50, r.Latency.P99, orNone("%.1f", r.CPU), r.Failed)
		}
	}
	for _, m := range c.Medians {
		fmt.Fprintf(t, "median\t%s\t%.1f\t%.3f\t%.3f\t%s\t\t\n", m.Target, m.Throughput, m.P50, m.P99, orNone("%.1f", m.CPU))
	}
	m := c.Ratios
	fmt.Fprintf(t, "ratio\t%s / %s\t%.2f\t%.2f\t%.2f\t%s\t\t\n", c.Medians[0].Target, c.Medians[1].Target, m.Throughput, m.P50, m.P99, orNone("%.2f", m.CPU))
	return t.Flush()
}

// orNone is a figure, or a dash if it was not measured.
func orNone(format string, v float64) string {
	if v == 0 {
		return "-"
	}
	return fmt.Sprintf(format, v)
}
