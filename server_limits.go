package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"os"
	"runtime/debug"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/limit"
	"piko/tunnel"
	"piko/upstreamconn"
)

// limitsConfig is the proxy.limits.* section.
type limitsConfig struct {
	Requests            int      `placeholder:"N" help:"Requests of clients that this node takes at once; beyond it they get 503 overloaded. Here and below, WebSockets and TCP connections count until they end. 0 is no limit."`
	RequestsPerTunnel   int      `placeholder:"N" help:"Requests that one tunnel is given at once; beyond it other tunnels of the endpoint are tried, then the client gets 503. 0 is no limit but the 4,096 streams that a tunnel may have."`
	RequestsPerEndpoint int      `placeholder:"N" help:"Requests for one endpoint that this node takes at once; beyond it they get 503. 0 is no limit."`
	RequestsPerTenant   int      `placeholder:"N" help:"Requests for the endpoints of one tenant that this node takes at once; beyond it they get 503. 0 is no limit."`
	RatePerEndpoint     float64  `placeholder:"N" help:"Requests a second for one endpoint that this node takes; beyond it they get 429 rate-limited, and Retry-After. 0 is no limit."`
	BurstPerEndpoint    int      `placeholder:"N" help:"Requests for one endpoint that may come at once after a rest. 0 is those of a second."`
	RatePerTenant       float64  `placeholder:"N" help:"Requests a second for the endpoints of one tenant that this node takes; beyond it they get 429. 0 is no limit."`
	BurstPerTenant      int      `placeholder:"N" help:"Requests for one tenant that may come at once after a rest. 0 is those of a second."`
	BufferedBytes       byteSize `default:"0" help:"Memory for bytes that wait for slow readers, of all requests and connections; beyond it the slowest are cut off. 0 is an eighth of the memory limit (GOMEMLIMIT, or that of the container), or of the machine's memory."`
}

// limits is what package limit calls them.
func (c *limitsConfig) limits() limit.Limits {
	return limit.Limits{
		Requests: c.Requests, PerEndpoint: c.RequestsPerEndpoint, PerTenant: c.RequestsPerTenant,
		EndpointRate: limit.Rate{PerSecond: c.RatePerEndpoint, Burst: c.BurstPerEndpoint},
		TenantRate:   limit.Rate{PerSecond: c.RatePerTenant, Burst: c.BurstPerTenant},
	}
}

// newLimits makes what keeps the node alive and fair, and its metrics.
func (s *server) newLimits(log *slog.Logger, registry prometheus.Registerer) (err error) {
	cfg := &s.cfg.Proxy.Limits
	memory := debug.SetMemoryLimit(-1)
	s.budget = tunnel.NewBudget(cfg.buffers(memory))
	s.uploads = tunnel.NewBudget(s.budget.Size() / 2)
	registry.MustRegister(
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "piko_buffered_bytes", Help: "Memory of bytes that wait for their readers."},
			func() float64 { return float64(s.budget.Used()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "piko_held_upload_bytes", Help: "Memory that may be held of uploads over HTTP/2 that do not move; half of piko_buffered_bytes_limit at most."},
			func() float64 { return float64(s.uploads.Used()) }),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "piko_buffered_bytes_limit", Help: "Memory that bytes may take that wait for their readers."},
			func() float64 { return float64(s.budget.Size()) }),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "piko_buffer_resets_total", Help: "Streams that were reset since their readers were too slow for the memory that there is."},
			func() float64 { return float64(s.budget.Resets()) }),
	)
	s.memory, err = limit.NewMemory(limit.MemoryOptions{Limit: memory, Shed: s.budget.Shrink, Logger: subsystem(log, "memory"), Registerer: registry})
	if err != nil {
		return err
	}
	s.limits, err = limit.NewRequests(cfg.limits(), s.memory.Short, registry)
	return err
}

