package proxy

import (
	"errors"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync/atomic"
	"time"

	"piko/auth"
	"piko/fault"
	"piko/limit"
	"piko/relay"
	"piko/router"
	"piko/stats"
)

// statusClientGone is what metrics and logs say when nobody is left to answer, as nginx does.
const statusClientGone = 499

// errNoResponse is the cause with which an attempt ends whose upstream did not answer in time.
var errNoResponse = errors.New("no response in time")

// forwarder is what every handler that forwards requests shares.
type forwarder struct {
	// Static after construction.
	opt     Options
	metrics *metrics // nil at the owner, as is budget
	budget  *budget

	hosts   atomic.Pointer[hosts] // nil at the owner
	waiters atomic.Int32          // requests that wait for a candidate
}

// exchange is one request on its way. It belongs to the handler's goroutine but for what mu guards.
type exchange struct {
	// Static after construction.
	f     *forwarder
	peer  *Peer // set at the owner, for what came by a hop
	w     http.ResponseWriter
	r     *http.Request
	start time.Time

	call      call
	bearer    auth.Bearer // zero without Auth; of a refused request only whose the host is
	endpoint  string      // its name in the table, with its tenant
	upgrade   string      // protocols to upgrade to
	url       url.URL
	template  http.Request  // of the attempts' requests, but for header and body
	fresh     *http.Request // a copy of it for the first attempt; nil when it was taken
	outHeader http.Header
	body      *relay.Body
	tried     router.Tried
	first     router.Target // what was picked for the first attempt already, if anything
	target    router.Target // of the attempt under way
	attempt   attemptState
	route     [1]string // value of headerRoute

	// What became of it.
	status   int
	bytesOut int64
	bytesIn  int64 // of an upgraded connection
	retries  int
	upgraded bool
	err      error
	header   http.Header // of the response

	hopResult hopResult // at the owner

	writer progressWriter
	pass   limit.Pass // given back at the end

	traffic *stats.Endpoint // nil if the endpoint is not counted
	counted bool            // beginTraffic was called

	trace *trace // nil: tracing is off, or this is a connection that is carried byte for byte
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
	x.writer.start(x.w, x.r, x.progressLimit(res))
	x.body.Announce(x.w.Header())
	n, err := relay.CopyResponse(&x.writer, res)
	x.bytesOut = n
	if err == nil {
		x.writer.end()
		return
	}
	if lapsed := x.call.lapsed(); lapsed != nil {
		err = lapsed
	}
	x.err = err
	if x.targetsFault(err) {
		x.blame(x.target, err)
	}
	if x.endGRPC(err) {
		return
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
	for { // below TLS, whose goodbye would be an orderly end
		t, ok := tcp.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
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
	x.call.begin(x, limit, x.f.opt.SendTimeout)
	x.url = url.URL{Scheme: "http", Host: x.r.Host, Opaque: target}
	x.attempt.most = maxAttempts
	x.call.live()
	if x.peer != nil {
		x.prepareHop()
	} else {
		x.outHeader = x.f.outHeader(x.r)
	}
	if x.trace != nil {
		x.trace.span.Propagate(x.outHeader)
	}
	if x.upgrade == "" && x.outHeader["Upgrade"] != nil { // HTTP/1.0 has no upgrades
		delete(x.outHeader, "Upgrade")
		delete(x.outHeader, "Connection")
	}
	x.fresh = x.r.WithContext(&x.call)
	x.fresh.URL, x.fresh.Close = &x.url, false
	x.template = *x.fresh
	x.body = relay.TakeBody(x.w, x.r, relay.BodyOptions{Keep: maxKept, Buffers: x.f.opt.Buffers, Progress: x.readProgress()})
	if d, ok := x.grpcTimeout(); ok {
		x.call.expireAfter(d, grpcGrace)
	}
}

// fail answers with the error, if anybody is there to read it.
func (x *exchange) fail(err error) {
	gone := x.r.Context().Err() != nil // net/http would also end the context with the read that Finish ends
	x.body.Finish()                    // now it is known what the client did
	x.err = err
	if x.peer != nil {
		x.failHop(err, gone)
		return
	}
	f := x.classify(err, gone)
	if f == nil {
		x.status = statusClientGone
		panic(http.ErrAbortHandler)
	}
	if x.r.ProtoMajor == 1 && (f.Code == fault.MalformedRequest || f.Code == fault.RequestTimeout || f.Code == fault.MethodNotAllowed) {
		x.w.Header()["Connection"] = []string{"close"}
	}
	x.status = fault.Write(x.w, x.r, f)
	if x.r.ProtoMajor >= 2 {
		boundEnd(x.w, x.f.opt.WriteTimeout)
	}
	x.header = x.w.Header()
	if x.r.Method != http.MethodHead {
		x.bytesOut, _ = strconv.ParseInt(x.header.Get("Content-Length"), 10, 64) // none for gRPC: no body either
	}
}

// classify is the fault that an error is for the client; nil if the client is gone.
func (x *exchange) classify(err error, gone bool) *fault.Error {
	if gone && x.r.ProtoMajor > 1 { // what reading the body failed with says no more
		return nil
	}
	if x.call.Cause() == error(errHeld) {
		return errHeld
	}
	if clientErr := x.body.Err(); clientErr != nil {
		return classifyBody(clientErr)
	}
	if f, ok := errors.AsType[*fault.Error](err); ok {
		return f
	}
	switch {
	case gone:
		return nil
	case x.call.lapsed() != nil:
		return fault.New(fault.From(x.call.lapsed()).Code, x.call.lapsed())
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
	if x.trace != nil {
		x.endTrace() // the handshake is over; the connection may live for days
	}
	x.logOpened()
	x.call.outlive()
	ctx, end := x.mortal()
	defer end()
	in, out, err := relay.Upgrade(x.w, x.r.WithContext(ctx), res)
	x.bytesIn, x.bytesOut, x.err = in, out, err
}
