package agent

import (
	"errors"
	"net/http"
	"net/url"
	"time"

	"piko/accesslog"
	"piko/fault"
	"piko/relay"
)

// accessSubsystem is what the access log calls this part, as v0.9.0 does.
const accessSubsystem = "proxy.http.access"

// statusClientGone is what is counted and logged for a request whose client
// went away, or that was cut, before there was an answer. It is never sent.
const statusClientGone = 499

// maxAttempts bounds how often a request is tried whose connection turned out
// to be dead before anything had been sent on it.
const maxAttempts = 3

// keepBody is how long a body may be, in bytes, to be kept for such an attempt.
const keepBody = 4 << 10

// ServeHTTP forwards one request to the service.
func (l *listener) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	x := &exchange{l: l, w: w, in: r, start: time.Now()}
	l.metrics.inFlight.Inc()
	l.active.Add(1)
	defer x.finish() // also when a panic aborts the answer
	if l.tracer != nil {
		x.trace = &trace{span: l.tracer.Serve(r, x.start)}
	}
	x.body = relay.TakeBody(w, r, relay.BodyOptions{Keep: keepBody})
	defer x.body.Finish()
	x.call.begin(x)
	defer x.call.end()
	if l.draining.Load() {
		// The node that is not told of the drain (v0.9.0's has no way to be)
		// reuses no stream after this, so that the listener comes to an end.
		w.Header().Set("Connection", "close")
	}
	res, err := x.roundTrip()
	if x.trace != nil && err == nil {
		x.trace.answered(res)
	}
	switch {
	case err != nil:
		x.fail(err)
	case res.StatusCode == http.StatusSwitchingProtocols:
		x.upgrade(res)
	default:
		x.respond(res)
	}
}

// exchange is one request on its way; it belongs to the handler's goroutine.
type exchange struct {
	l     *listener
	w     http.ResponseWriter
	in    *http.Request
	body  *relay.Body
	call  call
	url   url.URL
	start time.Time
	due   time.Time // when the time of a call is over; zero is never

	status   int
	upgraded bool
	received int64 // bytes of the body, or of the upgraded connection
	sent     int64 // likewise, to the client
	took     time.Duration
	retries  int
	err      error

	trace *trace // nil: tracing is off
}

// roundTrip sends the request to the service. It is sent again, over another
// connection, only when nothing of it can have reached the service; a dial
// that failed is not tried again, since nothing says that the next one would
// not fail as well.
func (x *exchange) roundTrip() (*http.Response, error) {
	out, err := x.request()
	if err != nil {
		return nil, err
	}
	pristine := *out // the sender of an attempt fills in the trailers
	x.body.Attach(out)
	for {
		rt, err := x.l.upstream.choose(out)
		if err != nil {
			return nil, err
		}
		res, err := rt.RoundTrip(out)
		if err == nil {
			x.l.upstream.answered(rt)
			return res, nil
		}
		if x.retries+1 >= maxAttempts || !x.retryable(rt, err) {
			return nil, err
		}
		// Another request, since whoever sends that one may not have noticed.
		again := pristine
		out = &again
		if !x.body.Attach(out) {
			return res, err
		}
		x.retries++
	}
}

func (x *exchange) retryable(rt http.RoundTripper, err error) bool {
	if x.call.Err() != nil {
		return false
	}
	if x.l.upstream.mistaken(&x.call, rt, err) {
		return true
	}
	_, dial := errors.AsType[*dialError](err)
	return !dial && !errors.Is(err, relay.ErrNotHTTP2) && relay.NeverExecuted(err)
}

// request is what the service gets: the client's request with the hop-by-hop
// headers taken out. What the node put in (X-Forwarded-*, x-request-id) passes
// as it is, and so does the Host.
func (x *exchange) request() (*http.Request, error) {
	if _, err := relay.UpgradeType(x.in.Header); err != nil {
		return nil, fault.New(fault.MalformedRequest, err)
	}
	out := x.in.WithContext(&x.call)
	x.url = url.URL{Scheme: x.l.service.scheme, Host: x.l.service.host, Opaque: x.l.service.target(x.in)}
	out.URL = &x.url
	out.RequestURI = ""
	out.Close = false // the node's wish is for its own connection
	out.Header = relay.OutHeader(x.in.Header, nil)
	if x.trace != nil {
		x.trace.send(x, out.Header)
	}
	return out, nil
}

