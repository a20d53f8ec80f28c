// Package listen is the accept layer of a port: what stands between the
// kernel's connections and net/http. It says who may connect, from where and
// how many times, does what must come before the first request (PROXY protocol,
// TLS handshake) in goroutines of its own so that a slow client holds up
// nobody, and keeps a port going when file descriptors run out.
//
// A connection goes through it like this:
//
//	accept ─▶ enter: address lists, limits ─▶ look: PROXY header ─▶ first byte ─▶ TLS handshake ─▶ Accept
//	            │                               │ at most maxLooking at a time; the oldest makes room
//	            └─ refused: closed, or on a port that other nodes use handed out as restricted,
//	               with a second to prove by the peer handshake that it is one (Conn.Trust)
//
// The package knows nothing of HTTP but http.ConnState, by which a Listener
// learns which connections are idle.
package listen

import (
	"cmp"
	"container/list"
	"context"
	"crypto/tls"
	"log/slog"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults and bounds.
const (
	// DefaultHandshakeTimeout is what a connection gets from its first byte to
	// the end of the TLS handshake.
	DefaultHandshakeTimeout = 10 * time.Second

	// proxyHeaderTimeout is what a load balancer gets for a PROXY header.
	proxyHeaderTimeout = 5 * time.Second

	// restrictedTime is what a connection gets to prove that it is another
	// node's, where it could not be let in otherwise.
	restrictedTime = time.Second

	// maxLooking bounds the connections whose first bytes are waited for. When
	// there are more the oldest goes: an honest one takes few round trips.
	maxLooking = 4096

	// maxRestricted and maxRestrictedFrom bound the connections that may still
	// prove that they are other nodes'; the latter those of one source.
	maxRestricted     = 128
	maxRestrictedFrom = 32
)

// Options are the settings of a Listener. The zero value lets everybody in.
type Options struct {
	// Port is the name of the port in metrics and log lines: "proxy".
	Port string

	// TLS, unless nil, is what clients get that begin with a TLS handshake.
	// Others are told that the port speaks TLS, and closed. It is not changed.
	TLS *tls.Config
	// AllowPlain hands connections out, too, that begin without a TLS handshake:
	// who serves them must ask Conn.Plain what they may do.
	AllowPlain bool
	// HandshakeTimeout bounds the time from a connection's beginning to the end
	// of its TLS handshake; 0 is DefaultHandshakeTimeout.
	HandshakeTimeout time.Duration

	// WriteTimeout ends a connection of which the client takes nothing for so
	// long while a Write waits; 0 is for ever. It is for ports whose server sets
	// no write deadlines.
	WriteTimeout time.Duration

	// Allow, unless empty, has only clients of these networks in; Deny keeps
	// clients of those out, whatever Allow says. Both mean the address behind a
	// PROXY header.
	Allow, Deny []netip.Prefix
	// ProxyProtocolFrom are the networks whose connections must begin with a
	// PROXY header, of version 1 or 2. Nobody else's bytes are taken for one.
	ProxyProtocolFrom []netip.Prefix

	// MaxConnections bounds the open connections of the port; 0 is no limit.
	MaxConnections int
	// MaxPerSource bounds those of one source, an IPv4 address or a /64 of IPv6;
	// 0 is no limit. Exempt are loopback and the networks of Exempt.
	MaxPerSource int
	Exempt       []netip.Prefix

	// Peers hands refused connections out as restricted instead of closing
	// them: who serves them must ask Conn.Restricted, and let nothing through
	// but what may lead to Conn.Trust. A second later they are closed.
	Peers bool

	// Wrap, unless nil, is put around connections that carry HTTP/1, or HTTP/2
	// without TLS. What it returns has the method NetConn if it is not the same.
	Wrap func(net.Conn) net.Conn

	// Busy, unless nil, says whether the process has other work, which must not
	// wait for new connections: while it has, they are taken at a pace that
	// leaves room for it. It is called for each connection.
	Busy func() bool

	// Descriptors is shared by the listeners of a process; nil does without.
	Descriptors *Descriptors
	// UseReserve is for the port that must answer when all others wait for
	// descriptors.
	UseReserve bool

	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none
}

// Listener is a net.Listener whose connections are *Conn, *tls.Conn over one
// for HTTP/2, or what Wrap makes of them. Accept is for one caller at a time;
// the other methods are safe for concurrent use.
type Listener struct {
	// Static after construction.
	ln      net.Listener
	opt     Options
	log     *slog.Logger
	metrics *metrics
	looks   bool // at connections, before Accept returns them
	start   sync.Once
	running sync.WaitGroup
	ready   chan net.Conn
	over    chan struct{} // closed when no more will be ready; err says why
	closed  chan struct{} // closed by Close
	lines   lineLimit

	pending atomic.Int64 // accepted and let in, and not yet known to be who called Accept's
	err     error        // set before over is closed

	pace pace // owned by who calls next

	// Owned by who calls Accept.
	handed bool // the last connection that was returned is still pending

	// Guarded by mu.
	mu         sync.Mutex
	isClosed   bool
	lists      lists
	conns      *Conn // all that are open: the first of a list
	open       int
	counted    int // of those, that count for MaxConnections
	restricted int
	sources    map[netip.Addr]source
	looking    list.List // of *Conn, the oldest in front
}

// New returns a listener on ln, which it owns. Its Close must be called.
func New(ln net.Listener, opt Options) *Listener {
	opt.HandshakeTimeout = cmp.Or(opt.HandshakeTimeout, DefaultHandshakeTimeout)
	l := &Listener{
		ln: ln, opt: opt, log: opt.Logger, looks: opt.TLS != nil || len(opt.ProxyProtocolFrom) > 0,
		ready: make(chan net.Conn), over: make(chan struct{}), closed: make(chan struct{}), sources: make(map[netip.Addr]source),
	}
	if l.log == nil {
		l.log = slog.New(slog.DiscardHandler)
	}
	l.SetLists(opt.Allow, opt.Deny)
	l.metrics = newMetrics(opt.Registerer, l)
	opt.Descriptors.add(l)
	return l
}

// Addr is the address of the listener below.
func (l *Listener) Addr() net.Addr { return l.ln.Addr() }

// Pending is how many connections were let in that whoever calls Accept does
// not know of yet. The last one that Accept returned counts until the next call:
// by then an http.Server counts it.
func (l *Listener) Pending() int { return int(l.pending.Load()) }

// Open is how many connections are open, handed out or not.
func (l *Listener) Open() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.open
}

