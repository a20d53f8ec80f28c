// Package forward gives endpoints local TCP ports: each connection that is made
// to a port is carried to the port's endpoint through a piko server, for
// programs that know nothing of piko, such as psql or redis-cli.
//
// The flow of one connection: it is accepted on the local port; the Dialer
// connects to the endpoint, trying again for as long as the connect time-out
// allows; then bytes are copied both ways, half-closes included. Whatever ends
// other than in order, the dial among it, ends the local connection with a
// reset, so that a program never takes a failure for the end of the data.
//
// The package knows nothing of the wire: package main hands it the Dialer, which
// is the SDK's.
package forward

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Defaults of Config.
const (
	defaultConnectTimeout = 30 * time.Second
	defaultGracePeriod    = time.Minute
	defaultMaxConnections = 8192
)

// errCut is why connections end that outlive the grace period.
var errCut = errors.New("grace period is over")

// Dialer connects to endpoints: a *client.Client. Dial makes further attempts as
// long as one may succeed later and ctx has not ended. It is called by many
// goroutines. The connection should have CloseWrite and Reset, as that of the
// SDK has; without CloseWrite the end of either direction ends both.
type Dialer interface {
	Dial(ctx context.Context, endpoint string) (net.Conn, error)
}

// Config says which ports lead where.
type Config struct {
	// Ports has at least one entry; several may lead to one endpoint.
	Ports []Port

	// ConnectTimeout bounds connecting to the endpoint, all attempts of one
	// connection together. 0 means 30 seconds.
	ConnectTimeout time.Duration

	// GracePeriod is how long connections may take to end when Run is told to
	// stop; what is left then is reset. 0 means 1 minute, negative cuts at once.
	GracePeriod time.Duration

	// Registerer gets the metrics; nil is none.
	Registerer prometheus.Registerer

	// MaxConnections bounds the connections of all ports together. Beyond it
	// the next ones wait in the kernel until one has ended. 0 means 8192.
	MaxConnections int
}

// Port is a local port and what it leads to.
type Port struct {
	// Addr is where to listen: a port of localhost, or host:port, of which the
	// host may be empty for all interfaces. Port 0 is any free one.
	Addr string
	// Endpoint is the name of the endpoint.
	Endpoint string
}

// Forwarder serves the ports of a Config. Make one with New; Listen and Run it
// once.
type Forwarder struct {
	// Static after construction.
	dialer         Dialer
	log            *slog.Logger
	connectTimeout time.Duration
	grace          time.Duration
	slots          chan struct{} // as many as there may be connections
	ports          []*port

	// Safe for concurrent use.
	active atomic.Int64   // connections
	conns  sync.WaitGroup // their goroutines; added to by accept loops only
}

// New checks cfg and returns a Forwarder that does not listen yet. A nil log
// discards. Errors name the port and the remedy.
func New(cfg Config, dialer Dialer, log *slog.Logger) (*Forwarder, error) {
	if len(cfg.Ports) == 0 {
		return nil, errors.New("no ports configured")
	}
	f := &Forwarder{
		dialer:         dialer,
		log:            cmp.Or(log, slog.New(slog.DiscardHandler)),
		connectTimeout: cmp.Or(cfg.ConnectTimeout, defaultConnectTimeout),
		grace:          max(cmp.Or(cfg.GracePeriod, defaultGracePeriod), 0),
		slots:          make(chan struct{}, cmp.Or(cfg.MaxConnections, defaultMaxConnections)),
	}
	m, err := newMetrics(cfg.Registerer)
	if err != nil {
		return nil, err
	}
	for _, pc := range cfg.Ports {
		p, err := newPort(f, pc, m)
		if err != nil {
			return nil, fmt.Errorf("port %q: %w", pc.Addr, err)
		}
		f.ports = append(f.ports, p)
	}
	return f, nil
}

// Listen opens the ports, all of them or none. Errors name the port.
func (f *Forwarder) Listen(ctx context.Context) error {
	for _, p := range f.ports {
		if err := p.listen(ctx); err != nil {
			f.close()
			return err
		}
	}
	return nil
}

// Addrs are the addresses that Listen has opened for each port, in the order of
// the Config: two for localhost where there is IPv6.
func (f *Forwarder) Addrs() [][]net.Addr {
	list := make([][]net.Addr, len(f.ports))
	for i, p := range f.ports {
		for _, ln := range p.lns {
			list[i] = append(list[i], ln.Addr())
		}
	}
	return list
}

// Run serves the ports that Listen has opened until ctx ends. Then it closes
// them, waits for the connections as long as the grace period allows, and resets
// what is left, which the log counts. It leaves no goroutine behind. An error
// means that a port could not be served any more.
func (f *Forwarder) Run(ctx context.Context) error {
	// Connections outlive ctx by the grace period.
	conns, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	accepting, stop := context.WithCancelCause(ctx)
	defer stop(nil)
	var loops sync.WaitGroup
	for _, p := range f.ports {
		for _, ln := range p.lns {
			loops.Go(func() {
				if err := p.accept(accepting, conns, ln); err != nil {
					stop(err)
				}
			})
		}
	}
	<-accepting.Done()
	f.close()
	loops.Wait()
	f.drain(cut)
	if ctx.Err() == nil {
		return context.Cause(accepting)
	}
	return nil
}

// drain waits for the connections, and cuts those that outlive the grace period.
func (f *Forwarder) drain(cut context.CancelCauseFunc) {
	begin := time.Now()
	if n := f.active.Load(); n > 0 {
		f.log.Info("waiting for connections to end", "count", n, "grace_period", f.grace)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		f.conns.Wait()
	}()
	over := time.NewTimer(f.grace)
	defer over.Stop()
	var left int64
	select {
	case <-ended:
	case <-over.C:
		left = f.active.Load()
		cut(errCut)
		<-ended
	}
	if left > 0 {
		f.log.Warn("connections cut at the end of the grace period", "count", left)
	}
	f.log.Debug("forwarding stopped", "cut", left, "took", time.Since(begin))
}

// close closes the ports.
func (f *Forwarder) close() {
	for _, p := range f.ports {
		for _, ln := range p.lns {
			ln.Close()
		}
	}
}
