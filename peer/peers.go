package peer

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/relay"
	"piko/tunnel"
)

// Node is another node, as gossip knows it. It is a value; Key is not changed.
type Node struct {
	// ID is what the node is called, in logs.
	ID string
	// Epoch names one life of its process.
	Epoch string
	// Addr is its proxy port, host:port.
	Addr string
	// Key is what Peers.Key says there: 16 bytes, or in a cluster with a secret
	// 32, the SHA-256 of its certificate, or in one with an authority 24.
	Key []byte
}

// Options are the settings of Peers. Epoch, Lookup and Handler are required.
type Options struct {
	// Epoch names the life of this process, as gossip tells it to others.
	Epoch string
	// Secure says that the cluster has a secret: connections are TLS 1.3, and
	// nodes without are neither accepted nor dialled.
	Secure bool
	// Authority, if not nil, has nodes show each other certificates besides, and
	// nodes without are neither accepted nor dialled.
	Authority *Authority
	// Lookup finds who may call by its epoch. It is called for each handshake
	// and must not block.
	Lookup func(epoch string) (Node, bool)
	// Handler serves the requests of proven peers; CallerOf says whose.
	Handler http.Handler
	// NewLane, if set, makes the lane of a peer's stream, which carries what it can without Handler.
	NewLane func() *relay.Lane
	// Budget bounds the bytes that wait for slow readers; nil is no bound over
	// all connections.
	Budget *tunnel.Budget
	// Logger gets what changes; nil discards.
	Logger *slog.Logger
	// Registerer gets the metrics; nil is none.
	Registerer prometheus.Registerer
}

// Peers is this node's connections to all other nodes: those that it makes,
// with Connect, and those that it takes, with ServeHTTP. All methods are safe
// for concurrent use.
type Peers struct {
	// Static after construction.
	opt      Options
	id       *identity
	log      *slog.Logger
	connect  func(ctx context.Context, network, addr string) (net.Conn, error) // tests have their own
	metrics  *metrics
	streams  *streamListener
	server   front
	base     context.Context // ends when Close begins
	end      context.CancelFunc
	requests context.Context // that of handlers: ends when no session is left
	cut      context.CancelFunc
	draining chan struct{} // closed when Drain or Close begins
	finished chan struct{} // closed when every goroutine has ended

	// Safe for concurrent use.
	slots    slots // unproven handshakes
	refusals logLimit
	conns    sync.WaitGroup // streams that lanes have, or the HTTP server, and that are neither closed nor hijacked
	handlers sync.WaitGroup // requests; only added to while conns counts their connection

	// Guarded by mu.
	mu      sync.Mutex
	wg      sync.WaitGroup // goroutines; Add only while closed is false, or by a counted one
	closed  bool
	drains  bool
	inbound map[*inbound]struct{}
	links   map[*Link]struct{}

	finish sync.Once
}

// New returns Peers with a new key. It fails if Options lack something or the
// metrics are registered already. It starts nothing: requests of peers are
// served once Run runs.
func New(opt Options) (*Peers, error) {
	switch {
	case !validEpoch(opt.Epoch):
		return nil, errors.New("peer: no Epoch, or one with spaces")
	case opt.Lookup == nil || opt.Handler == nil:
		return nil, errors.New("peer: no Lookup or no Handler")
	}
	if opt.Logger == nil {
		opt.Logger = slog.New(slog.DiscardHandler)
	}
	id, err := newIdentity(opt.Secure)
	if err != nil {
		return nil, err
	}
	if opt.Authority != nil {
		id = newAuthorityIdentity()
	}
	p := &Peers{
		opt: opt, id: id, log: opt.Logger, connect: new(net.Dialer).DialContext, streams: newStreamListener(),
		draining: make(chan struct{}), finished: make(chan struct{}),
		inbound: make(map[*inbound]struct{}), links: make(map[*Link]struct{}),
	}
	if p.metrics, err = newMetrics(opt.Registerer, p); err != nil {
		return nil, err
	}
	p.base, p.end = context.WithCancel(context.Background())
	p.requests, p.cut = context.WithCancel(context.Background())
	p.server = p.newFront()
	return p, nil
}

// Key is what the other nodes must know of this one, as Node.Key.
func (p *Peers) Key() []byte { return p.id.key }

// Draining is closed when Drain or Close begins: whoever answers a peer's
// request without end is to end it then.
func (p *Peers) Draining() <-chan struct{} { return p.draining }

// Run serves what peers send until ctx ends or Close is called. Then everything
// is closed; it returns when all goroutines have ended, those of handlers
// included, with nil. It is to be called once.
func (p *Peers) Run(ctx context.Context) error {
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = p.server.Serve(p.streams) // it ends because the server is closed
	}()
	select {
	case <-ctx.Done():
	case <-p.base.Done():
	}
	p.shut()
	_ = p.streams.Close()
	_ = p.server.Close()
	<-served
	p.conns.Wait()
	p.handlers.Wait()
	p.wg.Wait()
	p.finish.Do(func() { close(p.finished) })
	return nil
}

// Close ends all links and all sessions at once, and with them what is under
// way, and refuses new ones; call Drain before. It waits for Run to return, at
// most until ctx ends.
func (p *Peers) Close(ctx context.Context) {
	p.shut()
	select {
	case <-p.finished:
	case <-ctx.Done():
	}
}

// shut starts the end of everything.
func (p *Peers) shut() {
	p.mu.Lock()
	if p.closed {
		p.mu.Unlock()
		return
	}
	p.closed = true
	p.drainsLocked()
	var sessions sync.WaitGroup
	for in := range p.inbound {
		sessions.Go(func() { _ = in.sess.Close() })
	}
	p.wg.Go(func() {
		// Not before: a handler that ends for that must not look as if it had
		// answered.
		sessions.Wait()
		p.cut()
	})
	p.mu.Unlock()
	p.end() // links and handshakes
}

// drainsLocked needs mu.
func (p *Peers) drainsLocked() {
	if !p.drains {
		p.drains = true
		close(p.draining)
	}
}

// spawn runs f in a goroutine that Run waits for, unless the end has begun.
func (p *Peers) spawn(f func()) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return false
	}
	p.wg.Go(f)
	return true
}

// proof names what this node wants.
func (p *Peers) proof() string { return p.opt.proof() }

func (o *Options) proof() string {
	switch {
	case o.Authority != nil:
		return proofCA
	case o.Secure:
		return proofTLS
	}
	return proofMAC
}

// keySizes tell by a node's key which proof it wants.
var keySizes = map[string]int{proofMAC: plainKey, proofCA: authorityKey, proofTLS: secureKey}

// fits says whether n is a node of a cluster like ours: with a secret or
// without, with an authority or without.
func (p *Peers) fits(n *Node) bool { return len(n.Key) == keySizes[p.proof()] }

// self is this node as the other side knows it.
func (p *Peers) self() Node { return Node{Epoch: p.opt.Epoch, Key: p.id.key} }

// sleep reports whether ctx is still there after d.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}
