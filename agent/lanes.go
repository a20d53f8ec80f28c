package agent

import (
	"context"

	"piko/fault"
	"piko/relay"
)

// newLanes serves the streams of a listener: plain requests by relay.Lane, which
// follows the bounds of their messages and parses nothing else. A stream with a
// request that needs more is net/http's from that request on. Requests end with
// base.
func newLanes(l *listener, base context.Context) *relay.LaneServer {
	return relay.NewLaneServer(base, l.server(base), &l.conns, func() *relay.Lane {
		k := &keeper{l: l, base: base}
		la := &relay.Lane{
			Pool: l.upstream.http1, Keeper: k,
			Prefix: l.service.prefix, Query: l.service.query,
			Drop: fault.HeaderError,
		}
		if l.tracer != nil {
			k.untraced = &untraced{}
			la.Filter = k.untraced
		}
		return la
	})
}

// slow reports whether no request of the listener can be a lane's.
func (l *listener) slow() bool {
	return l.wrapped || l.service.speaks == UpstreamHTTP2
}
