package main

import (
	"context"
	"errors"
	"time"

	"piko/tunnel"
)

// errStopped is why requests end that outlive the grace period.
var errStopped = errors.New("the node has stopped")

const (
	// idleGrace is how long clients may still send requests on connections
	// that they have, once the ports take no new ones: a request may be on its
	// way when we stop listening.
	idleGrace = 2 * time.Second

	// unwindTime is what the goroutines of requests that were cut get to end.
	unwindTime = 2 * time.Second
)

// drain stops the node so that as little as possible is lost: first nobody new
// is attracted, then what is under way ends, then what is left is cut and
// counted. The admin port answers until the end. All of it takes the grace
// period and unwindTime at most. cut ends base, which requests hang on.
func (s *server) drain(base context.Context, cut context.CancelCauseFunc, reason string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(base, s.cfg.GracePeriod)
	defer cancel()

	// Load balancers look elsewhere, clients are asked to reconnect elsewhere.
	s.isReady.Store(false)
	s.isDraining.Store(true)
	_, upstreams := s.table.Totals()
	s.log.Info("node draining", "reason", reason, "in_flight", s.gate.inFlight.count(), "upstreams", upstreams,
		"shutdown_delay", s.cfg.ShutdownDelay.String(), "grace_period", s.cfg.GracePeriod.String())
	pause(ctx, s.cfg.ShutdownDelay)

	// No new connections; what idle ones still bring is served.
	s.proxy.stopAccepting(ctx)
	idle, cancelIdle := context.WithTimeout(ctx, idleGrace)
	s.proxy.conns.wait(idle)
	cancelIdle()

	// Agents move. Until they have, they serve what is in flight.
	s.upstreams.Drain(ctx, tunnel.DrainMessage{Reason: "shutdown", ReconnectWithin: time.Second})
	_ = s.proxy.srv.Shutdown(ctx) // closes idle connections, waits for the others
	requests := s.gate.inFlight.wait(ctx)
	if requests > 0 {
		s.log.Warn("requests cut at the end of the grace period", "count", requests)
	}

	// Nobody needs those any more that cannot be asked to move. Streams end a
	// moment after their requests, or never.
	quiet, cancelQuiet := context.WithTimeout(ctx, unwindTime)
	s.upstreams.SendBack(quiet)
	cancelQuiet()

	unwind, cancelUnwind := context.WithTimeout(context.WithoutCancel(base), unwindTime)
	defer cancelUnwind()
	cut(errStopped)
	s.proxy.close(unwind)
	s.gate.inFlight.wait(unwind) // for the access log has a line for each
	closed := s.upstreams.Tunnels()
	s.upstreams.Close(unwind)
	s.upstream.close(unwind)
	s.log.Info("node stopped", "took", time.Since(began).Round(time.Millisecond).String(), "requests_cut", requests, "upstreams_closed", closed)
	s.admin.close(unwind)
}

// pause returns after d, or when ctx ends.
func pause(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-ctx.Done():
	case <-t.C:
	}
}
