package client

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"piko/fault"
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

// session is what a listener needs of a *tunnel.Session.
type session interface {
	Accept() (*tunnel.Stream, error)
	StopAccepting()
	Drain(tunnel.DrainMessage) error
	GoAway(code uint32) error
	Weight(w int) error
	SendToken(token string) error
	Probe()
	Close() error
	Done() <-chan struct{}
	Err() error
	HasControl() bool
	NumStreams() int
	Peer() tunnel.Peer
	RemoteAddr() net.Addr
}

// link is one tunnel of a listener.
type link struct {
	// Static after construction.
	l         *Listener
	sess      session
	since     time.Time
	drained   chan struct{} // closed when the server has opened its last stream
	delivered chan struct{} // closed when all streams have been handed to Accept and none will come
	retired   chan struct{} // closed when retiring begins
	settled   chan struct{} // closed when retiring is so far that the server opens no stream any more, as far as can be known
	gone      chan struct{} // closed when retiring has come to its end

	drainedOnce, retireOnce sync.Once

	// Owned by the listener's manager.
	urls  []int     // that lead to it; see holding
	moved time.Time // when it saw that the node asks us to move
	until time.Time // then it is left even if nothing has replaced it, as long as there is another
	seen  int       // the number of nodes that it has seen

	// Guarded by the listener's mu.
	asked *tunnel.DrainMessage // the node asks us to move; the first time
	nodes int                  // how many the node says there are that do not drain; 0 is not known
	said  uint64               // when it said so; a later word of any node has a higher number
	kept  bool                 // it counts: it is no duplicate, and is not to be left
	told  int                  // the weight that the node goes by
	given given                // the token that the node has
}

// dial opens a tunnel by one of the URLs, not to any of the nodes, and has its
// streams accepted: what the node sends before we know whether we want the
// tunnel has to be served.
func (l *Listener) dial(ctx context.Context, url int, nodes []string) (*link, error) {
	lk := &link{
		l:         l,
		drained:   make(chan struct{}),
		delivered: make(chan struct{}),
		retired:   make(chan struct{}),
		settled:   make(chan struct{}),
		gone:      make(chan struct{}),
		urls:      []int{url},
		told:      defaultWeight,
	}
	d := l.dialer
	l.mu.Lock()
	if d.Unhealthy = l.weight == 0; d.Unhealthy {
		lk.told = unknownWeight // older nodes do not read it in the handshake
	}
	l.mu.Unlock()
	d.URL, d.Nodes = l.urls[url], nodes
	d.Token = l.refresher.asked(&lk.given)
	d.Options.Events = tunnel.Events{
		Drain:   lk.onDrain,
		Drained: func(uint32) { lk.drainedOnce.Do(func() { close(lk.drained) }) },
		Cluster: lk.onCluster,
		Closed:  func(error) { l.nudge() },
	}
	sess, err := l.connect(ctx, &d, l.endpoint)
	if !errors.Is(err, fault.DuplicateTunnel) && ctx.Err() == nil {
		l.client.Metrics.dialled(err)
	}
	if err != nil {
		return nil, err
	}
	lk.sess, lk.since = sess, time.Now()
	l.add(lk)
	return lk, nil
}

// onDrain is told that the node asks us to move.
func (lk *link) onDrain(m tunnel.DrainMessage) {
	lk.l.mu.Lock()
	if lk.asked == nil {
		lk.asked = &m
	}
	lk.l.mu.Unlock()
	lk.l.nudge()
}

// onCluster is told how many nodes there are.
func (lk *link) onCluster(nodes int) {
	lk.l.mu.Lock()
	lk.l.words++
	lk.nodes, lk.said = nodes, lk.l.words
	lk.l.mu.Unlock()
	lk.l.nudge()
}

// add makes lk one of the listener's until it ends.
func (l *Listener) add(lk *link) {
	l.mu.Lock()
	l.open[lk] = struct{}{}
	if lk.said == 0 { // or a message has overtaken the reply
		l.words++
		lk.nodes, lk.said = lk.sess.Peer().ClusterSize, l.words
	}
	lk.say(share(l.weight, l.kept()))
	l.mu.Unlock()
	l.refresher.nudge()
	l.links.Go(func() {
		l.accept(lk)
		_ = lk.sess.Close() // it has ended; this waits for its goroutines
		l.mu.Lock()
		delete(l.open, lk)
		l.reweigh()
		l.mu.Unlock()
	})
}

// keep makes lk count, or not.
func (l *Listener) keep(lk *link, kept bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	lk.kept = kept
	l.up = l.up || kept
	l.reweigh()
}

// kept is how many tunnels count; it needs mu.
func (l *Listener) kept() int {
	n := 0
	for lk := range l.open {
		if lk.kept && lk.sess.Err() == nil {
			n++
		}
	}
	return n
}

// reweigh tells the nodes what each tunnel weighs, those that go by another
// weight. It needs mu.
func (l *Listener) reweigh() {
	w := share(l.weight, l.kept())
	for lk := range l.open {
		if lk.kept {
			lk.say(w)
		}
	}
}

// say needs the listener's mu. An error says that the tunnel has ended or is
// one to a v0.9.0 server.
func (lk *link) say(weight int) {
	if lk.told != weight {
		lk.told = weight
		_ = lk.sess.Weight(weight)
	}
}

// accept hands the streams of a tunnel to Accept, and returns when the tunnel
// has ended.
func (l *Listener) accept(lk *link) {
	for {
		st, err := lk.sess.Accept()
		if err != nil {
			close(lk.delivered)
			<-lk.sess.Done()
			return
		}
		select {
		case l.conns <- st:
		case <-l.closed:
			st.Reset()
		case <-lk.sess.Done():
		}
	}
}

func (lk *link) retiring() bool {
	select {
	case <-lk.retired:
		return true
	default:
		return false
	}
}

// letGo retires lk, which does not count, or closes it when too many are being
// left already.
func (l *Listener) letGo(lk *link, after time.Duration) {
	l.mu.Lock()
	retiring := len(l.open) - l.kept()
	l.mu.Unlock()
	if retiring > maxRetiring {
		l.links.Go(func() { _ = lk.sess.Close() })
		return
	}
	l.retire(lk, after)
}

// retire leaves a tunnel after a while: the server is asked to open no more
// streams, and when the last one has ended the tunnel is closed. It returns at
// once.
func (l *Listener) retire(lk *link, after time.Duration) {
	lk.retireOnce.Do(func() {
		l.links.Go(func() {
			defer close(lk.gone)
			if !l.linger(lk, after) {
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
		case <-l.ctx.Done():
			return
		}
	} else {
		_ = lk.sess.GoAway(tunnel.CodeNormal)
		if !l.wait(lk, strayTime) {
			return
		}
	}
	close(lk.settled)
	for lk.sess.NumStreams() > 0 {
		if !l.wait(lk, streamPoll) {
			return
		}
	}
	// The frame pushes out what the last stream has said, and that it has ended.
	_ = lk.sess.GoAway(tunnel.CodeNormal)
}

// linger reports whether lk is still open after d, or when the listener closes.
func (l *Listener) linger(lk *link, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-l.keeping.Done():
	case <-lk.sess.Done():
		return false
	}
	return l.ctx.Err() == nil
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
