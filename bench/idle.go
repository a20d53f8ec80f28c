package bench

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"text/tabwriter"
	"time"

	"piko/client"
)

// Idle is tunnels that nobody uses.
type Idle struct {
	Client  *client.Client
	Tunnels int
	// Hold is how long they are kept.
	Hold      time.Duration
	Processes []Process
	Logger    *slog.Logger
}

// IdleResult is what became of it.
type IdleResult struct {
	Tunnels int     `json:"tunnels"`
	Seconds float64 `json:"connect_seconds"` // until all were open
	Hold    float64 `json:"hold_seconds"`
	Lost    int     `json:"lost"` // tunnels, meanwhile
	// Connecting is what the processes spent until all were open, and Holding
	// what they spent from then on.
	Connecting []Spent `json:"connecting,omitempty"`
	Holding    []Spent `json:"holding,omitempty"`
}

// Run opens the tunnels, each for an endpoint of its own, and holds them.
func (b Idle) Run(ctx context.Context) (*IdleResult, error) {
	states := newWatch()
	c := *b.Client
	c.Connections, c.OnState = 1, states.set
	before, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	services := NewServices(KindTCP, b.Logger)
	defer services.Stop()
	began := time.Now()
	if err := services.Upstreams(ctx, &c, b.Tunnels, endpointName); err != nil {
		return nil, err
	}
	r := &IdleResult{Tunnels: b.Tunnels, Seconds: time.Since(began).Seconds(), Hold: b.Hold.Seconds()}
	open, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	if !sleepUntil(ctx, time.Now().Add(b.Hold)) {
		return nil, context.Cause(ctx)
	}
	end, err := usageOf(b.Processes)
	if err != nil {
		return nil, err
	}
	r.Lost = states.losses()
	r.Connecting, r.Holding = spent(before, open), spent(open, end)
	return r, nil
}

// endpointName is that of the i-th upstream.
func endpointName(i int) string { return fmt.Sprintf("bench-%d", i) }

// Write prints r for a person.
func (r *IdleResult) Write(w io.Writer) error {
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintf(t, "Tunnels\t%d, open after %.2f s, held for %.1f s, %d lost\n", r.Tunnels, r.Seconds, r.Hold, r.Lost)
	for i, c := range r.Connecting {
		h := r.Holding[i]
		fmt.Fprintf(t, "Process\t%s: %.1f KB resident for each tunnel, %.3f ms CPU to open one, %.2f %% of a core while they are idle\n", c.Name,
			float64(c.Grew+h.Grew)/1e3/float64(r.Tunnels), c.CPU*1e3/float64(r.Tunnels), h.CPU/max(r.Hold, 1e-9)*100)
	}
	return t.Flush()
}
