package agent

import (
	"cmp"
	"context"
	"errors"
	"log/slog"
	"net/url"
	"strings"

	"piko/client"
)

// dialer returns how the listener connects: with a copy of the template, which
// logs what happens to the tunnels (to our log, if it has none) and tells the
// metrics.
func (l *listener) dialer(template *client.Client) func(context.Context) (tunnels, error) {
	var c client.Client
	if template != nil {
		c = *template
	}
	c.Protocol = l.cfg.Protocol
	c.Logger = cmp.Or(c.Logger, l.log).With(slog.String("url", redacted(append([]string{c.URL}, c.URLs...))))
	next := c.OnState
	c.OnState = func(s client.State) {
		l.connection(s.Connected, s.Err == nil)
		l.unintended(s)
		l.tunnelCount(s.Tunnels)
		if next != nil {
			next(s)
		}
	}
	return func(ctx context.Context) (tunnels, error) {
		ln, err := c.Listen(ctx, l.cfg.Endpoint)
		if err != nil {
			return nil, err // and no *client.Listener, which would not be nil
		}
		return ln, nil
	}
}

// connection counts what happened to the listener's connection: any tunnel is up
// now or none, and one was opened or not. The client calls it from one goroutine
// at a time.
func (l *listener) connection(up, opened bool) {
	if was := l.connected.Swap(up); was != up {
		if up {
			l.metrics.connected.Inc()
		} else {
			l.metrics.connected.Dec()
		}
	}
	if opened {
		l.metrics.connects.Inc()
	}
}

// unintended counts what should not happen to the tunnels. An error that goes
// with fewer of them is of one that was lost, any other of an attempt; one that
// names a node led to where the listener has a tunnel, as searches go.
func (l *listener) unintended(s client.State) {
	switch {
	case s.Err == nil, errors.Is(s.Err, client.ErrLeft), s.Phase == client.PhaseClosed:
	case int64(s.Tunnels) < l.tunnels.Load():
		l.metrics.lost.Inc()
	case s.NodeID == "":
		l.metrics.failures.Inc()
	}
}

// tunnelCount counts the tunnels of the listener.
func (l *listener) tunnelCount(n int) {
	was := l.tunnels.Swap(int64(n))
	l.metrics.tunnels.Add(float64(int64(n) - was))
}

// redacted are URLs for the log.
func redacted(urls []string) string {
	var list []string
	for _, s := range urls {
		// Whoever dials it will say what is wrong with it.
		if u, err := url.Parse(s); err == nil && s != "" {
			list = append(list, u.Redacted())
		}
	}
	return strings.Join(list, ",")
}
