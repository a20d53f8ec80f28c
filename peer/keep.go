package peer

import (
	"errors"
	"log/slog"
	"math/rand/v2"
	"net"
	"time"

	"piko/fault"
)

const (
	// A dial that failed is followed by another one after firstPause, and then
	// after twice as long each time, up to maxPause; but one that was refused
	// because gossip has not told the other node of us yet, as it will within
	// moments, for a while after firstPause each time.
	firstPause   = 50 * time.Millisecond
	maxPause     = 2 * time.Second
	quickRetries = 40

	// shortLife is how long a session must have lived for its loss not to
	// count as a dial that failed.
	shortLife = time.Second

	// shrinkLook is how often a link with several sessions looks whether it
	// could do with fewer, and shrinkAfter how long that must have been so.
	// A pool that is needed less lets go of its streams after idleStream.
	shrinkLook  = 5 * time.Second
	shrinkAfter = 45 * time.Second
)

// dialOutcome is what became of a dial.
type dialOutcome struct {
	conn net.Conn
	err  error
}

// pauses counts dials that failed. It is a value of run's.
type pauses struct {
	failures int
	quick    int
}

// next is how long to wait after a dial that failed; unknown says that the
// other node does not know us yet. random is in [0, 1).
func (p *pauses) next(unknown bool, random float64) time.Duration {
	if unknown && p.quick < quickRetries {
		p.quick++
		return firstPause
	}
	d := maxPause
	if p.failures < 6 {
		d = min(firstPause<<p.failures, maxPause)
	}
	p.failures++
	return d - time.Duration(random*float64(d)/2)
}

// keeper is what run knows between its turns. It belongs to run.
type keeper struct {
	l       *Link
	told    bool
	dialing bool
	notTill time.Time // of the next dial
	pauses  pauses
	plenty  time.Time // since when there is a session too many; zero: there is not
	timer   *time.Timer
}

// run keeps the link's sessions until the link ends.
func (l *Link) run() {
	k := keeper{l: l, timer: time.NewTimer(0)}
	defer k.timer.Stop()
	l.reachable(false)
	for l.ctx.Err() == nil {
		k.tell()
		k.step(time.Now())
		select {
		case <-l.wake:
		case out := <-l.dialed:
			k.onDialed(out)
		case <-k.timer.C:
		case <-l.ctx.Done():
		}
	}
	if k.dialing {
		if out := <-l.dialed; out.conn != nil {
			out.conn.Close()
		}
	}
	l.p.forget(l)
}

// tell reports a change.
func (k *keeper) tell() {
	l := k.l
	up := len(*l.sessions.Load()) > 0
	if up == k.told {
		return
	}
	k.told = up
	l.reachable(up)
	log := l.p.log.With("node", l.node.ID, "epoch", l.node.Epoch, "addr", l.node.Addr)
	if up {
		log.Info("node reachable")
		return
	}
	l.mu.Lock()
	why := l.why
	l.mu.Unlock()
	if errors.Is(why, errAsked) {
		log.Info("node asks to be left: it drains")
	} else {
		log.Warn("node unreachable", "reason", why.Error())
	}
}

// logFailed warns of the first dial in a row that failed. That the other node does
// not know us yet is no failure at first.
func (k *keeper) logFailed(err error) {
	l, level := k.l, slog.LevelDebug
	soon := unknownThere(err) && k.pauses.quick < quickRetries
	if k.pauses.failures == 0 && !soon && l.ctx.Err() == nil {
		level = slog.LevelWarn
	}
	l.p.log.Log(l.ctx, level, "dial of node failed", "node", l.node.ID, "epoch", l.node.Epoch, "addr", l.node.Addr, "reason", err.Error())
}

// step dials if there should be another session, retires one if there should
// be fewer, and sets the timer for when to look again.
func (k *keeper) step(now time.Time) {
	l := k.l
	switch l.takeEnded() {
	case endedWell:
		k.pauses, k.notTill = pauses{}, time.Time{}
		if !k.dialing {
			l.setPausing(false, nil) // the next dial begins at once
		}
	case endedSoon:
		k.pause(now, false)
	}
	wait := time.Duration(-1)
	list := *l.sessions.Load()
	switch {
	case k.dialing:
	case len(list) == 0 || l.wantsMore(list):
		if wait = k.notTill.Sub(now); wait <= 0 {
			k.startDial()
		}
	case len(list) > 1:
		wait = shrinkLook
		k.shrink(now, list)
	}
	k.timer.Stop()
	if wait > 0 {
		k.timer.Reset(wait)
	}
}

func (k *keeper) startDial() {
	l := k.l
	k.dialing = true
	l.setPausing(false, nil)
	if !l.p.spawn(func() {
		conn, err := l.p.dial(l.ctx, &l.node)
		l.dialed <- dialOutcome{conn, err}
	}) {
		k.dialing = false
		l.cancel()
	}
}

// onDialed adds a session or begins a pause.
func (k *keeper) onDialed(out dialOutcome) {
	k.dialing = false
	if k.l.ctx.Err() != nil {
		if out.conn != nil {
			out.conn.Close()
		}
		return
	}
	if out.err != nil {
		k.l.p.metrics.handshakes.WithLabelValues("out", dialResult(out.err)).Inc()
		k.logFailed(out.err)
		k.l.setPausing(true, &neverError{fault.New(fault.UpstreamUnreachable, out.err)})
		k.pause(time.Now(), unknownThere(out.err))
		return
	}
	k.l.p.metrics.handshakes.WithLabelValues("out", "ok").Inc()
	k.plenty = time.Time{}
	k.l.add(out.conn)
}

// pause puts the next dial off.
func (k *keeper) pause(now time.Time, unknown bool) {
	k.notTill = now.Add(k.pauses.next(unknown, rand.Float64()))
}

// shrink retires the youngest session when the others have had room for all
// streams for long enough.
func (k *keeper) shrink(now time.Time, list []*session) {
	streams := 0
	for _, s := range list {
		streams += s.sess.NumStreams()
	}
	switch {
	case streams > (len(list)-1)*growAbove/2:
		k.plenty = time.Time{}
	case k.plenty.IsZero():
		k.plenty = now
	case now.Sub(k.plenty) >= shrinkAfter:
		k.plenty = now
		list[len(list)-1].retire()
	}
}
