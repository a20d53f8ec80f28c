package relay

import (
	"context"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
)

// Watcher is a request's context that RoundTrip talks to. Any context works, with httptrace for what happens and
// cancellation as usual; that costs a dozen allocations an exchange, and a Watcher none. When it ends, it must abort
// what it watches itself.
type Watcher interface {
	context.Context
	// Watch is called when an exchange begins, and replaces the one before. Aborting an exchange that is over does
	// nothing.
	Watch(Aborter)
	// WroteRequest is called when the request is out, or will not be, by any goroutine; once for each Watch.
	WroteRequest(err error)
	// Informational is called for each 1xx response but 101. An error ends the exchange.
	Informational(status int, header http.Header) error
}

// Aborter is something that can be ended, by any goroutine; it does not wait.
type Aborter interface{ Abort(cause error) }

// watch begins to follow the request's context.
func (x *exchange) watch() {
	if x.watcher != nil {
		x.watcher.Watch(x)
		return
	}
	x.trace = httptrace.ContextClientTrace(x.ctx)
	if x.trace != nil && x.trace.GotConn != nil {
		x.trace.GotConn(httptrace.GotConnInfo{Conn: x.c.nc, Reused: x.c.reused})
	}
	x.stop = context.AfterFunc(x.ctx, x.cancel)
}

// unwatch ends what watch began.
func (x *exchange) unwatch() {
	if x.stop != nil {
		x.stop()
	}
}

// cancel is called when a context ends that is no Watcher.
func (x *exchange) cancel() { x.Abort(context.Cause(x.ctx)) }

func (x *exchange) tellFirstByte() {
	if x.trace != nil && x.trace.GotFirstResponseByte != nil {
		x.trace.GotFirstResponseByte()
	}
}

func (x *exchange) tellWroteRequest(err error) {
	switch {
	case x.watcher != nil:
		x.watcher.WroteRequest(err)
	case x.trace != nil && x.trace.WroteRequest != nil:
		x.trace.WroteRequest(httptrace.WroteRequestInfo{Err: err})
	}
}

func (x *exchange) tellInformational() error {
	if x.watcher != nil {
		return x.watcher.Informational(x.head.status, x.head.header)
	}
	if x.trace != nil && x.trace.Got100Continue != nil && x.head.status == http.StatusContinue {
		x.trace.Got100Continue()
	}
	if x.trace != nil && x.trace.Got1xxResponse != nil {
		return x.trace.Got1xxResponse(x.head.status, textproto.MIMEHeader(x.head.header))
	}
	return nil
}
