package agent

import (
	"cmp"
	"context"
	"log/slog"
	"net/url"

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
	c.Logger = cmp.Or(c.Logger, l.log).With(slog.String("url", redacted(c.URL)))
	next := c.OnState
	c.OnState = func(s client.State) {
		l.connection(s.Connected, s.Err == nil)
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

// connection counts what happened to the listener's connection: it is up now or
// not, and a tunnel was opened or not. The client calls it from one goroutine
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

// redacted is a URL for the log.
func redacted(s string) string {
	u, err := url.Parse(s)
	if err != nil {
		return "" // whoever dials it will say what is wrong with it
	}
	return u.Redacted()
}
