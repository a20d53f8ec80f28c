package peer

import (
	"context"
	"sync"
	"time"

	"piko/tunnel"
)

const (
	// drainedTime is how long a caller may take to say that it opens no more
	// streams.
	drainedTime = 2 * time.Second

	// quietPoll is how often we look whether the last stream has ended.
	quietPoll = 10 * time.Millisecond
)

var drainMessage = tunnel.DrainMessage{Reason: "node drains"}

// Drain refuses new sessions and asks the callers of those that there are to
// open no more streams. A session is closed when its caller has agreed, or has
// not within 2 s, and its last stream has ended; Drain returns when none is
// left, or ctx ends. What is under way is not cut.
func (p *Peers) Drain(ctx context.Context) {
	p.mu.Lock()
	p.drainsLocked()
	var wg sync.WaitGroup
	for in := range p.inbound {
		wg.Go(func() { in.drain(ctx) })
	}
	p.mu.Unlock()
	wg.Wait()
}

// drain ends the session when the caller uses it no longer.
func (in *inbound) drain(ctx context.Context) {
	_ = in.sess.Drain(drainMessage) // an error says that it has ended
	late := time.NewTimer(drainedTime)
	defer late.Stop()
	select {
	case <-in.drained:
	case <-late.C:
	case <-in.sess.Done():
	case <-ctx.Done():
	}
	for in.sess.NumStreams() > 0 {
		if !sleep(ctx, quietPoll) {
			return
		}
	}
	if ctx.Err() == nil {
		// The frame pushes out what the last stream has written.
		_ = in.sess.CloseWithGoAway(tunnel.CodeNormal)
	}
}
