package proxy

import (
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/router"
)

// maxAttempts bounds how often one request is sent.
const maxAttempts = 3

// statusClientGone is what metrics and logs say when nobody is left to answer, as nginx does.
const statusClientGone = 499

// errNoResponse is the cause with which an attempt ends whose upstream did not answer in time.
var errNoResponse = errors.New("no response in time")

// forwarder is what every handler that forwards requests shares.
type forwarder struct {
	// Static after construction.
	opt     Options
	metrics *metrics
	budget  *budget
}

// exchange is one request on its way. It belongs to the handler's goroutine but for what mu guards.
type exchange struct {
	// Static after construction.
	f     *forwarder
	w     http.ResponseWriter
	r     *http.Request
	start time.Time

	call      call
	endpoint  string
	upgrade   string // protocols to upgrade to
	url       url.URL
	outHeader http.Header
	body      *relay.Body
	tried     router.Tried
	target    router.Target // of the attempt under way

	// What became of it.
	status   int
	bytesOut int64
	bytesIn  int64 // of an upgraded connection
	retries  int
	upgraded bool
	err      error
	header   http.Header // of the response

	writer progressWriter
}

// forward sends the request to the endpoint's upstreams until one answers, and brings the client the answer.
func (x *exchange) forward(target string) {
	x.prepare(target)
	defer x.body.Finish()
	res, err := x.attempts()
	if err != nil {
		x.fail(err)
		return
	}
	defer x.target.End()
	x.body.Release()
	cleanResponse(res)
	x.status, x.header = res.StatusCode, res.Header
	if res.StatusCode == http.StatusSwitchingProtocols {
		x.switchProtocols(res)
		return
	}
	x.writer.start(x.w, x.progressLimit(res))
	n, err := relay.CopyResponse(&x.writer, res)
	x.bytesOut = n
	if err == nil {
		return
	}
	x.err = err
	if !x.clientsFault(err) {
		x.target.Failed(time.Now())
	}
	x.resetOld()
	panic(http.ErrAbortHandler) // the client must not take a part for the whole
}

// resetOld ends the connection of an HTTP/1.0 client with a reset: where the length is unknown, an orderly end would be
// that of the response. nginx is such a client unless told otherwise.
func (x *exchange) resetOld() {
	if x.r.ProtoAtLeast(1, 1) {
		return
	}
	conn, _, err := http.NewResponseController(x.w).Hijack()
	if err != nil {
		return
	}
	tcp := conn
	if t, ok := conn.(interface{ NetConn() net.Conn }); ok { // TLS, whose goodbye would be an orderly end
		tcp = t.NetConn()
	}
	if l, ok := tcp.(interface{ SetLinger(sec int) error }); ok {
		_ = l.SetLinger(0)
	}
	_ = tcp.Close()
}

// prepare makes the request for the upstream.
func (x *exchange) prepare(target string) {
	limit := x.f.opt.Timeout
	if x.upgrade != "" || isGRPC(x.r) {
		limit = -1
	}
	x.call.begin(x, limit)
	x.url = url.URL{Scheme: "http", Host: x.r.Host, Opaque: target}
	x.outHeader = x.f.outHeader(x.r)
	if x.upgrade == "" && x.outHeader["Upgrade"] != nil { // HTTP/1.0 has no upgrades
		delete(x.outHeader, "Upgrade")
		delete(x.outHeader, "Connection")
	}
	x.body = relay.TakeBody(x.w, x.r, relay.BodyOptions{Keep: maxKept, Progress: x.readProgress()})
}

// request makes the request for one attempt: the last attempt's sender may still look at its own.
func (x *exchange) request() (out *http.Request, ok bool) {
	out = x.r.WithContext(&x.call)
	out.URL, out.Header, out.Close = &x.url, x.outHeader, false
	return out, x.body.Attach(out)
}

// attempts sends the request to one candidate after the other as long as that is safe.
func (x *exchange) attempts() (*http.Response, error) {
	var last error
	for n := 0; ; n++ {
		target := x.f.opt.Lookup(x.endpoint).Pick(time.Now(), rand.Uint64(), &x.tried)
		if !target.OK() {
			if last == nil {
				last = fault.New(fault.NoUpstream, nil)
			}
			return nil, last
		}
		out, ok := x.request()
		if !ok {
			return nil, last
		}
		x.retries = n
		res, err := x.attempt(target, out)
		if err == nil {
			return res, nil
		}
		last = err
		kind, ok := x.mayRetry(err)
		if !ok || n+1 == maxAttempts || kind == retryBudget && !x.spend() {
			return nil, last
		}
		x.f.metrics.retries[kind].Inc()
	}
}

