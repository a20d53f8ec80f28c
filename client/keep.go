package client

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"
)

// errSameNode says that the server asked us to move and the load balancer led
// us to it again.
var errSameNode = errors.New("connected to the node that is to be left")

// start connects for the first time, and then leaves keeping the tunnel open to
// a goroutine.
func (l *Listener) start(ctx context.Context) error {
	if err := l.dialer.Check(); err != nil {
		return err
	}
	var o outage
	var last error
	for {
		lk, err := l.dial(ctx)
		if err == nil {
			l.opened(lk)
			l.keepers.Go(func() { l.keep(lk) })
			return nil
		}
		if timeIsUp(ctx) {
			return firstError(last, err, context.Cause(ctx))
		}
		if final(err, l.client.TokenMayChange) {
			l.report(nil, err, 0)
			return err
		}
		last = err
		delay := o.next(time.Now(), err)
		l.failed(nil, &o, err, delay)
		if !sleep(ctx, delay) {
			return firstError(last, err, context.Cause(ctx))
		}
	}
}

// timeIsUp is ctx.Err() != nil, but for a dial that notices a moment before.
func timeIsUp(ctx context.Context) bool {
	if deadline, ok := ctx.Deadline(); ok && !time.Now().Before(deadline) {
		<-ctx.Done()
	}
	return ctx.Err() != nil
}

// firstError is the error of a first connect that ran out of time: why the
// attempts failed says more than that time was up.
func firstError(last, err, cause error) error {
	if last != nil {
		err = last
	}
	if errors.Is(err, cause) {
		return err
	}
	return fmt.Errorf("%w: %w", cause, err)
}

// keep replaces lk when it ends or is to be left, and so on, until the listener
// stops.
func (l *Listener) keep(lk *link) {
	var o outage
	for lk != nil {
		select {
		case <-l.keeping.Done():
			return
		case <-lk.sess.Done():
			delay := l.nextAfter(lk, &o)
			l.lost(lk, lk.sess.Err(), delay)
			lk = l.replace(nil, &o, delay)
		case m := <-lk.drain:
			l.log.Info("server asks to move", "node", lk.sess.Peer().NodeID, "reason", m.Reason)
			spread := time.Duration(rand.Float64() * float64(m.ReconnectWithin))
			lk = l.replace(lk, &o, max(spread, l.nextAfter(lk, &o)))
		}
	}
}

// nextAfter is how long to wait before lk is replaced. If lk has lived for a
// while that is next to nothing; otherwise servers that close tunnels, or ask us
// to move, again and again would keep us dialling.
func (l *Listener) nextAfter(lk *link, o *outage) time.Duration {
	if time.Since(lk.since) >= healthyAfter {
		*o = outage{}
	}
	return o.next(time.Now(), nil)
}

// replace opens a tunnel after the delay, and tries until it succeeds; nil
// means that the listener stops. old, if not nil, is a tunnel that is still
// open: it is left when the new one is open, and does not help if it is to the
// same node.
func (l *Listener) replace(old *link, o *outage, delay time.Duration) *link {
	for l.sleepBeside(old, delay) {
		lk, err := l.dial(l.keeping)
		if err == nil && sameNode(old, lk) {
			l.retire(lk, 0)
			err = errSameNode
		}
		if err == nil {
			l.opened(lk)
			if old != nil {
				l.leave(old)
			}
			return lk
		}
		if l.keeping.Err() != nil {
			return nil
		}
		delay = o.next(time.Now(), err)
		l.failed(old, o, err, delay)
		if old != nil && old.sess.Err() != nil {
			old = nil
		}
	}
	return nil
}

// sameNode says whether both tunnels are open and to one node, as far as that
// can be known.
func sameNode(old, lk *link) bool {
	if old == nil || old.sess.Err() != nil {
		return false
	}
	id := lk.sess.Peer().NodeID
	return id != "" && id == old.sess.Peer().NodeID
}

// sleepBeside is sleep that ends early when old does.
func (l *Listener) sleepBeside(old *link, d time.Duration) bool {
	if old == nil || old.sess.Err() != nil {
		return sleep(l.keeping, d)
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-old.sess.Done():
		l.log.Info("tunnel ended before it was replaced", "node", old.sess.Peer().NodeID, "reason", old.sess.Err())
		return sleep(l.keeping, time.Duration(rand.Float64()*float64(firstPause)))
	case <-l.keeping.Done():
		return false
	}
}

// leave retires old, whose place another tunnel has taken, or closes it when
// too many are being left already.
func (l *Listener) leave(old *link) {
	l.mu.Lock()
	n := len(l.open)
	l.mu.Unlock()
	if n > maxRetiring+1 {
		l.links.Go(func() { _ = old.sess.Close() })
		return
	}
	l.retire(old, settleTime)
}

func (l *Listener) opened(lk *link) {
	p := lk.sess.Peer()
	l.log.Info("tunnel open", "server", lk.sess.RemoteAddr().String(), "node", p.NodeID, "features", p.Features)
	l.report(lk, nil, 0)
}

func (l *Listener) lost(lk *link, err error, retry time.Duration) {
	l.log.Warn("tunnel lost", "node", lk.sess.Peer().NodeID, "open", time.Since(lk.since), "reason", err.Error(), "retry", retry)
	l.report(lk, err, retry)
}

// failed says that an attempt failed. Of an outage the log gets the first few
// attempts and then each sixteenth: the rest differ in nothing.
func (l *Listener) failed(lk *link, o *outage, err error, retry time.Duration) {
	const first, each = 4, 16
	if o.attempts <= first || o.attempts%each == 0 {
		l.log.Warn("cannot open tunnel", "attempt", o.attempts, "err", err.Error(), "retry", retry)
	} else {
		l.log.Debug("cannot open tunnel", "attempt", o.attempts, "err", err.Error(), "retry", retry)
	}
	l.report(lk, err, retry)
}
