package relay

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// RoundTrip implements http.RoundTripper for HTTP/1.1: it returns when the head of the final response has come.
//
// The request's head says what the request says and nothing else: no User-Agent and no Accept-Encoding is added. The
// target is URL.Opaque as it is, if set. Expect: 100-continue holds the body back until the service says 100, says
// something final, or was silent for a second. Of httptrace, GotConn, WroteRequest, GotFirstResponseByte,
// Got100Continue and Got1xxResponse are called; a Watcher costs less.
//
// An answer 101 to an upgrade has a Body that is an io.ReadWriteCloser with CloseWrite. Trailers are in res.Trailer
// once Body has said io.EOF. The response may come before the request's body was sent: the body is then sent on until
// the response has ended. Closing Body early ends the connection and waits for nothing. When the request's context
// ends, so does the exchange.
func (p *Pool) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx := req.Context()
	err := checkRequest(req)
	if err == nil && ctx.Err() != nil {
		err = &exchangeError{op: "send request", err: context.Cause(ctx), never: true}
	}
	fresh := p.Fresh != nil && p.Fresh(req.Method)
	for err == nil {
		c, dialErr := p.take(ctx, fresh)
		if dialErr != nil {
			err = &exchangeError{op: "open connection", err: dialErr, never: true}
			break
		}
		x := &exchange{p: p, c: c, req: req, ctx: ctx}
		x.watcher, _ = ctx.(Watcher)
		res, xerr := x.run()
		if xerr == nil {
			return res, nil
		}
		if !p.again(req, c, xerr) {
			return nil, xerr
		}
		fresh = fresh || !NeverExecuted(xerr)
	}
	if req.Body != nil {
		_ = req.Body.Close()
	}
	return nil, err
}

// again reports whether an exchange failed only because an idle connection had ended.
func (p *Pool) again(req *http.Request, c *conn, err error) bool {
	if !c.reused || hasBody(req) || req.Context().Err() != nil {
		return false
	}
	if _, ok := errors.AsType[*ProtocolError](err); ok {
		return false
	}
	return NeverExecuted(err) || p.RetryStale && Idempotent(req.Method) && !Responded(err)
}

// exchange is one request and its response on one connection, and the response's body.
type exchange struct {
	// Static after construction.
	p       *Pool
	c       *conn
	req     *http.Request
	ctx     context.Context // ends the exchange; also that of req
	watcher Watcher         // ctx, if it is one; otherwise
	trace   *httptrace.ClientTrace
	stop    func() bool

	// Owned by the caller of RoundTrip, then by the reader of the body.
	res       http.Response
	head      head
	chunks    chunks
	left      int64 // of a body with a length
	responded bool

	readMu sync.Mutex // held by Read and Close
	ended  error      // guarded by readMu: what Read says from now on

	// Owned by the sender.
	out sender

	writing sync.Mutex // held by each write, and by settle; taken before mu

	// Guarded by mu.
	mu       sync.Mutex
	cause    error // the first reason to give up
	aborted  bool
	wrote    bool          // something of the request
	writeErr error         // of the request, while the response may still come
	sending  bool          // the request is not out yet
	reading  bool          // the response is not in yet
	unfit    bool          // the connection cannot carry another exchange
	hurried  bool          // the connection has a write deadline
	taken    bool          // by Upgrade, which ends it
	sent     chan struct{} // closed when sending ends; made by the one who waits for it
}

// run writes the request and reads the head of the response.
func (x *exchange) run() (*http.Response, error) {
	x.reading, x.sending = true, true
	if hasBody(x.req) && hasToken(x.req.Header["Expect"], "100-continue") {
		x.out.go100 = make(chan bool, 1)
	}
	x.c.hold()
	x.watch()
	x.send()
	err := x.readHead()
	if err == nil && x.head.status == http.StatusSwitchingProtocols {
		err = x.switchProtocols()
	} else if err == nil {
		x.startBody()
	}
	if err != nil {
		err = x.failure(err)
		x.Abort(err)
		x.endReading(err)
		return nil, err
	}
	x.head.fill(&x.res)
	x.res.Request = x.req
	return &x.res, nil
}

