package client

import (
	"context"
	"log/slog"
	"net"
	"sync"

	"piko/tunnel"
)

// Listener is a net.Listener whose connections come through tunnels. Its
// methods are safe for concurrent use.
type Listener struct {
	// Static after construction.
	client   Client
	endpoint string
	dialer   tunnel.Dialer
	log      *slog.Logger
	connect  func(ctx context.Context, d *tunnel.Dialer, endpoint string) (session, error) // (*tunnel.Dialer).Dial, but in tests

	urls        []string // at least one
	connections int      // at least 1

	conns   chan stream        // from the tunnels to Accept
	closed  chan struct{}      // no connection comes any more
	done    chan struct{}      // nothing of the listener is left
	ctx     context.Context    // of everything that the listener does; its values are those of Listen's
	cancel  context.CancelFunc // ends ctx
	keeping context.Context    // of opening tunnels, which ends before ctx
	stop    context.CancelFunc // ends keeping
	keepers sync.WaitGroup     // the manager, and its attempts to open tunnels
	links   sync.WaitGroup     // the goroutines of links, and of retiring them

	refresher *refresher    // nil without tokens
	wake      chan struct{} // something has happened that the manager should look at
	first     chan error    // gets nil when the first tunnel is open, or why there will be none

	leaveOnce sync.Once

	// Guarded by mu.
	mu      sync.Mutex
	open    map[*link]struct{} // tunnels that have not ended
	weight  int                // of all tunnels; see SetWeight
	words   uint64             // how often nodes have said how many they are
	last    error              // of the last attempt that failed
	up      bool               // there was a tunnel at some time
	leaving bool               // Close or Shutdown was called
	over    bool               // there is nothing left
}

// address is the net.Addr of a listener.
type address string

// Network is "piko".
func (address) Network() string { return "piko" }

// String is the endpoint.
func (a address) String() string { return string(a) }

// defaultWeight is what a server takes for granted.
const defaultWeight = 100

// unknownWeight stands for that of which it depends on the server's age whether
// it was understood.
const unknownWeight = -1

// newListener returns a listener that is not connected. It outlives ctx.
func newListener(ctx context.Context, c *Client, endpoint string) *Listener {
	l := &Listener{
		client:   *c,
		endpoint: endpoint,
		dialer:   c.dialer(),
		log:      c.logger().With("endpoint", endpoint),
		connect: func(ctx context.Context, d *tunnel.Dialer, endpoint string) (session, error) {
			return d.Dial(ctx, endpoint)
		},
		urls:        c.urls(defaultURL),
		connections: c.connections(),
		conns:       make(chan stream),
		closed:      make(chan struct{}),
		done:        make(chan struct{}),
		wake:        make(chan struct{}, 1),
		first:       make(chan error, 1),
		open:        make(map[*link]struct{}),
		weight:      defaultWeight,
	}
	l.refresher = newRefresher(c)
	l.ctx, l.cancel = context.WithCancel(context.WithoutCancel(ctx))
	l.keeping, l.stop = context.WithCancel(l.ctx)
	return l
}

// start opens the first tunnel, and leaves keeping them open to a goroutine.
func (l *Listener) start(ctx context.Context) error {
	for _, u := range l.urls {
		d := l.dialer
		d.URL = u
		if err := d.Check(); err != nil {
			return err
		}
	}
	l.refresher.start(l)
	l.keepers.Go(newManager(l).run)
	select {
	case err := <-l.first:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	return timeUp(ctx, l.last)
}

// nudge has the manager look at everything anew.
func (l *Listener) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// Accept waits for the next connection. It returns net.ErrClosed once the
// listener is closed, and no other error: the loss of a tunnel is mended behind
// it.
//
// A connection has two methods beside those of net.Conn: `CloseWrite() error`
// ends one direction, and `Reset()` ends both such that the client sees a
// failure. A server that pools connections sends many requests over one. Its
// RemoteAddr is the address of the client, a *net.TCPAddr, if the server says
// it, which it does for TCP; otherwise it is that of the server.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return l.client.Metrics.accepted(c), nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr returns the endpoint as an address.
func (l *Listener) Addr() net.Addr { return address(l.endpoint) }

// Endpoint is the name that the listener listens on.
func (l *Listener) Endpoint() string { return l.endpoint }

// Phase says how the listener is doing.
func (l *Listener) Phase() Phase {
	connected := l.Connected()
	l.mu.Lock()
	defer l.mu.Unlock()
	switch {
	case l.over:
		return PhaseClosed
	case l.leaving:
		return PhaseDraining
	case connected:
		return PhaseConnected
	case l.up:
		return PhaseReconnecting
	}
	return PhaseConnecting
}

// Connected says whether the endpoint is served by a tunnel now.
func (l *Listener) Connected() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	for lk := range l.open {
		if !lk.retiring() && lk.sess.Err() == nil {
			return true
		}
	}
	return false
}

// Tunnels is how many tunnels serve the endpoint now, without those that are
// being left.
func (l *Listener) Tunnels() int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.kept()
}

// SetWeight tells the server how much of the endpoint's traffic to send here
// compared with other upstreams: 0 to 100, 100 is the default, and 0 means as
// little as possible. It holds for the listener, however many tunnels it has. A
// v0.9.0 server is not told.
func (l *Listener) SetWeight(w int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.weight = min(max(w, 0), defaultWeight)
	l.reweigh()
}

// openLinks is a copy.
func (l *Listener) openLinks() []*link {
	l.mu.Lock()
	defer l.mu.Unlock()
	list := make([]*link, 0, len(l.open))
	for lk := range l.open {
		list = append(list, lk)
	}
	return list
}
