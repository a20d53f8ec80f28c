package relay

import (
	"context"
	"io"
	"net/http"
	"net/http/httptrace"
	"sync"
	"time"
)

// http2Exchange is one request and its response on one stream: the context of the request that net/http gets, and the
// response's body. Its exported methods may be called by any goroutine.
type http2Exchange struct {
	// Static after construction.
	p      *HTTP2Pool
	c      *http2Conn
	reused bool // the connection carried an exchange before
	req    *http.Request
	body   *http2Body    // nil: the request has none
	done   chan struct{} // closed when the exchange is aborted
	hooks  httptrace.ClientTrace
	values context.Context // holds hooks

	// Set by watch.
	watcher Watcher
	trace   *httptrace.ClientTrace // of a context that is no Watcher
	stop    func() bool            // ends the watch of such

	headLeft chan struct{} // closed when the request's head was written, as a whole or in part
	received *received     // what has come of the response's body; set before headLeft is closed

	readMu sync.Mutex // held by Read and Close
	ended  error      // guarded by readMu: what Read says from now on
	taken  int64      // guarded by readMu: bytes that Read gave

	// Guarded by mu, under which nothing of the connection is called.
	mu        sync.Mutex
	cause     error // the first reason to give up
	aborted   bool
	reading   bool // the response is not in yet
	sending   bool // the request is not out yet
	responded bool // something of the response has come
	accepted  bool // res and raw are set
	res       *http.Response
	raw       io.ReadCloser // the body that net/http gave
	finishing *time.Timer   // ends a request whose response is in
	early     early
}

func newHTTP2Exchange(p *HTTP2Pool, c *http2Conn, req *http.Request) *http2Exchange {
	x := &http2Exchange{p: p, c: c, req: req, done: make(chan struct{}), reading: true, sending: true}
	x.reused = c.used.Swap(true)
	x.headLeft = make(chan struct{})
	if hasBody(req) {
		x.body = newHTTP2Body(x)
	}
	x.hooks.WroteHeaders = x.wroteHeaders
	x.hooks.WroteRequest = x.wroteRequest
	x.hooks.Got1xxResponse = x.got1xx
	// Not on top of the request's own context: httptrace would call the hooks of that as well, found by reflection.
	x.values = httptrace.WithClientTrace(context.Background(), &x.hooks)
	return x
}

// run sends the request and waits for the head of the response.
func (x *http2Exchange) run() (*http.Response, error) {
	x.watch()
	out, err := x.outgoing()
	var res *http.Response
	if err != nil {
		x.c.cc.Release()
	} else {
		res, err = x.c.cc.RoundTrip(out)
	}
	x.endEarly()
	if err == nil {
		err = x.accept(res)
	}
	if err == nil {
		return res, nil
	}
	err = x.failure(err)
	x.Abort(err)
	x.endSending(err)
	x.endReading(err)
	return nil, err
}

// watch begins to follow the request's context.
func (x *http2Exchange) watch() {
	ctx := x.req.Context()
	var ok bool
	if x.watcher, ok = ctx.(Watcher); ok {
		x.watcher.Watch(x)
		return
	}
	x.trace = httptrace.ContextClientTrace(ctx)
	if x.trace != nil && x.trace.GotConn != nil {
		x.trace.GotConn(httptrace.GotConnInfo{Conn: x.c.nc, Reused: x.reused})
	}
	if x.trace != nil {
		x.hooks.GotFirstResponseByte = x.trace.GotFirstResponseByte
	}
	x.stop = context.AfterFunc(ctx, x.cancel)
}

// cancel is called when a context ends that is no Watcher.
func (x *http2Exchange) cancel() { x.Abort(context.Cause(x.req.Context())) }

// Abort implements Aborter: the other side gets a RST_STREAM at once, whatever the request's body waits for.
func (x *http2Exchange) Abort(cause error) {
	x.mu.Lock()
	if x.cause == nil {
		x.cause = cause
	}
	if x.aborted || !x.reading && !x.sending {
		x.mu.Unlock()
		return
	}
	x.aborted = true
	close(x.done)
	accepted := x.accepted
	x.mu.Unlock()
	if x.body != nil {
		x.body.giveUp()
	}
	if accepted {
		go x.hangUp() // it may have to wait for another's write
	}
}

// hangUp makes net/http see that its request's context has ended, after the response came: it may wait for the other
// side's flow control then, or we for the body, and both wake only for this.
func (x *http2Exchange) hangUp() {
	if x.raw != nil {
		_ = x.raw.Close()
		return
	}
	x.c.nudge()
}

// The exchange is the context of the request that net/http gets.
var _ context.Context = (*http2Exchange)(nil)

// Deadline implements context.Context: a deadline aborts like everything else.
func (x *http2Exchange) Deadline() (time.Time, bool) { return time.Time{}, false }

// Done implements context.Context.
func (x *http2Exchange) Done() <-chan struct{} { return x.done }

// Err implements context.Context. net/http calls it under locks of its own.
func (x *http2Exchange) Err() error {
	select {
	case <-x.done:
		return context.Canceled
	default:
		return nil
	}
}

// Value implements context.Context: net/http gets our hooks, and nothing of the caller's.
func (x *http2Exchange) Value(key any) any { return x.values.Value(key) }

// headMayHaveLeft reports whether something of the request may have left.
func (x *http2Exchange) headMayHaveLeft() bool {
	select {
	case <-x.headLeft:
		return true
	default:
		return false
	}
}

// wroteHeaders is called when the head was written, or its writing failed.
func (x *http2Exchange) wroteHeaders() {
	x.received = x.c.wire.opened()
	close(x.headLeft)
}

// wroteRequest is called when the request is out, or will not be.
func (x *http2Exchange) wroteRequest(info httptrace.WroteRequestInfo) { x.endSending(info.Err) }

// endSending says that the request is out, or was given up.
func (x *http2Exchange) endSending(err error) {
	x.mu.Lock()
	was := x.sending
	x.sending = false
	over := !x.reading
	if x.finishing != nil {
		x.finishing.Stop()
	}
	x.mu.Unlock()
	if !was {
		return
	}
	switch {
	case x.watcher != nil:
		x.watcher.WroteRequest(err)
	case x.trace != nil && x.trace.WroteRequest != nil:
		x.trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
	if over {
		x.unwatch()
	}
}

// unwatch ends what watch began, when the exchange is over.
func (x *http2Exchange) unwatch() {
	if x.stop != nil {
		x.stop()
	}
}
