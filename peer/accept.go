package peer

import (
	"crypto/tls"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"piko/fault"
	"piko/tunnel"
)

const (
	// handshakeTime bounds a handshake on either side, the dial included.
	handshakeTime = time.Second

	// maxUnproven and maxUnprovenPerHost bound the handshakes under way: who
	// is slow at it keeps nobody else out. An honest node makes one at a time,
	// but many may be behind one address.
	maxUnproven        = 128
	maxUnprovenPerHost = 32

	// maxInbound bounds the sessions of one caller, which keeps 4, and for a
	// while those that they replace.
	maxInbound = 32
)

// ServeHTTP takes a peer's connection over; its handshake goes on when it has
// returned. Whatever does not ask for that is answered 404, reserved-path, and
// who may not call with 403.
func (p *Peers) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h, ok := readHello(r)
	// Nothing else follows on such a connection, and a body is not waited for.
	w.Header().Set("Connection", "close")
	if !ok {
		fault.Write(w, r, fault.New(fault.ReservedPath, nil))
		return
	}
	caller, reason, err := p.admit(&h)
	if err != nil {
		if reason != "" {
			w.Header().Set(headerRefused, reason)
		}
		p.refused(r.RemoteAddr, &h, reason, err)
		fault.Write(w, r, err)
		return
	}
	host, _, _ := net.SplitHostPort(r.RemoteAddr)
	if !p.slots.take(host) {
		p.refused(r.RemoteAddr, &h, "overloaded", errors.New("too many handshakes"))
		fault.Write(w, r, fault.New(fault.Overloaded, nil))
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack()
	if err != nil {
		p.slots.release(host)
		fault.Write(w, r, fault.New(fault.Internal, err))
		return
	}
	early := rw.Reader.Buffered() > 0
	if !p.spawn(func() { p.accept(nc, host, &h, caller, early) }) {
		p.slots.release(host)
		nc.Close()
	}
}

// admit decides whether a caller may go on to prove itself.
func (p *Peers) admit(h *hello) (caller Node, reason string, err error) {
	select {
	case <-p.draining:
		return Node{}, "", fault.New(fault.Draining, nil)
	default:
	}
	refuse := func(reason, detail string) (Node, string, error) {
		return Node{}, reason, &fault.Error{Code: fault.Forbidden, Detail: "peer: " + detail}
	}
	if h.proof != p.proof() {
		return refuse(refusedProof, "only one of the nodes has a cluster secret or certificates (--cluster.tls.cas), or another version of the proof")
	}
	if h.callee != p.opt.Epoch {
		return refuse(refusedNode, "the node that is called is not here")
	}
	caller, ok := p.opt.Lookup(h.caller)
	switch {
	case !ok, caller.Epoch != h.caller, h.caller == p.opt.Epoch:
		return refuse(refusedUnknown, "caller is not known")
	case !p.fits(&caller):
		return refuse(refusedProof, "only one of the nodes has a cluster secret, or certificates (--cluster.tls.cas)")
	}
	return caller, "", nil
}

// accept proves both sides to each other and begins the session.
func (p *Peers) accept(nc net.Conn, host string, h *hello, caller Node, early bool) {
	begun := time.Now()
	stop := closeOnEnd(p.base, nc)
	proven, err := p.prove(nc, h, caller, early)
	stop()
	p.slots.release(host)
	if err != nil {
		nc.Close()
		p.refused(nc.RemoteAddr().String(), h, resultOf(err), err)
		return
	}
	trust(nc)
	p.metrics.handshakes.WithLabelValues("in", "ok").Inc()
	p.begin(proven, caller, time.Since(begun))
}

// prove is the callee's part of the handshake, from the 101 on.
func (p *Peers) prove(nc net.Conn, h *hello, caller Node, early bool) (net.Conn, error) {
	if early {
		return nil, errEarly
	}
	if err := nc.SetDeadline(time.Now().Add(handshakeTime)); err != nil {
		return nil, err
	}
	if _, err := nc.Write([]byte(switching)); err != nil {
		return nil, err
	}
	switch p.proof() {
	case proofCA:
		return p.proveCA(nc, caller)
	case proofTLS:
		conn := tls.Server(nc, p.id.tlsConfig(caller.Key))
		if err := conn.Handshake(); err != nil {
			return nil, err
		}
		if err := sendWelcome(conn); err != nil {
			return nil, err
		}
		return conn, conn.SetDeadline(time.Time{})
	}
	x := exchange{caller: caller, callee: p.self(), callerNonce: h.nonce}
	if err := x.proveCallee(nc); err != nil {
		return nil, err
	}
	return nc, nc.SetDeadline(time.Time{})
}

// trust tells the port that another node is at the other end: a connection that
// was let in only to prove that would be closed soon.
func trust(nc net.Conn) {
	for {
		if t, ok := nc.(interface{ Trust() }); ok {
			t.Trust()
			return
		}
		above, ok := nc.(interface{ NetConn() net.Conn })
		if !ok {
			return
		}
		nc = above.NetConn()
	}
}

// refused counts and logs a handshake that came to nothing.
func (p *Peers) refused(remote string, h *hello, result string, err error) {
	if result == "" {
		result = "draining"
	}
	p.metrics.handshakes.WithLabelValues("in", result).Inc()
	if result == "draining" {
		return
	}
	level := slog.LevelWarn
	if result == refusedUnknown {
		level = slog.LevelInfo // most likely gossip is about to tell us of it
	}
	if ok, dropped := p.refusals.allow(time.Now()); ok {
		p.log.Log(p.base, level, "peer refused", "remote", remote, "caller", h.caller, "reason", err.Error(), "not_logged", dropped)
	}
}

// slots counts the handshakes that are not proven yet. The zero value is ready.
type slots struct {
	// Guarded by mu.
	mu     sync.Mutex
	all    int
	byHost map[string]int
}

func (s *slots) take(host string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.all >= maxUnproven || s.byHost[host] >= maxUnprovenPerHost {
		return false
	}
	if s.byHost == nil {
		s.byHost = make(map[string]int)
	}
	s.all++
	s.byHost[host]++
	return true
}

func (s *slots) release(host string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all--
	if s.byHost[host]--; s.byHost[host] == 0 {
		delete(s.byHost, host)
	}
}

// begin makes a proven connection a session that is served.
func (p *Peers) begin(nc net.Conn, caller Node, took time.Duration) {
	in := &inbound{p: p, caller: caller, drained: make(chan struct{})}
	p.mu.Lock()
	if p.drains || p.sessionsOf(caller.Epoch) >= maxInbound {
		p.mu.Unlock()
		nc.Close() // the caller finds that its session does not last
		return
	}
	in.sess = tunnel.NewPeerSession(nc, false, tunnel.Options{Budget: p.opt.Budget, Events: tunnel.Events{Drained: in.onDrained}})
	p.inbound[in] = struct{}{}
	p.wg.Go(in.run)
	p.mu.Unlock()
	p.log.Debug("peer connected", "direction", "in", "node", caller.ID, "epoch", caller.Epoch,
		"remote", in.sess.RemoteAddr().String(), "handshake", took.String())
}

// sessionsOf needs mu.
func (p *Peers) sessionsOf(epoch string) (n int) {
	for in := range p.inbound {
		if in.caller.Epoch == epoch {
			n++
		}
	}
	return n
}
