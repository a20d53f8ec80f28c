package upstreamconn

import (
	"errors"
	"slices"
	"time"

	"piko/tunnel"
)

// onDrain: the peer wants no new streams.
func (u *upstream) onDrain(m tunnel.DrainMessage) {
	u.server.log.Info("upstream drains", u.attrs("instance", u.instance.id, "reason", m.Reason)...)
	u.leave()
	u.mu.Lock()
	u.drained = true
	tell := u.sess != nil && u.opening == 0
	u.mu.Unlock()
	if tell {
		u.sayDrained()
	}
}

// onWeight: the peer wants that much of the traffic.
func (u *upstream) onWeight(w int) {
	if was := u.local.Weight(); (was == 0) != (w == 0) {
		text := "upstream is healthy again"
		if w == 0 {
			text = "upstream says that its service is not healthy"
		}
		if ok, dropped := u.server.healths.allow(time.Now()); ok {
			u.server.log.Info(text, u.attrs("instance", u.instance.id, "unlogged", dropped)...)
		}
	}
	u.local.SetWeight(w)
	u.server.Table.Reweigh(u.instance.endpoint)
}

// onGoAway: a peer without control wants no new streams.
func (u *upstream) onGoAway(code uint32) {
	u.server.log.Info("upstream goes away", u.attrs("instance", u.instance.id, "code", code)...)
	u.leave()
}

// leave takes the upstream out of the table and closes its idle streams. What
// is under way goes on. It does no harm to say it again.
func (u *upstream) leave() {
	u.mu.Lock()
	u.leaving = true
	u.unhold()
	var remove func()
	if !u.lingers {
		remove, u.remove = u.remove, nil
	}
	u.mu.Unlock()
	if remove != nil {
		remove()
	}
	u.closePools(true)
	u.server.registry.leave(u)
}

// join puts the upstream into the table, unless it is leaving already: the
// session has been running for a moment.
func (u *upstream) join(sess *tunnel.Session) {
	u.logConnect(sess)
	u.mu.Lock()
	u.sess, u.name = sess, sess.RemoteAddr().String()
	u.http2 = slices.Contains(sess.Peer().Features, tunnel.FeatureH2)
	leaving, ended := u.leaving, u.ended
	tell := u.drained && u.opening == 0
	if !leaving {
		u.remove = u.server.Table.Add(u.instance.endpoint, u.local)
	}
	u.schedule()
	u.startVerifying()
	u.mu.Unlock()
	switch {
	case ended != nil:
		u.gone(ended)
	case leaving:
		u.server.registry.leave(u)
		if tell {
			u.sayDrained()
		}
	default:
		u.supersede()
		u.checkGrant()
	}
}

// supersede asks the tunnel that the same instance had before for a sign of
// life.
func (u *upstream) supersede() {
	older := u.server.registry.supersede(u)
	if older == nil {
		return
	}
	if sess := older.session(); sess != nil {
		sess.Probe()
	}
}

// retire ends a tunnel when its last stream has ended or at the latest after
// renewTime: the upstream will open a new one.
func (u *upstream) retire(why string) {
	u.mu.Lock()
	again := u.leaving
	u.leaving = true
	if !again {
		u.renewed = make(chan struct{})
	}
	u.mu.Unlock()
	if again {
		return
	}
	u.server.log.Info("upstream has to reconnect: "+why, u.attrs("instance", u.instance.id)...)
	u.leave()
	go u.endWhenQuiet()
}

// endWhenQuiet closes the tunnel. It ends with the session at the latest; gone
// waits for it.
func (u *upstream) endWhenQuiet() {
	defer close(u.renewed)
	late := time.NewTimer(renewTime)
	defer late.Stop()
	look := time.NewTicker(quietPoll)
	defer look.Stop()
	for waiting := true; waiting && u.sess.NumStreams() > 0; {
		select {
		case <-look.C:
		case <-late.C:
			waiting = false
		case <-u.sess.Done():
			return
		}
	}
	_ = u.sess.CloseWithGoAway(tunnel.CodeReconnect)
}

// session is nil until Accept has returned.
func (u *upstream) session() *tunnel.Session {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.sess
}

// onClosed: the session has ended.
func (u *upstream) onClosed(err error) {
	u.leave()
	u.mu.Lock()
	u.ended = err
	joined := u.sess != nil
	u.mu.Unlock()
	if joined {
		u.gone(err)
	}
}

// gone is called once, when the session has both begun and ended.
func (u *upstream) gone(err error) {
	u.server.registry.leave(u)
	u.server.expiries.set(u, time.Time{})
	u.server.metrics.disconnects.WithLabelValues(disconnectLabel(err)).Inc()
	u.logDisconnect(err)
	u.mu.Lock()
	renewed, verifying := u.renewed, u.verifying
	u.mu.Unlock()
	// The session's goroutines are about to end; this one waits for them, and
	// Close of the server for this one.
	go func() {
		_ = u.sess.Close()
		if renewed != nil {
			<-renewed
		}
		if verifying != nil {
			<-verifying
		}
		u.giveUp()
		u.server.registry.forget(u)
	}()
}

// giveUp gives back the place that u has held.
func (u *upstream) giveUp() {
	u.mu.Lock()
	token := u.grant.ID()
	u.mu.Unlock()
	u.server.places.give(u.instance.endpoint, token)
}

func (u *upstream) logConnect(sess *tunnel.Session) {
	peer := sess.Peer()
	u.changed(true, sess.RemoteAddr().String(), "")
	u.server.log.Info("upstream connected", u.attrs("remote", sess.RemoteAddr().String(),
		"instance", peer.Instance, "protocol", peer.Protocol, "features", peer.Features)...)
}

// logDisconnect warns of what nobody intended.
func (u *upstream) logDisconnect(err error) {
	log := u.server.log.Warn
	if errors.Is(err, tunnel.ErrClosedByPeer) || errors.Is(err, tunnel.ErrClosedByUs) {
		log = u.server.log.Info
	}
	u.mu.Lock()
	reason := err.Error()
	if u.why != "" {
		reason += ": " + u.why
	}
	u.mu.Unlock()
	u.changed(false, u.sess.RemoteAddr().String(), reason)
	log("upstream disconnected", u.attrs("remote", u.sess.RemoteAddr().String(),
		"instance", u.instance.id, "duration", time.Since(u.since), "reason", reason)...)
}

// attrs are the attributes of a line about u in the log: who it is, and more.
func (u *upstream) attrs(more ...any) []any {
	_, endpoint := tunnel.SplitName(u.instance.endpoint)
	attrs := append(make([]any, 0, 8+len(more)), "endpoint", endpoint)
	if u.tenant != "" {
		attrs = append(attrs, "tenant", u.tenant)
	}
	u.mu.Lock()
	grant := u.grant
	u.mu.Unlock()
	if grant != nil {
		attrs = append(attrs, "subject", grant.Subject(), "token", grant.ID())
	}
	return append(attrs, more...)
}
