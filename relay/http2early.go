package relay

import (
	"net/http"
	"net/textproto"
)

// early are the 1xx responses of an exchange on their way to the watcher. net/http hands them over in the goroutine that
// reads the connection, where a client that is slow to take one would hold up all other exchanges; so another goroutine
// passes them on, which run waits for. The exchange's mu guards it.
type early struct {
	queue   []informational
	count   int
	telling chan struct{} // closed when the queue was told; nil: nobody tells
	closed  bool          // RoundTrip is about to return
	hundred bool          // the service wants the body
	unasked bool          // the service was silent, and the body is read without its 100
}

type informational struct {
	status int
	header http.Header
}

// got1xx is called for each 1xx response. An error ends the exchange.
func (x *http2Exchange) got1xx(status int, header textproto.MIMEHeader) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	e := &x.early
	x.responded = true
	e.hundred = e.hundred || status == http.StatusContinue
	most := maxInformational
	if x.expects() {
		most++ // the 100 that was asked for
	}
	switch e.count++; {
	case status == http.StatusSwitchingProtocols:
		return x.refuse(malformed("status 101 in HTTP/2"))
	case e.count > most:
		return x.refuse(malformed("more than %d informational responses", maxInformational))
	case e.closed || e.unasked || x.aborted:
		return nil
	}
	e.queue = append(e.queue, informational{status, http.Header(header)})
	if e.telling == nil {
		e.telling = make(chan struct{})
		go x.tellEarly()
	}
	return nil
}

// refuse takes note of why the exchange ends. It wants mu.
func (x *http2Exchange) refuse(err error) error {
	if x.cause == nil {
		x.cause = err
	}
	return err
}

// expects reports whether the body waits for 100 Continue.
func (x *http2Exchange) expects() bool {
	return x.body != nil && hasToken(x.req.Header["Expect"], "100-continue")
}

// tellEarly passes on what is in the queue.
func (x *http2Exchange) tellEarly() {
	for {
		x.mu.Lock()
		if len(x.early.queue) == 0 {
			close(x.early.telling)
			x.early.telling = nil
			x.mu.Unlock()
			return
		}
		next := x.early.queue[0]
		x.early.queue = x.early.queue[1:]
		x.mu.Unlock()
		if err := x.tell(next); err != nil {
			x.Abort(err)
		}
	}
}

func (x *http2Exchange) tell(r informational) error {
	if x.watcher != nil {
		return x.watcher.Informational(r.status, r.header)
	}
	if x.trace != nil && x.trace.Got100Continue != nil && r.status == http.StatusContinue {
		x.trace.Got100Continue()
	}
	if x.trace != nil && x.trace.Got1xxResponse != nil {
		return x.trace.Got1xxResponse(r.status, textproto.MIMEHeader(r.header))
	}
	return nil
}

// endEarly returns when no 1xx is being passed on, nor will be.
func (x *http2Exchange) endEarly() {
	x.mu.Lock()
	x.early.closed = true
	telling := x.early.telling
	x.mu.Unlock()
	if telling != nil {
		<-telling
	}
}

// bodyWanted returns when the request's body may be read: what the service said before was passed on. See informational
// of HTTP/1.1 for why nothing else is if it did not say 100.
func (x *http2Exchange) bodyWanted() {
	for {
		x.mu.Lock()
		telling := x.early.telling
		if telling == nil {
			x.early.unasked = !x.early.hundred && x.expects()
			x.mu.Unlock()
			return
		}
		x.mu.Unlock()
		select {
		case <-telling:
		case <-x.done:
			return
		}
	}
}
