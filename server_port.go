package main

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"piko/peer"
	"piko/strict"
)

// port is a listener and the HTTP server on it.
type port struct {
	// Static after construction.
	flag string
	ln   net.Listener
	tls  net.Listener // over ln; nil if the port speaks no TLS
	srv  *http.Server

	conns   tally       // that the HTTP server has: not those that were hijacked
	closing atomic.Bool // stopAccepting was called: Serve's error is no failure
}

func openPort(flag string, addr bindAddr, srv *http.Server) (*port, error) {
	ln, err := listen(flag, addr)
	if err != nil {
		return nil, err
	}
	p := &port{flag: flag, ln: ln, srv: srv}
	srv.ConnState = p.connState
	return p, nil
}

func (p *port) connState(nc net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		p.conns.add()
	case http.StateClosed, http.StateHijacked:
		p.conns.done()
	}
	if h, ok := nc.(interface{ Hijacked() }); ok && state == http.StateHijacked {
		h.Hijacked()
	}
}

// strictListener refuses what net/http's server would mend.
type strictListener struct{ net.Listener }

// Accept implements net.Listener. What is a *tls.Conn net/http has to see as such.
func (l strictListener) Accept() (net.Conn, error) {
	nc, err := l.Listener.Accept()
	if _, secure := nc.(*tls.Conn); err != nil || secure {
		return nc, err
	}
	return strict.NewConn(nc), nil
}

// serve serves until the port is closed. base is what requests' contexts come
// from.
func (p *port) serve(base context.Context) error {
	p.srv.BaseContext = func(net.Listener) context.Context { return base }
	ln := p.ln
	if p.tls != nil {
		ln = p.tls
	}
	if err := p.srv.Serve(strictListener{ln}); !p.closing.Load() && !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve on %s (%s): %w", p.ln.Addr(), p.flag, shortNetError(err))
	}
	return nil
}

// serveUntil serves until ctx ends, and cuts what is left then.
func (p *port) serveUntil(ctx context.Context) error {
	unhook := context.AfterFunc(ctx, func() { p.srv.Close() })
	defer unhook()
	return p.serve(ctx)
}

// handshakeTime is what connections get whose handshake had begun when we
// stopped accepting. It is less than the second after which a client repeats
// what was ignored.
const handshakeTime = 250 * time.Millisecond

// stopAccepting closes the listener and nothing else: connections go on. Those
// that are being made are accepted before, where the system allows it.
func (p *port) stopAccepting(ctx context.Context) {
	if ignoreNew(p.ln) == nil {
		pause(ctx, handshakeTime)
	}
	p.closing.Store(true)
	p.ln.Close()
}

// close ends everything, and waits until the HTTP server has let go of every
// connection, or ctx ends.
func (p *port) close(ctx context.Context) {
	p.closing.Store(true)
	p.srv.Close()
	p.conns.wait(ctx)
}

// tally counts what is under way. Safe for concurrent use; the zero value is
// nothing.
type tally struct{ n atomic.Int64 }

func (t *tally) add()       { t.n.Add(1) }
func (t *tally) done()      { t.n.Add(-1) }
func (t *tally) count() int { return int(t.n.Load()) }

// tallyPoll is how often wait looks: it is for stopping, where polling is
// cheaper than what it would take to be woken.
const tallyPoll = 10 * time.Millisecond

// wait returns when nothing is under way, or ctx ends; then it says how much is left.
func (t *tally) wait(ctx context.Context) (left int) {
	tick := time.NewTicker(tallyPoll)
	defer tick.Stop()
	for t.count() > 0 {
		select {
		case <-ctx.Done():
			return t.count()
		case <-tick.C:
		}
	}
	return 0
}

// gate is the first handler of the proxy port, and of what other nodes send: it
// counts the requests in flight, upgraded connections included, for http.Server
// does not wait for those. It neither changes nor sees anything else.
type gate struct {
	next     http.Handler
	upgrades *upgrades
	inFlight tally
}

// untilReady has requests wait that come before the node knows what the others
// serve: it would have no upstream for them. Those of other nodes pass: nodes
// that start together need each other to become ready.
func untilReady(ready <-chan struct{}, next http.Handler) http.Handler {
	var waiting tally
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-ready:
		default:
			waiting.add()
			if r.URL.Path != peer.Path && waiting.count() <= maxEarly {
				waitReady(r.Context(), ready)
			}
			waiting.done()
		}
		next.ServeHTTP(w, r)
	})
}

const (
	// readyWait bounds what a request waits for a node that starts. It is longer
	// than what a node takes that finds the others.
	readyWait = 15 * time.Second

	// maxEarly bounds the requests that wait so.
	maxEarly = 1024
)

func waitReady(ctx context.Context, ready <-chan struct{}) {
	t := time.NewTimer(readyWait)
	defer t.Stop()
	select {
	case <-ready:
	case <-t.C:
	case <-ctx.Done():
	}
}

func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.inFlight.add()
	defer g.inFlight.done()
	if r.Header["Upgrade"] != nil {
		joined, done := g.upgrades.join(r)
		defer done()
		r = joined
	}
	g.next.ServeHTTP(w, r)
}
