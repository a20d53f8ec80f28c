package proxy

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"piko/fault"
	"piko/relay"
	"piko/router"
	"piko/tunnel"
)

// isTCP reports whether a client asks for a connection that is carried byte for byte, and to which endpoint.
func isTCP(r *http.Request) (endpoint string, ok bool) {
	return strings.CutPrefix(r.URL.Path, tunnel.TCPPath)
}

// serveTCP connects the client with a stream of an upstream's own. What went wrong before that it reads as JSON; what
// goes wrong later resets its connection.
func (x *exchange) serveTCP(name string) {
	endpoint, err := tunnel.ParseEndpoint(name)
	if err != nil {
		x.fail(err)
		return
	}
	x.endpoint = endpoint
	if err := tunnel.CheckHandshake(x.r); err != nil {
		x.err = err
		x.status = tunnel.RefuseHandshake(x.w, x.r, err)
		return
	}
	service, err := x.open()
	if err != nil {
		x.fail(err)
		return
	}
	defer x.target.End()
	client, err := tunnel.AcceptTCP(x.w, x.r)
	if err != nil {
		resetStream(service)
		x.err, x.status = err, statusClientGone
		return
	}
	x.status, x.upgraded = http.StatusSwitchingProtocols, true
	x.logOpened()
	x.bytesIn, x.bytesOut, x.err = relay.Splice(x.r.Context(), client, service)
}

// open opens a stream to one candidate after the other until one takes it: no service has seen anything before that.
// The candidate stays in x, to be ended with the stream.
func (x *exchange) open() (net.Conn, error) {
	x.attempt.most = maxAttempts
	ctx := x.r.Context()
	if addr, err := netip.ParseAddrPort(x.r.RemoteAddr); err == nil {
		ctx = tunnel.WithClientAddr(ctx, addr)
	}
	var last error
	for n := 0; ; n++ {
		target := x.pick()
		if !target.OK() {
			var err error
			if target, err = x.await(last); err != nil {
				return nil, err
			}
		}
		x.retries = n
		conn, err := x.openAt(ctx, target)
		if err == nil {
			return conn, nil
		}
		last = err
		x.attempt.used++
		if x.attempt.used >= x.attempt.most || ctx.Err() != nil {
			return nil, x.nobody(last)
		}
		x.countRetry(retryFree)
	}
}

// openAt opens a stream to one candidate.
func (x *exchange) openAt(ctx context.Context, target router.Target) (net.Conn, error) {
	x.target = target
	x.tried.Add(target)
	target.Begin()
	conn, err := target.Upstream(x.endpoint).Open(ctx)
	if err == nil {
		target.Succeeded()
		return conn, nil
	}
	target.End()
	x.attempt.overloaded = x.attempt.overloaded || errors.Is(err, fault.Overloaded)
	x.attempt.draining = x.attempt.draining || errors.Is(err, fault.Draining)
	if target.Node != nil {
		x.missedAt(target, err)
	} else if x.targetsFault(err) {
		x.blame(target)
	}
	return nil, err
}

// missedAt takes note of why another node opened no stream.
func (x *exchange) missedAt(target router.Target, err error) {
	x.attempt.hopped = true
	miss, ok := errors.AsType[*missError](err)
	switch {
	case !ok && x.targetsFault(err):
		target.Failed(time.Now())
		x.attempt.lost, x.attempt.down = target, false
	case ok && miss.reason != missOverloaded:
		x.f.metrics.missed(miss.reason)
		target.Missed(time.Now())
		x.tried.Remove(target)
	}
}

// resetStream ends a stream that nobody will use, so that its upstream sees a failure.
func resetStream(c net.Conn) {
	if r, ok := c.(interface{ Reset() }); ok {
		r.Reset()
		return
	}
	_ = c.Close()
}
