package client

import (
	"context"
	"net"
	"sync"
	"time"

	"piko/tunnel"
)

// How a tunnel is left.
const (
	// settleTime is how long a new tunnel is open before the old one is left:
	// so long may the server take to make it known everywhere.
	settleTime = time.Second

	// drainedTime is how long we wait for the server to say which stream was
	// its last.
	drainedTime = 2 * time.Second

	// strayTime is how long a v0.9.0 server may take to notice our GoAway,
	// which it does not answer: what it opens meanwhile is still accepted.
	strayTime = 500 * time.Millisecond

	// streamPoll is how often we look whether the last stream has ended.
	streamPoll = 20 * time.Millisecond

	// maxRetiring bounds the tunnels that a listener has left and that still
	// have streams; a server that asks us to move again and again could
	// otherwise pile them up. One more and they are closed.
	maxRetiring = 8
)

// link is one tunnel of a listener.
type link struct {
	// Static after construction.
	sess    *tunnel.Session
	since   time.Time
	drain   chan tunnel.DrainMessage // the server asks us to move; holds the first
	drained chan struct{}            // closed when the server has opened its last stream
	gone    chan struct{}            // closed when retiring has come to its end
	retired chan struct{}            // closed when retiring begins

	drainedOnce, retireOnce sync.Once
}

// dial opens a tunnel and has its streams accepted.
func (l *Listener) dial(ctx context.Context) (*link, error) {
	lk := &link{
		drain:   make(chan tunnel.DrainMessage, 1),
		drained: make(chan struct{}),
		gone:    make(chan struct{}),
		retired: make(chan struct{}),
	}
	d := l.dialer
	d.Options.Events = tunnel.Events{
		Drain: func(m tunnel.DrainMessage) {
			select {
			case lk.drain <- m:
			default:
			}
		},
		Drained: func(uint32) { lk.drainedOnce.Do(func() { close(lk.drained) }) },
	}
	sess, err := l.connect(ctx, &d, l.endpoint)
	if err != nil {
		return nil, err
	}
	lk.sess, lk.since = sess, time.Now()
	l.add(lk)
	return lk, nil
}

// add makes lk one of the listener's until it ends.
func (l *Listener) add(lk *link) {
	l.mu.Lock()
	l.open[lk] = struct{}{}
	if l.weight != defaultWeight {
		lk.say(l.weight)
	}
	l.mu.Unlock()
	l.links.Go(func() {
		l.accept(lk)
		_ = lk.sess.Close() // it has ended; this waits for its goroutines
		l.mu.Lock()
		delete(l.open, lk)
		l.mu.Unlock()
	})
}

// accept hands the streams of a tunnel to Accept until the tunnel ends.
func (l *Listener) accept(lk *link) {
	for {
		st, err := lk.sess.Accept()
		if err != nil {
			<-lk.sess.Done()
			return
		}
		select {
		case l.conns <- net.Conn(st):
		case <-l.closed:
			st.Reset()
		case <-lk.sess.Done():
		}
	}
}

// say needs the listener's mu. An error says that the tunnel has ended or is
// one to a v0.9.0 server.
func (lk *link) say(weight int) { _ = lk.sess.Weight(weight) }

func (lk *link) retiring() bool {
	select {
	case <-lk.retired:
		return true
	default:
		return false
	}
}

// retire leaves a tunnel after a while: the server is asked to open no more
// streams, and when the last one has ended the tunnel is closed. It returns at
// once.
func (l *Listener) retire(lk *link, after time.Duration) {
	lk.retireOnce.Do(func() {
		l.links.Go(func() {
			defer close(lk.gone)
			if !l.wait(lk, after) {
				return
			}
			close(lk.retired)
			l.retireNow(lk)
			_ = lk.sess.Close()
		})
	})
}

// retireNow returns when no stream is left and none will come, or the tunnel
// has ended.
func (l *Listener) retireNow(lk *link) {
	if lk.sess.HasControl() {
		if lk.sess.Drain(tunnel.DrainMessage{Reason: "leaving"}) != nil {
			return
		}
		t := time.NewTimer(drainedTime)
		defer t.Stop()
		select {
		case <-lk.drained:
		case <-t.C:
		case <-lk.sess.Done():
			return
		}
	} else {
		_ = lk.sess.GoAway(tunnel.CodeNormal)
		if !l.wait(lk, strayTime) {
			return
		}
	}
	for lk.sess.NumStreams() > 0 {
		if !l.wait(lk, streamPoll) {
			return
		}
	}
}

// wait reports whether lk is still open after d.
func (l *Listener) wait(lk *link, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-lk.sess.Done():
		return false
	case <-l.ctx.Done():
		return false
	}
}

// sleep reports whether ctx is still there after d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
