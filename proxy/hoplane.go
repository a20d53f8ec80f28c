package proxy

import (
	"bytes"
	"errors"
	"net/http"
	"strconv"

	"piko/fault"
	"piko/relay"
	"piko/router"
)

// laner is an upstream whose connections a relay.Lane may use.
type laner interface {
	// LanePool returns the connections for a request, which is counted as one; false if it is not for them.
	LanePool(r *relay.LaneRequest) (*relay.Pool, bool)
}

// NewLane returns the lane of one connection of another node: it does what ServeHTTP does for plain requests, with bodies that
// can be kept, and gives back all others. The http.Server that those go to must serve this Peer.
func (p *Peer) NewLane() *relay.Lane {
	k := &hopLane{x: exchange{f: &p.forwarder, peer: p}}
	return &relay.Lane{Keeper: k, Filter: k, Keep: maxKept, Buffers: p.opt.Buffers}
}

// hopLane decides for a relay.Lane what the handler decides for other requests. It belongs to the goroutine of its
// connection.
type hopLane struct {
	x exchange // of the request under way, as far as its targets and errors go

	// Of the head that was read last.
	routes, attempts int    // fields
	route            []byte // value of headerRoute, of this head or one before
	endpoint         string // what route says; "" is nothing
	more             int    // value of headerAttempts

	held       bool // Begin of the target was called
	answered   bool
	judged     bool  // the last attempt's failure
	last       error // that
	misfit     bool  // what is left to try is not for a lane
	back       bool  // the request is given to net/http's server, which counts it
	fields     int   // headerError in the response
	agentError bool  // the response is an agent's about its service
}

// Begin implements relay.LaneKeeper.
func (k *hopLane) Begin(l *relay.Lane) bool {
	if k.routes != 1 || l.Request.Length < 0 || l.Request.Length > maxKept {
		return false
	}
	x := &k.x
	x.endpoint, x.tried, x.target = k.endpoint, router.Tried{}, router.Target{}
	x.attempt = attemptState{most: 1 + k.more}
	x.status, x.hopResult, x.err = 0, hopServed, nil
	k.held, k.answered, k.judged, k.misfit, k.back, k.fields, k.agentError = false, false, false, false, false, 0, false
	target := x.pick()
	if !target.OK() || !target.Begin() {
		return false // the handler says so
	}
	if !k.take(l, target) {
		return false
	}
	x.peer.metrics.inFlight.Inc()
	return true
}

// take has the lane send the request to a target, which has counted it.
func (k *hopLane) take(l *relay.Lane, target router.Target) bool {
	u, ok := target.Local.Upstream().(laner)
	if ok {
		l.Pool, ok = u.LanePool(&l.Request)
	}
	if !ok {
		target.End()
		return false
	}
	k.x.target, k.held = target, true
	k.x.tried.Add(target)
	k.judged, k.fields, k.agentError = false, 0, false
	return true
}

// release ends what take began.
func (k *hopLane) release() {
	if k.held {
		k.held = false
		k.x.target.End()
	}
}

// Again implements relay.LaneKeeper.
func (k *hopLane) Again(l *relay.Lane, err error, _ bool) bool {
	x := &k.x
	for k.judge(l, err) && x.attempt.used < x.attempt.most {
		x.countRetry(retryFree)
		target := x.pick()
		switch {
		case !target.OK():
			return false
		case !target.Begin():
			x.target = target
			x.tried.Add(target)
			err = x.full()
			continue
		case k.take(l, target):
			return true
		}
		k.misfit = true
		return false
	}
	return false
}

// judge takes note of an attempt that failed, and reports whether it was never executed.
func (k *hopLane) judge(l *relay.Lane, err error) bool {
	x := &k.x
	k.release()
	if errors.Is(err, relay.ErrPoolClosed) {
		err = fault.New(fault.Draining, err) // which is why
	}
	k.judged, k.last = true, err
	if k.targetsFault(l, err) {
		x.blame(x.target, err)
	}
	x.attempt.used++
	x.attempt.overloaded = x.attempt.overloaded || errors.Is(err, fault.Overloaded)
	x.attempt.draining = x.attempt.draining || errors.Is(err, fault.Draining)
	never := relay.NeverExecuted(err)
	x.attempt.uncertain = x.attempt.uncertain || !never
	return never
}

// targetsFault is that of the exchange, which asks a request that is none here.
func (k *hopLane) targetsFault(l *relay.Lane, err error) bool {
	return l.Cause() == nil && !isClientError(err) &&
		!errors.Is(err, fault.Overloaded) && !errors.Is(err, fault.Draining) && !isWrongProtocol(err)
}

// Failed implements relay.LaneKeeper.
func (k *hopLane) Failed(l *relay.Lane, err error, intact bool) (answer []byte, back bool) {
	x, r := &k.x, &l.Request
	if r.Err = err; l.Cause() != nil || isClientError(err) {
		x.status, x.hopResult = statusClientGone, hopAborted
		r.Status = x.status
		return nil, false // the entry node knows what its client did
	}
	if !k.judged {
		k.judge(l, err)
	}
	if k.misfit && intact {
		k.back = true
		return nil, true
	}
	if relay.NeverExecuted(k.last) {
		k.last = x.nobody(k.last)
	}
	r.Err = k.last
	h := make(http.Header)
	x.answerHop(k.last, h)
	r.Status = x.status
	b := append([]byte("HTTP/1.1 "), strconv.Itoa(x.status)...)
	b = append(append(append(b, ' '), http.StatusText(x.status)...), "\r\n"...)
	for name, values := range h {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	return append(b, "\r\n"...), false
}

// Answered implements relay.LaneKeeper.
func (k *hopLane) Answered(l *relay.Lane, head []byte) {
	x := &k.x
	k.answered = true
	x.status = l.Request.Status
	down := x.status == http.StatusBadGateway && k.agentError
	switch {
	case down:
		x.blame(x.target, errServiceDown)
	case x.status >= http.StatusInternalServerError:
		line, _, _ := bytes.Cut(head, []byte("\r\n"))
		_, said, _ := bytes.Cut(line, []byte(" "))
		k.noteAnswer(string(bytes.TrimSpace(said)))
	}
	if !down {
		x.praise(x.target)
	}
}

// noteAnswer is that for responses.
func (k *hopLane) noteAnswer(said string) {
	u := accountant(k.x.target)
	switch {
	case u == nil:
	case k.agentError: // the other code that an agent has
		u.NoteFailure(fault.UpstreamTimeout, "the agent answered "+said)
	default:
		u.NoteFailure("", "the service answered "+said)
	}
}

// Closing implements relay.LaneKeeper: connections between nodes end as their callers want.
func (k *hopLane) Closing() bool { return false }

// End implements relay.LaneKeeper.
func (k *hopLane) End(l *relay.Lane) {
	x := &k.x
	err := l.Request.Err
	if k.answered && err != nil && k.targetsFault(l, err) {
		x.blame(x.target, err)
	}
	k.release()
	k.last, k.routes = nil, 0
	if k.back {
		x.peer.metrics.inFlight.Dec()
		return
	}
	x.err = err
	x.endHop()
	x.err, x.target = nil, router.Target{}
}
