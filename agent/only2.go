package agent

import (
	"context"
	"errors"
	"net/http"

	"piko/relay"
)

// A service that speaks nothing but HTTP/2 hangs up on a request of HTTP/1.1, as
// one that breaks does; with TLS it may refuse the connection, but Go's do not.
// So it is asked, when a request has failed and the service has never answered
// one, whether it speaks HTTP/2, and if so whether it speaks HTTP/1.1: if not,
// and if it still takes HTTP/2 after that, it cannot have executed the request,
// and gets it and all others as HTTP/2. For a request that cannot be sent again
// this is asked before. Nobody is asked who has answered in HTTP/1.1.

// answered notes that the service has answered a request.
func (u *upstream) answered(rt http.RoundTripper) {
	if rt == u.http1 && !u.heard1.Load() {
		u.heard1.Store(true)
	}
}

// unsure reports whether a request should not be the one that finds out that
// the service does not speak HTTP/1.1.
func (u *upstream) unsure(req *http.Request) bool {
	return !u.heard1.Load() && (req.ContentLength < 0 || req.ContentLength > keepBody)
}

// refuses reports whether a request over HTTP/1.1 has failed because the service
// does not speak it.
func (u *upstream) refuses(ctx context.Context, err error) bool {
	if errors.Is(err, errRefusesHTTP1) {
		return true
	}
	_, dial := errors.AsType[*dialError](err)
	_, client := errors.AsType[*relay.ClientError](err)
	if dial || client || u.heard1.Swap(false) { // it may have been replaced, which the next failure shows
		return false
	}
	return u.isOnly2(ctx)
}

// isOnly2 finds out whether the service speaks HTTP/2 and not HTTP/1.1; false if
// that cannot be known. One request at a time asks.
func (u *upstream) isOnly2(ctx context.Context) bool {
	select {
	case u.asking <- struct{}{}:
		defer func() { <-u.asking }()
	case <-ctx.Done():
		return false
	}
	if u.only2.Load() || u.heard1.Load() {
		return u.only2.Load()
	}
	if speaks2, err := u.ask(ctx); err != nil || !speaks2 {
		return false
	}
	probe, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	conn, err := u.dial1(probe)
	if err != nil {
		return false
	}
	speaks1, err := relay.SpeaksHTTP1(probe, conn, u.service.host)
	if err != nil && !errors.Is(err, relay.ErrNoAnswer) { // a server that hangs up without having read all resets
		return false
	}
	if !speaks1 && !u.stillSpeaks2(probe) {
		return false // it may have hung up because it breaks
	}
	u.heard1.Store(speaks1)
	u.only2.Store(!speaks1)
	return !speaks1
}

// stillSpeaks2 asks over a connection of its own: those that are open tell
// nothing of what new ones meet.
func (u *upstream) stillSpeaks2(ctx context.Context) bool {
	p := relay.HTTP2Pool{Dial: u.dial2}
	defer p.Close()
	return p.Probe(ctx) == nil
}
