package gossip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"time"
)

// Why the stream of a node's log ended.
var (
	errUnwanted = errors.New("node is no member")
	errSilent   = errors.New("no frame for 12 s")
	errBehind   = errors.New("copy stays behind what the node announced")
	errStopped  = errors.New("this node stops")
)

// Pauses between two attempts to follow a node.
const (
	minPause = 50 * time.Millisecond
	maxPause = 2 * time.Second
	// badPause follows what is no log: to read it again would bring the same.
	badPause = 30 * time.Second
	// goodSession is how long a stream must have lasted for its end to be no reason
	// to wait.
	goodSession = 10 * time.Second
)

// follow keeps the router's table equal to the node's log until ctx ends, then
// forgets what the node serves and closes the connections to it.
func (c *Cluster) follow(ctx context.Context, l *link) {
	defer l.peer.Close()
	f := &follower{Cluster: c, link: l, log: c.log.With("node", l.node.id, "epoch", l.node.epoch)}
	defer c.opt.Table.ForgetNode(l.target)
	f.copy = f.newCopy()
	pause := time.Duration(0)
	for ctx.Err() == nil {
		if !f.wait(ctx, pause) {
			continue
		}
		began := time.Now()
		err := f.session(ctx)
		if ctx.Err() != nil {
			return
		}
		c.metrics.restarts.WithLabelValues(reasonOf(err)).Inc()
		f.log.Debug("stream of a node's endpoints ended", "error", err)
		if time.Since(began) >= goodSession {
			pause = 0
		}
		pause = min(max(2*pause, minPause), maxPause)
		if errors.Is(err, errViolation) {
			c.log.Warn("node sends what is no log", "node", l.node.id, "epoch", l.node.epoch, "error", err, "retry_in", badPause)
			pause = badPause
		}
	}
}

// follower applies one node's log. It belongs to one goroutine.
type follower struct {
	*Cluster
	*link
	log  *slog.Logger
	copy *remoteCopy
}

// wait returns true when the node is to be followed and the pause is over, or it
// has just become so and can be reached.
func (f *follower) wait(ctx context.Context, pause time.Duration) bool {
	_, was := f.state()
	timer := time.NewTimer(pause/2 + rand.N(pause/2+1))
	defer timer.Stop()
	for due := false; ; {
		select {
		case <-ctx.Done():
			return false
		case <-timer.C:
			due = true
		case <-f.kicked:
		}
		wanted, open := f.state()
		if wanted && due || open && !was {
			return true
		}
		was = open
	}
}

// state says whether the node is to be followed, and whether it also can be.
func (f *follower) state() (wanted, open bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	wanted = f.node.verdict.follow
	return wanted, wanted && f.link.reachable
}

func (f *follower) at() int64 { return int64(time.Since(f.started)) }

// session follows the log on one stream until it breaks.
func (f *follower) session(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	f.lastFrame.Store(f.at())
	f.lastData.Store(f.at())
	if !f.begin(cancel) {
		return errUnwanted
	}
	defer f.end()
	_, seq := f.copy.position()
	body, err := f.peer.Subscribe(ctx, f.node.epoch, seq)
	if err != nil {
		return causeOr(ctx, fmt.Errorf("subscribe to node %s: %w", f.node.id, err))
	}
	defer body.Close()
	defer context.AfterFunc(ctx, func() { body.Close() })()
	frames := newFrameReader(body)
	for {
		if err := f.step(frames); err != nil {
			return causeOr(ctx, err)
		}
	}
}

func causeOr(ctx context.Context, err error) error {
	if cause := context.Cause(ctx); cause != nil {
		return cause
	}
	return err
}

// begin lets watch and refresh end the session.
func (f *follower) begin(cancel context.CancelCauseFunc) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.node.verdict.follow {
		return false
	}
	f.endSession = cancel
	return true
}

func (f *follower) end() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endSession = nil
}

func reasonOf(err error) string {
	switch {
	case errors.Is(err, errUnwanted):
		return "gone"
	case errors.Is(err, errSilent):
		return "silent"
	case errors.Is(err, errBehind):
		return "behind"
	case errors.Is(err, errResync):
		return "mismatch"
	}
	return "broken"
}
