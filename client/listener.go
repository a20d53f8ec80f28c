package client

import (
	"context"
	"errors"
	"fmt"
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

	conns   chan net.Conn      // from the tunnels to Accept
	closed  chan struct{}      // no connection comes any more
	ctx     context.Context    // of everything that the listener does; its values are those of Listen's
	cancel  context.CancelFunc // ends ctx
	keeping context.Context    // of opening tunnels, which ends before ctx
	stop    context.CancelFunc // ends keeping
	keepers sync.WaitGroup     // the manager, and its attempts to open tunnels
	links   sync.WaitGroup     // the goroutines of links, and of retiring them
	wake    chan struct{}      // something has happened that the manager should look at
	first   chan error         // gets nil when the first tunnel is open, or why there will be none

	closeOnce sync.Once

	// Guarded by mu.
	mu     sync.Mutex
	open   map[*link]struct{} // tunnels that have not ended
	weight int                // of all tunnels; see SetWeight
	words  uint64             // how often nodes have said how many they are
	last   error              // of the last attempt that failed
}

// address is the net.Addr of a listener.
type address string

// Network is "piko".
func (address) Network() string { return "piko" }

// String is the endpoint.
func (a address) String() string { return string(a) }

// defaultWeight is what a server takes for granted.
const defaultWeight = 100

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
		urls:        c.urls(),
		connections: c.connections(),
		conns:       make(chan net.Conn),
		closed:      make(chan struct{}),
		wake:        make(chan struct{}, 1),
		first:       make(chan error, 1),
		open:        make(map[*link]struct{}),
		weight:      defaultWeight,
	}
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
	l.keepers.Go(newManager(l).run)
	select {
	case err := <-l.first:
		return err
	case <-ctx.Done():
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	cause := context.Cause(ctx)
	if l.last == nil {
		return cause
	}
	// Why the attempts failed says more than that time was up.
	return fmt.Errorf("%w: %w", cause, l.last)
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
// it. A connection has CloseWrite; its RemoteAddr is the server's.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.closed:
		return nil, net.ErrClosed
	}
}

// Addr returns the endpoint as an address.
func (l *Listener) Addr() net.Addr { return address(l.endpoint) }

// Endpoint is the name that the listener listens on.
func (l *Listener) Endpoint() string { return l.endpoint }

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

// Close ends the listener, its tunnels and all connections at once, and waits
// for its goroutines.
func (l *Listener) Close() error {
	l.closeOnce.Do(func() { close(l.closed) })
	l.cancel()
	l.keepers.Wait()
	var wg sync.WaitGroup
	for _, lk := range l.openLinks() {
		wg.Go(func() { _ = lk.sess.Close() })
	}
	wg.Wait()
	l.links.Wait()
	return nil
}

// Shutdown asks the server to send nothing more, goes on accepting what was on
// its way, waits until all connections have ended, and closes the listener. Go
// on calling Accept meanwhile. If ctx ends first, the connections that are left
// are cut and its error is returned.
func (l *Listener) Shutdown(ctx context.Context) error {
	l.stop()
	l.keepers.Wait()
	links := l.openLinks()
	for _, lk := range links {
		l.retire(lk, 0)
	}
	var cut error
	for _, lk := range links {
		select {
		case <-lk.gone:
		case <-lk.sess.Done():
		case <-ctx.Done():
			cut = context.Cause(ctx)
		}
	}
	return errors.Join(cut, l.Close())
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
