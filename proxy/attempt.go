package proxy

import (
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/router"
)

// maxAttempts bounds how often one request is sent, over both nodes.
const maxAttempts = 3

// attemptState is what the attempts of a request have come to. It belongs to the handler's goroutine.
type attemptState struct {
	most int // attempts that may be made
	used int // those that were, here and at owners

	candidates int       // in the route that was looked at last
	hopped     bool      // another node was asked
	uncertain  bool      // a service may have seen the request
	overloaded bool      // somebody had too much to do
	draining   bool      // somebody is about to leave, most likely for another node
	until      time.Time // no wait for a candidate goes on for longer; zero before the first

	lost  router.Target // node the connection to which broke, or none
	down  bool          // lost was seen to be unreachable since
	again bool          // a node was asked again that had not been seen to be unreachable
}

// regained reports whether the node that was lost can be reached again. It is asked some time after that. A connection
// that broke may not have been the only one, and may have been made anew before anybody looked: so a node that is not
// known to be unreachable is asked once more.
func (a *attemptState) regained() bool {
	if a.lost.Node == nil {
		return false
	}
	if !a.lost.Node.Alive() {
		a.down = true
		return false
	}
	ok := a.down || !a.again
	a.again = a.again || !a.down
	return ok
}

// attempts sends the request to one candidate after the other as long as that is safe.
func (x *exchange) attempts() (*http.Response, error) {
	var last error
	for n := 0; ; n++ {
		target := x.first
		if x.first = (router.Target{}); !target.OK() {
			target = x.pick()
		}
		if !target.OK() {
			var err error
			if target, err = x.await(last); err != nil {
				return nil, err
			}
		}
		out, ok := x.request(target)
		if !ok {
			return nil, x.nobody(last)
		}
		x.retries = n
		res, err := x.send(target, out)
		if err == nil {
			return res, nil
		}
		last = err
		x.attempt.used++
		kind, ok := x.mayRetry(err)
		if !ok || kind == retryBudget && x.attempt.used < x.attempt.most && !x.spend() {
			return nil, last
		}
		if x.attempt.used >= x.attempt.most {
			return nil, x.nobody(last)
		}
		x.countRetry(kind)
	}
}

// pick chooses a candidate that was not tried yet. The owner of a hop has local ones only: it knows no other nodes, so
// that nothing can make a request go round.
func (x *exchange) pick() router.Target {
	route := x.f.opt.Lookup(x.endpoint)
	if route == nil {
		return router.Target{}
	}
	x.beginTraffic()
	if x.peer != nil {
		route = &router.Route{Locals: route.Locals}
	}
	x.attempt.candidates = len(route.Locals) + len(route.Remotes)
	return route.Pick(time.Now(), rand.Uint64(), &x.tried)
}

// request makes the request for one attempt: the last attempt's sender may still look at its own, and write to the
// client's request, for it may read the trailers.
func (x *exchange) request(target router.Target) (out *http.Request, ok bool) {
	out, x.fresh = x.fresh, nil
	if out == nil {
		out = new(http.Request)
		*out = x.template
	}
	out.Header = x.headerFor(target)
	if x.trace != nil {
		out.Header = x.traceAttempt(target, out.Header)
	}
	ok = x.body.Attach(out)
	if len(out.Trailer) > 0 && out.ContentLength > 0 {
		out.ContentLength = -1 // HTTP/2 has both length and trailers, HTTP/1.1 one of them
	}
	return out, ok
}

// send sends the request to one target. If it answers the target stays in x, to be ended with the response.
func (x *exchange) send(target router.Target, out *http.Request) (*http.Response, error) {
	x.target = target
	x.tried.Add(target)
	if !target.Begin() {
		return nil, x.full()
	}
	var res *http.Response
	var err error
	if target.Node != nil {
		res, err = x.hop(target, out)
	} else {
		res, err = target.Upstream(x.endpoint).RoundTrip(out)
	}
	if x.trace != nil {
		x.trace.answered(res, err)
	}
	down := err == nil && res.StatusCode == http.StatusBadGateway && agentError(res)
	if down && x.couldPassOver() {
		_ = res.Body.Close()
		err = errServiceDown
	}
	switch {
	case down:
		x.blame(target, errServiceDown)
	case err != nil && x.targetsFault(err):
		x.blame(target, err)
	case err == nil && res.StatusCode >= http.StatusInternalServerError:
		noteAnswer(target, res)
	}
	if err != nil {
		target.End()
		return nil, err
	}
	x.call.answer()
	if !down {
		x.praise(target)
	}
	return res, nil
}

// errServiceDown is what became of an attempt whose agent could not reach its service.
var errServiceDown = fault.New(fault.UpstreamUnreachable, errors.New("the agent cannot reach its service"))

// couldPassOver reports whether an agent's answer that its service is down need not be shown: when the request may be
// sent again and another candidate is left. Otherwise it is an answer like any other. The owner shows it to the entry
// node, which decides.
func (x *exchange) couldPassOver() bool {
	return x.peer == nil && x.attempt.used+1 < x.attempt.most && relay.Idempotent(x.r.Method) && x.pick().OK()
}

// mayRetry says whether a request that failed may be sent to another candidate, and for which reason.
func (x *exchange) mayRetry(err error) (retryKind, bool) {
	x.attempt.overloaded = x.attempt.overloaded || errors.Is(err, fault.Overloaded)
	x.attempt.draining = x.attempt.draining || errors.Is(err, fault.Draining)
	switch {
	case x.r.Context().Err() != nil, isClientError(err), x.call.timedOut(), x.call.lapsed() != nil:
		return 0, false
	case relay.NeverExecuted(err):
		return retryFree, true
	}
	x.attempt.uncertain = true
	return retryBudget, x.peer == nil && relay.Idempotent(x.r.Method) && !responded(err)
}

// responded reports whether the beginning of a response was seen, here or by the owner.
func responded(err error) bool {
	h, ok := errors.AsType[*hopError](err)
	return ok && h.responded || relay.Responded(err)
}

// spend takes a retry from the budget.
func (x *exchange) spend() bool {
	ok := x.f.budget.retry(time.Now())
	if !ok {
		x.f.metrics.exhausted.Inc()
	}
	return ok
}

func (x *exchange) countRetry(kind retryKind) {
	if x.peer != nil {
		x.peer.metrics.retries.Inc()
		return
	}
	x.f.metrics.retries[kind].Inc()
}

func isClientError(err error) bool {
	_, ok := errors.AsType[*relay.ClientError](err)
	return ok
}

// clientsFault reports whether an exchange failed for a reason that lies with the client.
func (x *exchange) clientsFault(err error) bool {
	return isClientError(err) || x.r.Context().Err() != nil || x.call.expired() || x.call.lapsed() != nil
}

// targetsFault reports whether an attempt failed for a reason that lies with the target, and not with the client or
// with how much is going on.
func (x *exchange) targetsFault(err error) bool {
	return !x.clientsFault(err) && !errors.Is(err, fault.Overloaded) && !errors.Is(err, fault.Draining) && !isWrongProtocol(err)
}
