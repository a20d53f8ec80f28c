package forward

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"strconv"
	"sync/atomic"
	"syscall"
	"time"

	"piko/relay"
)

const (
	// keepAlive finds out that a local program's machine is gone, for ports
	// that are open to other machines.
	keepAlive = 30 * time.Second

	// Pauses after an accept that failed for want of something: at first, and at
	// most.
	acceptPause    = 5 * time.Millisecond
	maxAcceptPause = time.Second
)

// port is one local port: one listener, or two for localhost.
type port struct {
	// Static after construction.
	f        *Forwarder
	host     string // "localhost" means both loopback addresses
	number   string
	endpoint string
	log      *slog.Logger
	metrics  *portMetrics

	// Static once listen has returned.
	lns []net.Listener

	// Safe for concurrent use.
	down atomic.Bool // the last connection did not reach the endpoint
}

// newPort checks pc.
func newPort(f *Forwarder, pc Port, m *metrics) (*port, error) {
	if pc.Endpoint == "" {
		return nil, errors.New("missing endpoint")
	}
	host, number, err := parseAddr(pc.Addr)
	if err != nil {
		return nil, err
	}
	return &port{
		f: f, host: host, number: number, endpoint: pc.Endpoint,
		log:     f.log.With("port", net.JoinHostPort(host, number), "endpoint", pc.Endpoint),
		metrics: m.port(pc.Endpoint),
	}, nil
}

// localhost is the host of an address that is only a port.
const localhost = "localhost"

// parseAddr understands a port and host:port.
func parseAddr(addr string) (host, port string, err error) {
	if addr == "" {
		return "", "", errors.New("missing address to listen on: give a port or host:port, such as 5432 or 127.0.0.1:5432")
	}
	if isPort(addr) {
		return localhost, addr, nil
	}
	host, port, err = net.SplitHostPort(addr)
	if err != nil || !isPort(port) {
		return "", "", fmt.Errorf("invalid address to listen on %q: give a port or host:port, such as 5432, 127.0.0.1:5432 or [::1]:5432", addr)
	}
	return host, port, nil
}

func isPort(s string) bool {
	_, err := strconv.ParseUint(s, 10, 16)
	return err == nil
}

// listen opens the port. localhost is both loopback addresses, since programs
// try either first; a machine without IPv6 has only one.
func (p *port) listen(ctx context.Context) error {
	if p.host != localhost {
		return p.open(ctx, "tcp", p.host, p.number)
	}
	err := p.open(ctx, "tcp4", "127.0.0.1", p.number)
	if err != nil && !errors.Is(err, syscall.EADDRNOTAVAIL) && !errors.Is(err, syscall.EAFNOSUPPORT) {
		return err
	}
	number := p.number
	if err == nil {
		_, number, _ = net.SplitHostPort(p.lns[0].Addr().String())
	}
	err6 := p.open(ctx, "tcp6", "::1", number)
	switch {
	case err6 == nil || err == nil && (p.number == "0" || !errors.Is(err6, syscall.EADDRINUSE)):
		return nil
	case err != nil:
		return err
	}
	return err6 // else half of the programs would reach somebody else
}

func (p *port) open(ctx context.Context, network, host, number string) error {
	lc := net.ListenConfig{KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAlive, Interval: keepAlive / 3, Count: 3}}
	lc.SetMultipathTCP(false)
	ln, err := lc.Listen(ctx, network, net.JoinHostPort(host, number))
	if err != nil {
		if op, ok := errors.AsType[*net.OpError](err); ok {
			err = op.Err // without the address
		}
		return fmt.Errorf("listen on %s for endpoint %s: %w", net.JoinHostPort(host, number), p.endpoint, err)
	}
	p.lns = append(p.lns, ln)
	return nil
}

// accept serves the connections of one listener until ctx ends; what it serves
// ends with conns. Want of file descriptors or memory passes.
func (p *port) accept(ctx, conns context.Context, ln net.Listener) error {
	pause := acceptPause
	for {
		local, err := ln.Accept()
		switch {
		case err == nil:
			pause = acceptPause
			p.start(ctx, conns, local)
			continue
		case ctx.Err() != nil:
			return nil
		case !passes(err):
			return fmt.Errorf("serve endpoint %s: %w", p.endpoint, err)
		}
		p.log.Warn("cannot accept connections", "error", err.Error(), "retry", pause)
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, maxAcceptPause)
	}
}

