package client

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"piko/fault"
	"piko/tunnel"
)

// defaultDialURL is the proxy port of a server on this machine.
const defaultDialURL = "http://localhost:8000"

// Dial connects to the endpoint through the server's proxy port: to what an
// `agent tcp` forwards to, or to a Listener with Protocol "tcp". It has the shape that
// grpc.WithContextDialer and the like want.
//
// Attempts are repeated until one succeeds or ctx ends, with growing pauses: an
// endpoint that nobody serves yet, or just now, is waited for. So give ctx a
// deadline; after Dial it has no effect. With URLs the attempts go by turns. An
// attempt that cannot succeed later is final: 400, or 401, 403 and 404 from a
// server of ours; the error is then a *fault.Refused. If ctx ends first, the
// error is its own and that of the last attempt, so that errors.Is finds both.
//
// The connection has two methods beside those of net.Conn. `CloseWrite() error`
// ends one direction; with a v0.9.0 server, where an end of one direction is
// that of both, it does nothing and returns an errors.ErrUnsupported. `Reset()`
// ends both such that the other side sees a failure. Read returns io.EOF only
// for an end in order. That Dial succeeds says that an upstream has been found:
// if its service cannot be reached the connection fails. The caller closes it.
func (c *Client) Dial(ctx context.Context, endpoint string) (net.Conn, error) {
	if _, err := tunnel.ParseEndpoint(endpoint); err != nil {
		return nil, fmt.Errorf("dial endpoint %.64q: %w", endpoint, err)
	}
	d := dialling{
		dialer:    c.dialer(),
		urls:      c.urls(defaultDialURL),
		mayChange: c.TokenMayChange,
		metrics:   c.Metrics,
		log:       c.logger().With("endpoint", endpoint),
		connect: func(ctx context.Context, d *tunnel.Dialer) (stream, error) {
			return d.DialTCP(ctx, endpoint)
		},
	}
	conn, err := d.run(ctx)
	if err != nil {
		return nil, fmt.Errorf("dial endpoint %q: %w", endpoint, err)
	}
	return c.Metrics.opened(conn), nil
}

// dialling is one call of Dial. Its fields are not changed while it runs, but
// for those at the end.
type dialling struct {
	dialer    tunnel.Dialer
	urls      []string // at least one
	mayChange bool     // the token
	metrics   *Metrics
	log       *slog.Logger
	connect   func(ctx context.Context, d *tunnel.Dialer) (stream, error)

	attempts int
	outage   outage
	last     error // of the last attempt that failed
}

// run makes attempts in rounds of all URLs, with a pause after each round.
func (d *dialling) run(ctx context.Context) (stream, error) {
	for _, u := range d.urls {
		d.dialer.URL = u
		if err := d.dialer.Check(); err != nil {
			return nil, err
		}
	}
	for {
		final := true
		for _, u := range d.urls {
			conn, err := d.attempt(ctx, u)
			if err == nil {
				return conn, nil
			}
			if ctx.Err() != nil {
				return nil, timeUp(ctx, d.last)
			}
			d.last = err
			final = final && finalDial(err, d.mayChange)
		}
		if final {
			return nil, d.last
		}
		if !d.pause(ctx) {
			return nil, timeUp(ctx, d.last)
		}
	}
}

func (d *dialling) attempt(ctx context.Context, url string) (stream, error) {
	d.attempts++
	d.dialer.URL = url
	conn, err := d.connect(ctx, &d.dialer)
	d.metrics.dialled(err)
	if err != nil {
		return nil, err // and no *tunnel.Conn, which would not be nil
	}
	return conn, nil
}

// pause waits until the next round, and says whether there is time for it.
func (d *dialling) pause(ctx context.Context) bool {
	delay := d.outage.next(time.Now(), d.last)
	const first, each = 4, 16 // who gives no deadline is to know why nothing happens
	log := d.log.Debug
	if d.attempts == first || d.attempts%each == 0 {
		log = d.log.Warn
	}
	log("cannot dial endpoint", "attempt", d.attempts, "err", d.last.Error(), "retry", delay)
	t := time.NewTimer(delay)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// finalDial says whether an attempt of Dial that failed with err is the last.
func finalDial(err error, tokenMayChange bool) bool {
	refused, ok := errors.AsType[*fault.Refused](err)
	if ok && refused.Status == http.StatusNotFound {
		return refused.Code != ""
	}
	return final(err, tokenMayChange)
}

// timeUp is the error of who has to give up because ctx has ended: why the
// attempts failed says more than that time was up.
func timeUp(ctx context.Context, last error) error {
	cause := context.Cause(ctx)
	if last == nil {
		return cause
	}
	return fmt.Errorf("%w: %w", cause, last)
}