// Accept implements net.Listener.
func (l *Listener) Accept() (net.Conn, error) {
	if l.handed {
		l.handed = false
		l.pending.Add(-1)
	}
	if !l.looks {
		c, err := l.next()
		if err != nil {
			return nil, err
		}
		l.handed = true
		return l.wrap(c), nil
	}
	l.start.Do(func() { l.running.Go(l.run) })
	select {
	case nc := <-l.ready:
		l.handed = true
		return nc, nil
	case <-l.over:
		return nil, l.err
	}
}

// drainTime is what connections get whose handshake had begun when we stopped
// accepting. It is less than the second after which a client repeats what was
// ignored.
const drainTime = 250 * time.Millisecond

// IgnoreNew has the kernel ignore new connections, where it can do that, and
// waits until those that are being made can be accepted: call it some time
// before StopAccepting, which would reset them.
func (l *Listener) IgnoreNew(ctx context.Context) {
	if ignoreNew(l.ln) != nil {
		return
	}
	t := time.NewTimer(drainTime)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// StopAccepting closes the listener below. Connections that it has accepted can
// still be had from Accept, which fails when there are no more.
func (l *Listener) StopAccepting() error { return l.ln.Close() }

// Close ends what Accept has not returned, and waits until no goroutine is
// left. Connections that Accept has returned go on.
func (l *Listener) Close() error {
	l.mu.Lock()
	if !l.isClosed {
		l.isClosed = true
		close(l.closed)
	}
	var looking []*Conn
	for e := l.looking.Front(); e != nil; e = e.Next() {
		looking = append(looking, e.Value.(*Conn))
	}
	l.mu.Unlock()
	err := l.ln.Close()
	for _, c := range looking {
		c.Close()
	}
	l.running.Wait()
	l.opt.Descriptors.remove(l)
	return err
}

// next accepts a connection that is let in, or may still prove that it is.
func (l *Listener) next() (*Conn, error) {
	pause := time.Duration(0)
	for {
		if l.opt.Busy != nil {
			l.pace.next(l.opt.Busy())
		}
		nc, err := l.ln.Accept()
		if err != nil {
			if !l.rest(err, &pause) {
				return nil, err
			}
			continue
		}
		if !l.opt.UseReserve && !l.leaveReserve(nc, &pause) {
			nc.Close()
			return nil, net.ErrClosed
		}
		pause = 0
		c := newConn(l, nc)
		reason := l.enter(c)
		if reason == refusedFull && l.makePlace() {
			reason = l.enter(c)
		}
		if reason != "" {
			nc.Close()
			l.refused(nc.RemoteAddr(), reason)
			continue
		}
		boundSendBuffer(nc)
		l.pending.Add(1)
		return c, nil
	}
}

// refused counts and logs a connection that was closed, or could do little
// more than prove that it is another node's.
func (l *Listener) refused(remote net.Addr, reason string) {
	l.metrics.refused.WithLabelValues(reason).Inc()
	if ok, dropped := l.lines.allow(time.Now()); ok {
		l.log.Info("connection refused", "port", l.opt.Port, "remote", remote.String(), "reason", reason, "not_logged", dropped)
	}
}

// wrap is what Accept returns for a connection of HTTP/1.
func (l *Listener) wrap(nc net.Conn) net.Conn {
	if l.opt.Wrap == nil {
		return nc
	}
	return l.opt.Wrap(nc)
}