// start serves a connection as soon as there are fewer than there may be.
func (p *port) start(ctx, conns context.Context, local net.Conn) {
	select {
	case p.f.slots <- struct{}{}:
	case <-ctx.Done():
		reset(local)
		return
	}
	p.f.active.Add(1)
	p.f.conns.Go(func() {
		defer func() { <-p.f.slots }()
		defer p.f.active.Add(-1)
		p.serve(conns, local)
	})
}

// passes says whether an Accept that failed with err may succeed later.
func passes(err error) bool {
	for _, errno := range []syscall.Errno{
		syscall.EMFILE, syscall.ENFILE, syscall.ENOBUFS, syscall.ENOMEM, syscall.ECONNABORTED, syscall.ECONNRESET, syscall.EINTR,
	} {
		if errors.Is(err, errno) {
			return true
		}
	}
	return false
}

// serve carries one connection to the endpoint until both ways have ended, one
// has failed, or ctx ends.
func (p *port) serve(ctx context.Context, local net.Conn) {
	began := time.Now()
	p.metrics.open.Inc()
	defer p.metrics.open.Dec()
	remote, err := p.dial(ctx, local)
	if err != nil {
		p.metrics.failed.Inc()
		reset(local)
		p.failed(ctx, local, err)
		return
	}
	p.metrics.connect.Observe(time.Since(began).Seconds())
	if p.down.Load() && p.down.CompareAndSwap(true, false) {
		p.log.Info("endpoint reachable again")
	}
	debug := p.log.Enabled(ctx, slog.LevelDebug)
	if debug {
		p.log.Debug("connection opened", "client", local.RemoteAddr().String(), "dial", time.Since(began))
	}
	in, out, err := relay.Splice(ctx, local, remote)
	p.metrics.done(in, out, err)
	if !debug {
		return
	}
	attrs := []any{"client", local.RemoteAddr().String(), "bytes_in", in, "bytes_out", out, "duration", time.Since(began)}
	if err != nil {
		attrs = append(attrs, "error", err.Error())
	}
	p.log.Debug("connection closed", attrs...)
}

// hangUpCheck is how long connecting may take before the program that waits for
// it is watched.
const hangUpCheck = 100 * time.Millisecond

// errHungUp ends the connecting for a program that has gone.
var errHungUp = errors.New("client has reset the connection")

// dial connects to the endpoint within the connect time-out, and for no longer
// than local is waiting for it. A program that has ended its side, and nothing
// else, may still wait for an answer.
func (p *port) dial(ctx context.Context, local net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, p.f.connectTimeout)
	defer cancel()
	ctx, hangUp := context.WithCancelCause(ctx)
	defer hangUp(nil)
	stop := whileWaiting(local, func() { hangUp(errHungUp) })
	conn, err := p.f.dialer.Dial(ctx, p.endpoint)
	stop()
	if context.Cause(ctx) != errHungUp {
		return conn, err
	}
	if err == nil {
		reset(conn)
	}
	return nil, errHungUp
}

// whileWaiting calls gone if c is reset, until the returned func is called. Only
// a wait that lasts is worth a goroutine.
func whileWaiting(c net.Conn, gone func()) (stop func()) {
	ended := make(chan struct{})
	t := time.AfterFunc(hangUpCheck, func() {
		defer close(ended)
		if relay.AwaitReset(c) {
			gone()
		}
	})
	return func() {
		if t.Stop() {
			return
		}
		_ = c.SetReadDeadline(time.Unix(1, 0))
		<-ended
		_ = c.SetReadDeadline(time.Time{})
	}
}

// failed logs that a connection did not reach the endpoint: of an outage the
// first one, and the others for those who want to know.
func (p *port) failed(ctx context.Context, local net.Conn, err error) {
	if ctx.Err() != nil {
		return // cut, which is counted
	}
	log := p.log.Debug
	if err != errHungUp && p.down.CompareAndSwap(false, true) {
		log = p.log.Warn
	}
	log("cannot reach endpoint", "client", local.RemoteAddr().String(), "error", err.Error())
}

// reset ends a connection so that the program at its other end sees a failure
// and no end of data.
func reset(c net.Conn) {
	switch c := c.(type) {
	case interface{ Reset() }:
		c.Reset()
		return
	case *net.TCPConn:
		_ = c.SetLinger(0)
	}
	_ = c.Close()
}
