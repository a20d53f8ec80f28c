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

// openTime bounds one attempt to open a stream. Upstreams have a bound of their own, and nodes that fall silent are
// found out sooner.
const openTime = 10 * time.Second

// tcpEndpoint reports whether a client asks for a connection that is carried byte for byte, and to which endpoint.
func tcpEndpoint(r *http.Request) (endpoint string, ok bool) {
	return strings.CutPrefix(r.URL.Path, tunnel.TCPPath)
}

// serveTCP connects the client with a stream of an upstream's own. What went wrong before that it reads as JSON; what
// goes wrong later resets its connection. Nothing of the request is passed on but the client's address.
func (x *exchange) serveTCP() {
	if err := tunnel.CheckHandshake(x.r); err != nil {
		x.err = err
		x.status = tunnel.RefuseHandshake(x.w, x.r, err)
		return
	}
	if err := x.admit(); err != nil {
		x.fail(err)
		return
	}
	x.attempt.most = maxAttempts
	service, err := x.open(x.f.clientAddr(x.r))
	if err != nil {
		x.fail(err)
		return
	}
	defer x.target.End()
	client, err := tunnel.AcceptTCP(x.w, x.r)
	if err != nil {
		resetStream(service)
		x.err, x.status = err, statusClientGone
		if errors.Is(err, fault.Internal) {
			x.status = fault.Internal.Status()
		}
		return
	}
	x.status, x.upgraded = http.StatusSwitchingProtocols, true
	x.logOpened()
	ctx, end := x.mortal()
	defer end()
	x.bytesIn, x.bytesOut, x.err = relay.Splice(ctx, client, service)
	e, ok := errors.AsType[*relay.SpliceError](x.err)
	x.judgeStream(ok && e.Conn == service)
}

// judgeStream takes note of how an upstream's stream has ended. That it could be opened says nothing: the agent has yet to
// reach its service then. A service that hangs up after it has read something may have been made to by its client, who
// must not be able to have it avoided.
func (x *exchange) judgeStream(failed bool) {
	switch {
	case x.bytesOut > 0, x.err == nil:
		x.praise(x.target)
	case failed && x.bytesIn == 0 && x.targetsFault(x.err):
		x.blame(x.target, x.err)
	}
}

// open opens a stream for a client, who may be unknown, at one candidate after the other until one takes it: no service
// has seen anything before that. The candidate stays in x, to be ended with the stream.
func (x *exchange) open(client netip.AddrPort) (net.Conn, error) {
	ctx := tunnel.WithClientAddr(x.r.Context(), client)
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
		switch {
		case ctx.Err() != nil:
			return nil, last
		case x.attempt.used >= x.attempt.most:
			return nil, x.nobody(last)
		}
		x.countRetry(retryFree)
	}
}

// openAt opens a stream at one candidate.
func (x *exchange) openAt(ctx context.Context, target router.Target) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, openTime)
	defer cancel()
	if target.Node != nil {
		x.attempt.hopped = true
		x.f.metrics.hops.of(target.Node.ID()).Inc()
		ctx = withAttempts(ctx, x.attemptsLeft())
	}
	x.target = target
	x.tried.Add(target)
	if !target.Begin() {
		err := x.full()
		x.openFailed(target, err)
		return nil, err
	}
	start := time.Now()
	conn, err := target.Upstream(x.endpoint).Open(ctx)
	if err != nil {
		target.End()
		x.openFailed(target, err)
		return nil, err
	}
	if target.Node != nil {
		x.f.metrics.hopLatency.Observe(time.Since(start).Seconds())
		target.Node.Succeeded() // it did what it should
	}
	return conn, nil
}

// openFailed takes note of why a candidate opened no stream.
func (x *exchange) openFailed(target router.Target, err error) {
	x.attempt.overloaded = x.attempt.overloaded || errors.Is(err, fault.Overloaded)
	x.attempt.draining = x.attempt.draining || errors.Is(err, fault.Draining)
	miss, missed := errors.AsType[*missError](err)
	switch {
	case missed:
		x.missed(target, miss)
		target.Node.Succeeded()
	case !x.targetsFault(err):
	case target.Node != nil:
		x.lose(target)
	default:
		x.blame(target, err)
	}
}

// clientAddr is whose connection it is: of a trusted proxy it is the client that it names, whose port it does not say.
func (f *forwarder) clientAddr(r *http.Request) netip.AddrPort {
	addr, err := netip.ParseAddrPort(r.RemoteAddr)
	if err != nil {
		return netip.AddrPort{}
	}
	addr = netip.AddrPortFrom(addr.Addr().Unmap().WithZone(""), addr.Port())
	if len(f.opt.TrustedProxies) == 0 {
		return addr
	}
	named := strings.Split(strings.Join(r.Header[headerFor], ","), ",")
	for len(named) > 0 && f.trusts(addr.Addr().String()) {
		ip, err := netip.ParseAddr(strings.TrimSpace(named[len(named)-1]))
		if err != nil {
			break
		}
		addr = netip.AddrPortFrom(ip.Unmap().WithZone(""), 0)
		named = named[:len(named)-1]
	}
	return addr
}

// resetStream ends a stream so that its upstream sees a failure.
func resetStream(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }:
		c.Reset()
		return
	case interface{ SetLinger(sec int) error }:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