// attempt sends the request to one target. If it answers the target stays in x, to be ended with the response.
func (x *exchange) attempt(target router.Target, out *http.Request) (*http.Response, error) {
	x.target = target
	x.tried.Add(target)
	target.Begin()
	res, err := target.Upstream(x.endpoint).RoundTrip(out)
	down := err == nil && res.StatusCode == http.StatusBadGateway && agentError(res)
	if down && x.couldPassOver() {
		_ = res.Body.Close()
		err = errServiceDown
	}
	if down || err != nil && x.targetsFault(err) {
		target.Failed(time.Now())
	}
	if err != nil {
		target.End()
		return nil, err
	}
	x.call.answer()
	if !down {
		target.Succeeded()
	}
	return res, nil
}

// errServiceDown is what became of an attempt whose agent could not reach its service.
var errServiceDown = fault.New(fault.UpstreamUnreachable, errors.New("the agent cannot reach its service"))

// couldPassOver reports whether an agent's answer that its service is down need not be shown: when the request may be
// sent again and another candidate is left. Otherwise it is an answer like any other.
func (x *exchange) couldPassOver() bool {
	return x.retries+1 < maxAttempts && relay.Idempotent(x.r.Method) &&
		x.f.opt.Lookup(x.endpoint).Pick(time.Now(), rand.Uint64(), &x.tried).OK()
}

// mayRetry says whether a request that failed may be sent to another candidate, and for which reason.
func (x *exchange) mayRetry(err error) (retryKind, bool) {
	switch {
	case x.r.Context().Err() != nil, isClientError(err), x.call.timedOut():
		return 0, false
	case relay.NeverExecuted(err):
		return retryFree, true
	}
	return retryBudget, relay.Idempotent(x.r.Method) && !relay.Responded(err)
}

// spend takes a retry from the budget.
func (x *exchange) spend() bool {
	ok := x.f.budget.retry(time.Now())
	if !ok {
		x.f.metrics.exhausted.Inc()
	}
	return ok
}

func isClientError(err error) bool {
	_, ok := errors.AsType[*relay.ClientError](err)
	return ok
}

// clientsFault reports whether an exchange failed for a reason that lies with the client.
func (x *exchange) clientsFault(err error) bool {
	return isClientError(err) || x.r.Context().Err() != nil
}

// targetsFault reports whether an attempt failed for a reason that lies with the target, and not with the client or
// with how much is going on.
func (x *exchange) targetsFault(err error) bool {
	return !x.clientsFault(err) && !errors.Is(err, fault.Overloaded) && !errors.Is(err, fault.Draining)
}

// fail answers with the error, if anybody is there to read it.
func (x *exchange) fail(err error) {
	x.body.Finish() // now it is known what the client did
	x.err = err
	f := x.classify(err)
	if f == nil {
		x.status = statusClientGone
		panic(http.ErrAbortHandler)
	}
	if f.Code == fault.MalformedRequest || f.Code == fault.RequestTimeout || f.Code == fault.MethodNotAllowed {
		x.w.Header()["Connection"] = []string{"close"}
	}
	x.status = fault.Write(x.w, x.r, f)
	x.header = x.w.Header()
	if x.r.Method != http.MethodHead {
		x.bytesOut, _ = strconv.ParseInt(x.header.Get("Content-Length"), 10, 64) // none for gRPC: no body either
	}
}

// classify is the fault that an error is for the client; nil if the client is gone.
func (x *exchange) classify(err error) *fault.Error {
	if clientErr := x.body.Err(); clientErr != nil {
		return classifyBody(clientErr)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	switch {
	case x.r.Context().Err() != nil:
		return nil
	case isClientError(err):
		return fault.New(fault.MalformedRequest, err)
	case x.call.timedOut():
		return fault.New(fault.UpstreamTimeout, err)
	}
	return fault.New(fault.UpstreamUnreachable, err)
}

// classifyBody tells a body that stayed away, one that broke off and one that is malformed apart.
func classifyBody(err error) *fault.Error {
	ne, network := errors.AsType[net.Error](err)
	switch {
	case network && ne.Timeout():
		return fault.New(fault.RequestTimeout, err)
	case network, errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return nil
	}
	return fault.New(fault.MalformedRequest, err)
}

// switchProtocols takes the connection over.
func (x *exchange) switchProtocols(res *http.Response) {
	x.upgraded = true
	x.logOpened()
	in, out, err := relay.Upgrade(x.w, x.r, res)
	x.bytesIn, x.bytesOut, x.err = in, out, err
}

// isGRPC: gRPC has time-outs of its own, and streams that rest for long.
func isGRPC(r *http.Request) bool {
	return strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}