// respond copies the service's answer to the client.
func (x *exchange) respond(res *http.Response) {
	x.l.answered()
	delete(res.Header, fault.HeaderError) // only the agent itself says that its service fails
	x.status = res.StatusCode
	x.body.Announce(x.w.Header())
	n, err := relay.CopyResponse(x.w, res)
	x.sent = n
	if err != nil {
		if x.call.Err() == nil {
			x.l.brokeOff(err)
		}
		x.abort(err)
	}
}

// upgrade joins the client's connection with the service's until both end.
func (x *exchange) upgrade(res *http.Response) {
	x.l.answered()
	delete(res.Header, fault.HeaderError)
	x.status, x.upgraded = res.StatusCode, true
	if x.trace != nil {
		x.endTrace() // the handshake is over; the connection may live for days
	}
	// The server forgets the connection when it is taken over; run must not.
	x.l.upgrades.Add(1) // until finish
	x.l.upgraded.Add(1)
	defer x.l.upgraded.Add(-1)
	x.log(accesslog.Opened)
	x.received, x.sent, x.err = relay.Upgrade(x.w, x.in, res)
}

// fail answers with the fault that err stands for. A client that is gone gets
// no answer: its connection is cut, so that the node does not take the failure
// for the service's.
func (x *exchange) fail(err error) {
	cause := x.call.ended()
	if cause != nil && cause != errDeadline {
		x.status = statusClientGone
		x.abort(cause)
	}
	if _, ok := errors.AsType[*relay.ClientError](err); ok && cause == nil {
		x.status = statusClientGone
		x.abort(err)
	}
	x.body.Finish()
	f := errDeadline
	if cause == nil {
		f = serviceFault(err)
		x.l.unanswered(f)
	}
	x.err = f
	x.status = fault.Write(x.w, x.in, f)
}

// abort ends the client's connection, so that an answer that is not whole is
// not taken for one.
func (x *exchange) abort(err error) {
	x.err = err
	panic(http.ErrAbortHandler)
}

// serviceFault is what a client is told of a service that gave no answer: it
// is unreachable, unless err says better.
func serviceFault(err error) *fault.Error {
	f := fault.From(err)
	if f.Code == fault.Internal && !errors.Is(err, fault.Internal) {
		return fault.New(fault.UpstreamUnreachable, err)
	}
	return f
}

// finish counts and logs the exchange.
func (x *exchange) finish() {
	if x.upgraded {
		defer x.l.upgrades.Done()
	}
	x.l.active.Add(-1)
	x.took = time.Since(x.start)
	if x.err != nil {
		if w, ok := x.w.(interface{ Failed(error) }); ok { // see Config.Wrap
			w.Failed(x.err)
		}
	}
	x.received += x.body.Bytes()
	if x.trace != nil {
		x.endTrace()
	}
	m := x.l.metrics
	m.inFlight.Dec()
	if x.upgraded {
		m.request(x.in.Method, x.status).requests.Inc()
		x.log(accesslog.Closed)
		return
	}
	m.done(x.in.Method, x.status, x.took, x.received, x.sent)
	x.log(accesslog.Request)
}

// log writes a line to the access log.
func (x *exchange) log(kind accesslog.Kind) {
	if !x.l.access.Enabled(x.status) {
		return
	}
	r := x.in
	rec := accesslog.Record{
		Kind:  kind,
		Proto: r.Proto, Method: r.Method, Host: r.Host, Path: r.URL.Path,
		Endpoint: x.l.cfg.Endpoint, Client: r.Header.Get("X-Forwarded-For"), Upstream: x.l.service.host,
		Status: x.status, BytesIn: x.received, BytesOut: x.sent, Duration: x.took, Retries: x.retries,
		RequestID:     r.Header.Get("X-Request-Id"),
		RequestHeader: r.Header, ResponseHeader: x.w.Header(),
	}
	if x.err != nil {
		rec.Err = x.err.Error()
	}
	if x.trace != nil {
		rec.TraceID = x.trace.span.TraceID()
	}
	x.l.access.Log(&rec)
}
