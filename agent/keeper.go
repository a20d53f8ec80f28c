package agent

import (
	"context"
	"errors"
	"net/http"
	"time"

	"piko/fault"
	"piko/relay"
)

// keeper decides for a relay.Lane what the handler decides for other requests.
// It belongs to the goroutine of its stream.
type keeper struct {
	// Static after construction.
	l    *listener
	base context.Context

	untraced *untraced // nil: tracing is off

	answered bool // the service has
	back     bool // the request is given to net/http's server, which counts it
	log      laneLog
}

// Begin implements relay.LaneKeeper.
func (k *keeper) Begin(la *relay.Lane) bool {
	if !k.l.upstream.takes1(k.base, &la.Request) || k.untraced != nil && k.untraced.parents != 1 {
		return false
	}
	k.answered, k.back = false, false
	la.Heads = k.l.access.Enabled(http.StatusInternalServerError)
	k.l.metrics.inFlight.Inc()
	k.l.active.Add(1)
	return true
}

// laneAttempts bounds how often a request is sent of which nothing has left.
const laneAttempts = 3

// Again implements relay.LaneKeeper.
func (k *keeper) Again(la *relay.Lane, err error, opened bool) bool {
	if !opened || !relay.NeverExecuted(err) || la.Request.Retries+1 >= laneAttempts {
		return false
	}
	la.Request.Retries++
	return true
}

// Closing implements relay.LaneKeeper. A node that is not told of the drain
// (v0.9.0's has no way to be) reuses no stream after this.
func (k *keeper) Closing() bool { return k.l.draining.Load() }

// Answered implements relay.LaneKeeper.
func (k *keeper) Answered(*relay.Lane, []byte) {
	k.answered = true
	k.l.answered()
	k.l.upstream.answered(k.l.upstream.http1)
}

// Failed implements relay.LaneKeeper. A client that is gone gets no answer.
func (k *keeper) Failed(la *relay.Lane, err error, intact bool) (answer []byte, back bool) {
	r := &la.Request
	r.Err = err
	_, client := errors.AsType[*relay.ClientError](err)
	if client || la.Cause() != nil {
		r.Status = statusClientGone
		return nil, false
	}
	if k.l.upstream.mistaken(k.base, k.l.upstream.http1, err) && intact {
		k.back = true
		return nil, true
	}
	f := serviceFault(err)
	k.l.unanswered(f)
	r.Err = f
	return writeFault(r, f), false
}

// End implements relay.LaneKeeper.
func (k *keeper) End(la *relay.Lane) {
	l, r := k.l, &la.Request
	l.active.Add(-1)
	l.metrics.inFlight.Dec()
	if k.back {
		return
	}
	if r.Err != nil && k.answered && la.Cause() == nil {
		l.brokeOff(r.Err)
	}
	took := time.Since(r.Start)
	l.metrics.done(r.Method, r.Status, took, r.Received, r.Sent)
	if la.Heads && l.access.Enabled(r.Status) {
		k.log.write(l, r, took)
	}
}

// writeFault returns the answer that fault.Write gives, as net/http's server
// would send it.
func writeFault(r *relay.LaneRequest, err error) []byte {
	w := &faultWriter{header: make(http.Header)}
	r.Status = fault.Write(w, nil, err)
	w.header.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	b := append([]byte("HTTP/1.1 "), statusLine(r.Status)...)
	for name, values := range w.header {
		for _, v := range values {
			b = append(append(append(append(b, name...), ": "...), v...), "\r\n"...)
		}
	}
	r.ResponseHead = string(b)
	b = append(b, "\r\n"...)
	if r.Method != http.MethodHead {
		r.Sent = 0 // as the handler counts: it is not the service's
		b = append(b, w.body...)
	}
	return b
}

// faultWriter keeps what fault.Write writes.
type faultWriter struct {
	header http.Header
	body   []byte
}

func (w *faultWriter) Header() http.Header { return w.header }
func (w *faultWriter) WriteHeader(int)     {}

func (w *faultWriter) Write(p []byte) (int, error) {
	w.body = append(w.body, p...)
	return len(p), nil
}
