package client

import (
	"math/bits"
	"time"
)

// What the log and OnState get. Called by the manager, and when that has ended
// by whoever ends the listener.

// opened says that lk is one of the tunnels now, for which there is that plan.
func (l *Listener) opened(lk *link, plan plan) {
	p := lk.sess.Peer()
	l.log.Info("tunnel open", "server", lk.sess.RemoteAddr().String(), "node", p.NodeID,
		"tunnels", plan.want-plan.short+len(plan.surplus), "wanted", plan.want, "features", p.Features)
	l.report(p.NodeID, nil, 0)
}

// lost warns of the loss of a tunnel, but for one that the node has announced
// while another one serves.
func (l *Listener) lost(lk *link, err error, retry time.Duration) {
	log, node := l.log.Warn, lk.sess.Peer().NodeID
	if !lk.moved.IsZero() && l.Tunnels() > 0 {
		log = l.log.Info
	}
	l.client.Metrics.lost()
	log("tunnel lost", "node", node, "open", time.Since(lk.since), "tunnels", l.Tunnels(), "reason", err.Error(), "retry", retry)
	l.report(node, err, retry)
}

// leave retires lk, which is needed no longer.
func (l *Listener) leave(lk *link) {
	l.keep(lk, false)
	l.letGo(lk, settleTime)
	node := lk.sess.Peer().NodeID
	l.log.Info("leaving tunnel", "node", node, "open", time.Since(lk.since), "tunnels", l.Tunnels())
	l.report(node, ErrLeft, 0)
}

// failed says that an attempt failed. Of an outage the log gets the first few
// attempts and then each sixteenth: the rest differ in nothing. While another
// tunnel serves, ever fewer are enough.
func (l *Listener) failed(attempt int, err error, retry time.Duration) {
	const first, each = 4, 16
	log := l.log.Debug
	switch served := l.Tunnels() > 0; {
	case served && bits.OnesCount(uint(attempt)) == 1:
		log = l.log.Info
	case !served && (attempt <= first || attempt%each == 0):
		log = l.log.Warn
	}
	log("cannot open tunnel", "attempt", attempt, "tunnels", l.Tunnels(), "err", err.Error(), "retry", retry)
	l.report("", err, retry)
}

// ledBack says that an attempt led to a node where we are. That is how a search
// goes; the log gets a line when it has been in vain for some time.
func (l *Listener) ledBack(node string, attempt int, retry time.Duration) {
	log, msg := l.log.Debug, "led to a node again"
	if attempt == searchDoublings {
		log, msg = l.log.Info, "led to no other node; going on with fewer tunnels and a long search"
	}
	log(msg, "attempt", attempt, "node", node, "tunnels", l.Tunnels(), "retry", retry)
	l.report(node, errSameNode, retry)
}

// note keeps the error of an attempt for a Listen that runs out of time.
func (l *Listener) note(err error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.last = err
}

// report tells OnState.
func (l *Listener) report(node string, err error, retry time.Duration) {
	if l.client.OnState == nil {
		return
	}
	l.client.OnState(State{
		Endpoint: l.endpoint, Phase: l.Phase(), Connected: l.Connected(), Tunnels: l.Tunnels(),
		NodeID: node, Err: err, Retry: retry,
	})
}
