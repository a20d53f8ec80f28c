package peer

import (
	"bytes"
	"context"
	"log"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"

	"piko/relay"
	"piko/tunnel"
)

// maxHeaderBytes lets every header pass that an agent takes (2 MiB), so that a
// hop makes no difference: a proxy port may be told to let more pass than the
// 1 MiB that it does by default, and a node adds X-Forwarded-Host, which is as
// long as the host.
const maxHeaderBytes = 2<<20 + 64<<10

// inbound is a session that another node has made.
type inbound struct {
	// Static after construction.
	p       *Peers
	caller  Node
	sess    *tunnel.Session
	drained chan struct{} // closed when the caller will open no more streams

	once sync.Once
}

func (in *inbound) onDrained(uint32) { in.once.Do(func() { close(in.drained) }) }

// run hands the session's streams to the HTTP server until the session ends.
func (in *inbound) run() {
	for {
		st, err := in.sess.Accept()
		if err != nil {
			break
		}
		if !in.p.streams.hand(&stream{Stream: st, in: in}) {
			st.Reset()
		}
	}
	<-in.sess.Done()
	_ = in.sess.Close() // waits for its goroutines
	in.p.mu.Lock()
	delete(in.p.inbound, in)
	in.p.mu.Unlock()
	in.p.log.Debug("peer disconnected", "direction", "in", "node", in.caller.ID, "epoch", in.caller.Epoch,
		"reason", in.sess.Err().Error())
}

// stream is one that a peer opened, as a connection of the HTTP server. What
// it embeds gives a hijacker CloseWrite and Reset.
type stream struct {
	*tunnel.Stream
	in *inbound
}

// streamListener hands streams to the HTTP server.
type streamListener struct {
	// Static after construction.
	conns  chan net.Conn
	closed chan struct{}

	once sync.Once
}

func newStreamListener() *streamListener {
	return &streamListener{conns: make(chan net.Conn), closed: make(chan struct{})}
}

// hand waits until the server takes c, and reports whether it has.
func (l *streamListener) hand(c net.Conn) bool {
	select {
	case l.conns <- c:
		return true
	case <-l.closed:
		return false
	}
}

// Accept implements net.Listener.
func (l *streamListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener.
func (l *streamListener) Close() error {
	l.once.Do(func() { close(l.closed) })
	return nil
}

// Addr implements net.Listener; nobody can dial it.
func (l *streamListener) Addr() net.Addr { return &net.UnixAddr{Name: "peers", Net: "piko"} }

// front is what serves the streams of peers: an HTTP server, alone or behind lanes.
type front interface {
	Serve(net.Listener) error
	Close() error
}

func (p *Peers) newFront() front {
	if p.opt.NewLane == nil {
		return p.newServer()
	}
	return relay.NewLaneServer(p.requests, p.newServer(), &p.conns, p.opt.NewLane)
}

// newServer is the HTTP server over the streams. It has no time-outs: a stream
// may be idle in the caller's pool for as long as the caller likes, and a long
// request takes as long as it takes. What is dead is found by the session.
func (p *Peers) newServer() *http.Server {
	return &http.Server{
		Handler:                      http.HandlerFunc(p.handle),
		DisableGeneralOptionsHandler: true, // OPTIONS * is the service's
		MaxHeaderBytes:               maxHeaderBytes,
		ErrorLog:                     log.New(serverLog{p.log}, "", 0),
		BaseContext:                  func(net.Listener) context.Context { return p.requests },
		ConnContext: func(ctx context.Context, c net.Conn) context.Context {
			return context.WithValue(ctx, callerKey{}, relay.AcceptedConn(c).(*stream).in)
		},
		ConnState: p.connState,
	}
}

// handle is what Run can wait for.
func (p *Peers) handle(w http.ResponseWriter, r *http.Request) {
	p.handlers.Add(1)
	defer p.handlers.Done()
	p.opt.Handler.ServeHTTP(w, r)
}

// connState counts the connections that have a goroutine of the server.
// StateNew is reported by Serve itself, so none is added once it has returned.
func (p *Peers) connState(_ net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		p.conns.Add(1)
	case http.StateClosed, http.StateHijacked:
		p.conns.Done()
	}
}

type callerKey struct{}

// CallerOf says which node a request comes from, whose context ctx is; false
// for one that did not come through Peers.
func CallerOf(ctx context.Context) (Node, bool) {
	in, ok := ctx.Value(callerKey{}).(*inbound)
	if !ok {
		return Node{}, false
	}
	return in.caller, true
}

// serverLog is where net/http's own lines go: about what a peer did, which the
// caller's node logs better.
type serverLog struct{ log *slog.Logger }

// Write implements io.Writer.
func (l serverLog) Write(p []byte) (int, error) {
	level := slog.LevelDebug
	if bytes.HasPrefix(p, []byte("http: panic serving")) {
		level = slog.LevelError // that one is ours
	}
	l.log.Log(context.Background(), level, "peer server", "text", strings.TrimSpace(string(p)))
	return len(p), nil
}
