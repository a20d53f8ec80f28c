package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"piko/fault"
	"piko/listen"
	"piko/peer"
	"piko/relay"
	"piko/strict"
)

// port is a listener and the HTTP server on it.
type port struct {
	// Static after construction.
	flag   string
	ln     *listen.Listener
	srv    *http.Server
	resets int // requests of HTTP/2 that a connection may reset rapidly, each second

	conns   tally       // that the HTTP server has: not those that were hijacked
	closing atomic.Bool // stopAccepting was called: Serve's error is no failure
}

// openPort opens a port; opt says who may connect.
func openPort(flag string, addr bindAddr, srv *http.Server, opt listen.Options) (*port, error) {
	ln, err := openTCP(flag, addr)
	if err != nil {
		return nil, err
	}
	return newPort(flag, ln, srv, opt), nil
}

// newPort is openPort with a listener, which it owns.
func newPort(flag string, ln net.Listener, srv *http.Server, opt listen.Options) *port {
	opt.Wrap = strict.NewConn
	p := &port{flag: flag, ln: listen.New(ln, opt), srv: srv, resets: strict.DefaultResets}
	srv.Handler = strict.Calm(doorway(srv.Handler))
	srv.ConnContext = p.connContext
	srv.ConnState = p.connState
	return p
}

func (p *port) connContext(ctx context.Context, nc net.Conn) context.Context {
	return strict.CountResets(listen.ConnContext(ctx, nc), p.resets)
}

func (p *port) connState(nc net.Conn, state http.ConnState) {
	listen.SetState(nc, state)
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

// serve serves until the port is closed. base is what requests' contexts come
// from.
func (p *port) serve(base context.Context) error {
	p.srv.BaseContext = func(net.Listener) context.Context { return base }
	if err := p.srv.Serve(p.ln); !p.closing.Load() && !errors.Is(err, http.ErrServerClosed) {
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

// stopAccepting closes the listener and nothing else: connections go on. Those
// that are being made are accepted before, where the system allows it.
func (p *port) stopAccepting(ctx context.Context) {
	p.ln.IgnoreNew(ctx)
	p.closing.Store(true)
	p.ln.StopAccepting()
}

// open is how many connections wait for the HTTP server or have one.
func (p *port) open() int { return p.conns.count() + p.ln.Pending() }

// waitIdle returns when no connection is left, or ctx ends.
func (p *port) waitIdle(ctx context.Context) { waitNone(ctx, p.open) }

// close ends everything, and waits until the HTTP server has let go of every
// connection, or ctx ends.
func (p *port) close(ctx context.Context) {
	p.closing.Store(true)
	p.srv.Close()
	p.waitIdle(ctx)
}

// doorway is the first handler of every port: it lets a connection do no more
// than it was let in for.
func doorway(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if c := listen.ConnState(r.Context()); c != nil && (c.Plain() || c.Restricted()) && (r.URL.Path != peer.Path || r.ProtoMajor != 1) {
			turnAway(w, r, c)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// turnAway answers who is not another node and must be one, or must speak TLS.
func turnAway(w http.ResponseWriter, r *http.Request, c *listen.Conn) {
	if c.Restricted() {
		w.Header().Set("Connection", "close")
		fault.Write(w, r, fault.New(fault.Forbidden, nil))
		return
	}
	fault.Write(w, r, listen.ErrPlain)
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
func (t *tally) wait(ctx context.Context) (left int) { return waitNone(ctx, t.count) }

// waitNone is tally.wait for any count.
func waitNone(ctx context.Context, count func() int) (left int) {
	tick := time.NewTicker(tallyPoll)
	defer tick.Stop()
	for count() > 0 {
		select {
		case <-ctx.Done():
			return count()
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

// lane has l's requests counted like those of the handler.
func (g *gate) lane(l *relay.Lane) *relay.Lane {
	l.Keeper = &gatedKeeper{l.Keeper, g}
	return l
}

// gatedKeeper counts the requests of a lane at a gate.
type gatedKeeper struct {
	relay.LaneKeeper
	gate *gate
}

// Begin implements relay.LaneKeeper. A request is counted before it can end.
func (k *gatedKeeper) Begin(l *relay.Lane) bool {
	k.gate.inFlight.add()
	ok := k.LaneKeeper.Begin(l)
	if !ok {
		k.gate.inFlight.done()
	}
	return ok
}

// End implements relay.LaneKeeper.
func (k *gatedKeeper) End(l *relay.Lane) {
	k.LaneKeeper.End(l)
	k.gate.inFlight.done()
}
