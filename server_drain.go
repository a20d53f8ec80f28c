package main

import (
	"context"
	"fmt"
	"sync/atomic"
	"time"

	"piko/admin"
	"piko/relay"
	"piko/tunnel"
)

// errStopped is why requests end that outlive the grace period.
var errStopped = fmt.Errorf("the node has stopped: %w", relay.ErrGoingAway)

const (
	// idleGrace is how long clients may still send requests on connections
	// that they have, once the ports take no new ones: a request may be on its
	// way when we stop listening.
	idleGrace = 2 * time.Second

	// movesPerSecond is how many agents are asked to move in a second: each
	// costs another node a handshake.
	movesPerSecond = 500

	// moveTime is how long agents may take to find another node, after the
	// last was asked. Those that find none have nowhere to go.
	moveTime = 10 * time.Second

	// leaveTime is what it may take to tell other nodes that we leave.
	leaveTime = 2 * time.Second

	// unwindTime is what the goroutines of requests that were cut get to end,
	// farewellTime included.
	unwindTime = 3 * time.Second
)

// drain stops the node so that as little as possible is lost: first nobody new
// is attracted, then agents move to other nodes, then what is under way ends,
// then what is left is cut and counted. Meanwhile every request is served, by
// a hop if the agent is elsewhere already. The admin port answers until the
// end. All of it takes the grace period, leaveTime and unwindTime at most. cut
// ends base, which requests hang on.
func (s *server) drain(base context.Context, cut context.CancelCauseFunc, reason string) {
	began := time.Now()
	ctx, cancel := context.WithTimeout(base, s.cfg.GracePeriod)
	defer cancel()

	deadline := began.Add(s.cfg.GracePeriod)
	s.beginDrain(reason, &deadline)

	// Agents that have another node to go to need not wait for the rest.
	moved := make(chan struct{})
	if s.others() {
		go func() {
			defer close(moved)
			s.moveUpstreams(ctx)
		}()
	} else {
		close(moved)
	}
	pause(ctx, s.cfg.ShutdownDelay)

	// No new connections; what idle ones still bring is served.
	s.proxy.stopAccepting(ctx)
	idle, cancelIdle := context.WithTimeout(ctx, idleGrace)
	s.proxy.waitIdle(idle)
	cancelIdle()
	<-moved

	// Those that are left serve what is in flight until nothing is.
	s.upstreams.Drain(ctx, tunnel.DrainMessage{Reason: "shutdown", ReconnectWithin: time.Second})
	_ = s.proxy.srv.Shutdown(ctx) // closes idle connections, waits for the others
	requests := s.gate.inFlight.wait(ctx)

	// Other nodes send nothing more, and get the answers to what they have sent.
	s.draining.Load().leaving.Store(true)
	leave, cancelLeave := context.WithTimeout(context.WithoutCancel(base), leaveTime)
	s.gossip.Leave(leave)
	cancelLeave()
	s.peers.Drain(ctx)
	requests += s.hops.inFlight.count()
	if requests > 0 {
		s.log.Warn("requests cut at the end of the grace period", "count", requests)
		s.state.cutRequests.Store(int64(requests))
	}

	// Nobody needs those any more that cannot be asked to move. Streams end a
	// moment after their requests, or never.
	quiet, cancelQuiet := context.WithTimeout(ctx, unwindTime)
	s.upstreams.SendBack(quiet)
	cancelQuiet()

	unwind, cancelUnwind := context.WithTimeout(context.WithoutCancel(base), unwindTime)
	defer cancelUnwind()
	s.upgrades.end(unwind, errStopped)
	cut(errStopped)
	s.proxy.close(unwind)
	s.gate.inFlight.wait(unwind) // for the access log has a line for each
	closed := s.upstreams.Tunnels()
	s.upstreams.Close(unwind)
	s.upstream.close(unwind)
	s.peers.Close(unwind)
	s.log.Info("node stopped", "took", time.Since(began).Round(time.Millisecond).String(), "requests_cut", requests, "upstreams_closed", closed)
	s.admin.close(unwind)
}

// draining says that the node drains.
type draining struct {
	// Static after construction.
	began    time.Time
	deadline *time.Time // nil: it stays until it is told to stop

	leaving atomic.Bool // other nodes send nothing more
}

// beginDrain has load balancers and other nodes look elsewhere, and clients
// reconnect elsewhere. Every request is still served.
func (s *server) beginDrain(reason string, deadline *time.Time) {
	before := s.draining.Load()
	if before != nil && deadline == nil {
		return // it is on its way already
	}
	d := &draining{began: time.Now(), deadline: deadline}
	if before != nil {
		d.began = before.began
	}
	if !s.draining.CompareAndSwap(before, d) && deadline == nil {
		return // it has just been told to stop
	}
	s.draining.Store(d)
	s.isDraining.Store(true)
	s.isReady.Store(false)
	s.gossip.SetDraining()
	_, upstreams := s.table.Totals()
	s.log.Info("node draining", "reason", reason, "in_flight", s.gate.inFlight.count(), "hops_in_flight", s.hops.inFlight.count(), "upstreams", upstreams,
		"other_nodes", s.gossip.Size(), "shutdown_delay", s.cfg.ShutdownDelay.String(), "grace_period", s.cfg.GracePeriod.String())
}

// drainState is how far the drain is.
func (s *server) drainState() admin.Drain {
	d := s.draining.Load()
	if d == nil {
		return admin.Drain{}
	}
	out := admin.Drain{
		StartedAt:    d.began.UTC().Truncate(time.Millisecond),
		TunnelsLeft:  s.upstreams.Tunnels(),
		RequestsLeft: s.gate.inFlight.count() + s.hops.inFlight.count(),
	}
	if d.deadline != nil {
		deadline := d.deadline.UTC().Truncate(time.Millisecond)
		out.Deadline = &deadline
	}
	return out
}

// drainAsked begins the drain that an operator asks for.
func (s *server) drainAsked() admin.Drain {
	s.askDrain.Do(func() {
		s.beginDrain("an operator asks for it", nil)
		close(s.drainAsks)
	})
	return s.drainState()
}

// moveAgain is how long agents are left alone that could not be moved.
const moveAgain = 30 * time.Second

// drainWhenAsked moves agents to other nodes, as soon as there are some, once an
// operator has asked for a drain. The node goes on serving whatever still comes
// until it is told to stop, which then finds little left to wait for.
func (s *server) drainWhenAsked(ctx context.Context) {
	select {
	case <-s.drainAsks:
	case <-ctx.Done():
	}
	for ctx.Err() == nil {
		wait := time.Second
		if s.others() && s.upstreams.Tunnels() > 0 {
			s.moveUpstreams(ctx)
			wait = moveAgain
		}
		pause(ctx, wait)
	}
}

// moveUpstreams asks all agents to move to other nodes, and returns when they
// have, or will not in time.
func (s *server) moveUpstreams(ctx context.Context) {
	n := s.upstreams.Tunnels()
	spread := min(time.Duration(n)*time.Second/movesPerSecond, s.cfg.GracePeriod/4)
	ctx, cancel := context.WithTimeout(ctx, spread+moveTime)
	defer cancel()
	s.upstreams.Drain(ctx, tunnel.DrainMessage{Reason: "shutdown", ReconnectWithin: spread})
	s.upstreams.SendBack(ctx)
	for s.upstreams.Tunnels() > 0 && ctx.Err() == nil {
		pause(ctx, tallyPoll)
	}
	s.log.Info("upstreams moved", "moved", n-s.upstreams.Tunnels(), "left", s.upstreams.Tunnels())
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