// readHead reads responses until a final one.
func (x *exchange) readHead() error {
	most := maxInformational
	if x.out.go100 != nil {
		most++ // the 100 that was asked for, perhaps by a node before one that sends the service's own on
	}
	for n := 0; ; n++ {
		raw, err := x.readRaw()
		if err != nil {
			return err
		}
		if x.head, err = parseHead(raw, x.req.Method); err != nil {
			return err
		}
		if x.head.status >= 200 || x.head.status == http.StatusSwitchingProtocols {
			return nil
		}
		if n == most {
			return malformed("more than %d informational responses", maxInformational)
		}
		if err := x.informational(); err != nil {
			return err
		}
	}
}

func (x *exchange) readRaw() ([]byte, error) {
	limit := x.p.maxResponseHeader()
	if !x.responded && x.c.buffered() == 0 {
		if err := x.c.more(); err != nil {
			return nil, err
		}
		x.responded = true
		x.tellFirstByte()
	}
	raw, err := x.c.head(limit)
	if err == errTooLong {
		return nil, malformed("header over %d bytes", limit)
	}
	return raw, unexpected(err)
}

// informational passes a 1xx response on, and a 100 before the body is read: net/http would say 100 itself then, in the
// sender's goroutine, and must not say anything else in another at the same time. That is why the others are dropped
// when the body was not waited for.
func (x *exchange) informational() error {
	if x.out.unasked.Load() {
		return nil
	}
	err := x.tellInformational()
	if x.head.status == http.StatusContinue {
		x.out.proceed()
	}
	return err
}

// startBody makes the response's body ready.
func (x *exchange) startBody() {
	if x.head.status < 300 {
		x.out.proceed() // it may read while it answers
	} else {
		x.out.halt()
	}
	x.left = x.head.length
	if !x.head.keepAlive || x.head.framing == untilClose || x.req.Close {
		x.setUnfit()
	}
	if x.head.framing == noBody {
		x.res.Body = http.NoBody
		x.endReading(io.EOF)
		return
	}
	x.res.Body = x
}

// Abort ends the exchange: whoever reads or writes the connection fails. The first cause is kept.
func (x *exchange) Abort(cause error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.cause == nil {
		x.cause = cause
	}
	if x.aborted || x.taken || !x.reading && !x.sending {
		return // the connection is no longer ours
	}
	if x.hurried && !x.reading {
		return // the last bytes are leaving, within a deadline: that the handler is through is no reason to cut them
	}
	x.aborted = true
	x.c.abort()
	x.out.halt()
}

func (x *exchange) setUnfit() {
	x.mu.Lock()
	x.unfit = true
	x.mu.Unlock()
}

// endReading says that the response is in, or was given up; the read buffer is not used any more. It wants readMu, or
// that nobody else has the exchange yet.
func (x *exchange) endReading(ended error) {
	if x.ended != nil {
		return
	}
	x.ended = ended
	if ended != io.EOF || x.c.buffered() > 0 {
		x.setUnfit() // what is left over belongs to no request
	}
	x.c.drop()
	x.release(&x.reading)
}

// release gives the connection back when both the response is in and the request is out.
func (x *exchange) release(side *bool) {
	x.mu.Lock()
	*side = false
	if !x.sending && x.sent != nil {
		close(x.sent)
		x.sent = nil
	}
	over := !x.reading && !x.sending
	fit := !x.unfit && !x.aborted
	x.mu.Unlock()
	if !over {
		return
	}
	x.unwatch()
	if x.hurried && fit {
		fit = x.c.nc.SetWriteDeadline(time.Time{}) == nil
	}
	if fit {
		x.p.put(x.c)
	} else {
		x.p.discard(x.c)
	}
}