// prepareLimits prepares the limits of requests and of tunnels. What is over a new limit already goes on.
func (s *server) prepareLimits(next *serverConfig) (part reloadPart, err error) {
	was, now := &s.was().Proxy.Limits, &next.Proxy.Limits
	tunnelsWas, tunnels := &s.was().Upstream.Limits, &next.Upstream.Limits
	for _, l := range []struct {
		name    string
		changed bool
	}{
		{"proxy.limits.requests", was.Requests != now.Requests},
		{"proxy.limits.requests-per-tunnel", was.RequestsPerTunnel != now.RequestsPerTunnel},
		{"proxy.limits.requests-per-endpoint", was.RequestsPerEndpoint != now.RequestsPerEndpoint},
		{"proxy.limits.requests-per-tenant", was.RequestsPerTenant != now.RequestsPerTenant},
		{"proxy.limits.rate-per-endpoint", was.RatePerEndpoint != now.RatePerEndpoint},
		{"proxy.limits.burst-per-endpoint", was.BurstPerEndpoint != now.BurstPerEndpoint},
		{"proxy.limits.rate-per-tenant", was.RatePerTenant != now.RatePerTenant},
		{"proxy.limits.burst-per-tenant", was.BurstPerTenant != now.BurstPerTenant},
		{"upstream.limits.tunnels", tunnelsWas.Tunnels != tunnels.Tunnels},
		{"upstream.limits.tunnels-per-endpoint", tunnelsWas.TunnelsPerEndpoint != tunnels.TunnelsPerEndpoint},
		{"upstream.limits.tunnels-per-token", tunnelsWas.TunnelsPerToken != tunnels.TunnelsPerToken},
	} {
		if l.changed {
			part.applied = append(part.applied, l.name)
		}
	}
	if len(part.applied) > 0 {
		part.commit = func() {
			s.limits.Set(now.limits())
			s.upstreams.SetLimits(upstreamconn.Limits(*tunnels), now.RequestsPerTunnel)
		}
	}
	return part, nil
}

// minBuffers are 32 windows.
const minBuffers = 16 << 20

// buffersWithoutLimit is the memory for buffers where nothing is known of the machine.
const buffersWithoutLimit = 256 << 20

// buffers is the memory for bytes that wait; limit is what the process may have, or math.MaxInt64.
func (c *limitsConfig) buffers(limit int64) int64 {
	if c.BufferedBytes > 0 {
		return int64(c.BufferedBytes)
	}
	if limit == math.MaxInt64 {
		limit = machineMemory(os.ReadFile)
	}
	if limit == 0 {
		return buffersWithoutLimit
	}
	return limit / 8
}

// tellResets says in the log that streams were reset for want of room, at most every few seconds.
func (s *server) tellResets(ctx context.Context) {
	const every = 10 * time.Second
	told := uint64(0)
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if n := s.budget.Resets(); n > told {
			s.log.Warn("streams with slow readers reset for want of room", "count", n-told, "within", every.String(),
				"buffered_bytes", s.budget.Used(), "limit_bytes", s.budget.Size())
			told = n
		}
	}
}

// check finds what cannot be meant.
func (c *limitsConfig) check() error {
	const prefix = "--proxy.limits."
	var errs []error
	for _, f := range []struct {
		name  string
		value float64
	}{
		{"requests", float64(c.Requests)}, {"requests-per-tunnel", float64(c.RequestsPerTunnel)},
		{"requests-per-endpoint", float64(c.RequestsPerEndpoint)}, {"requests-per-tenant", float64(c.RequestsPerTenant)},
		{"rate-per-endpoint", c.RatePerEndpoint}, {"burst-per-endpoint", float64(c.BurstPerEndpoint)},
		{"rate-per-tenant", c.RatePerTenant}, {"burst-per-tenant", float64(c.BurstPerTenant)},
	} {
		if !(f.value >= 0) || math.IsInf(f.value, 0) {
			errs = append(errs, fmt.Errorf("%s%s: %v is no number of requests; use 0 for no limit, or more", prefix, f.name, f.value))
		}
	}
	if b := c.BufferedBytes; b > 0 && b < minBuffers {
		errs = append(errs, fmt.Errorf("%sbuffered-bytes: %d bytes are used up by a few streams; use 16MiB or more, or 0", prefix, b))
	}
	if c.BurstPerEndpoint > 0 && c.RatePerEndpoint == 0 {
		errs = append(errs, fmt.Errorf("%sburst-per-endpoint: %d means nothing without a rate; set %srate-per-endpoint", prefix, c.BurstPerEndpoint, prefix))
	}
	if c.BurstPerTenant > 0 && c.RatePerTenant == 0 {
		errs = append(errs, fmt.Errorf("%sburst-per-tenant: %d means nothing without a rate; set %srate-per-tenant", prefix, c.BurstPerTenant, prefix))
	}
	return errors.Join(errs...)
}
