package agent

import (
	"context"
	"log/slog"

	"piko/client"
)

// dialer returns how the listener connects: with a copy of the template that
// tells the listener's state to the log and the metrics.
func (l *listener) dialer(template *client.Client) func(context.Context) (tunnels, error) {
	var c client.Client
	if template != nil {
		c = *template
	}
	s := &stateLog{l: l, url: c.URL, next: c.OnState}
	c.OnState = s.on
	return func(ctx context.Context) (tunnels, error) {
		ln, err := c.Listen(ctx, l.cfg.Endpoint)
		if err != nil {
			return nil, err // not a *client.Listener that is nil
		}
		return ln, nil
	}
}

// stateLog logs what happens to a listener's connection: each change once, and
// the attempts that fail in between only when they fail for a new reason.
type stateLog struct {
	// Static after construction.
	l    *listener
	url  string
	next func(client.State) // may be nil

	// Owned by the goroutine that calls OnState.
	connected bool
	reason    string // why the last attempt failed
}

func (s *stateLog) on(state client.State) {
	if s.next != nil {
		s.next(state)
	}
	log := s.l.log.With("endpoint", state.Endpoint, "url", s.url)
	if state.NodeID != "" {
		log = log.With("node_id", state.NodeID)
	}
	was := s.connected
	s.connected = state.Connected
	switch {
	case state.Connected:
		s.reason = ""
		s.up(log, was)
	case was:
		s.l.metrics.connected.Dec()
		s.reason = reason(state.Err)
		log.Warn("listener disconnected", "error", s.reason, "reconnect_in", state.Retry.String())
	default:
		s.again(log, state)
	}
}

// up logs that a tunnel was opened: the first one, or the one to another node
// that a drain asked for.
func (s *stateLog) up(log *slog.Logger, was bool) {
	s.l.metrics.connects.Inc()
	if was {
		log.Info("listener moved")
		return
	}
	s.l.metrics.connected.Inc()
	log.Info("listener connected")
}

// again logs an attempt that failed.
func (s *stateLog) again(log *slog.Logger, state client.State) {
	tell := log.Debug
	if why := reason(state.Err); why != s.reason {
		s.reason = why
		tell = log.Warn
	}
	tell("listener cannot connect", "error", s.reason, "retry_in", state.Retry.String())
}

func reason(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}
