package upstreamconn

import (
	"iter"
	"time"

	"piko/tunnel"
)

// Status is what is known of a tunnel at a moment.
type Status struct {
	ID       string    // of the tunnel in the cluster
	Endpoint string    // without the tenant
	Tenant   string    // "" without tenants
	Subject  string    // of the token that it lives by, for logs; "" without authentication
	Expires  time.Time // when it has to leave unless it gets a fresh token; zero: never
	Remote   string    // address of the other end, or of a proxy between
	Instance string    // the upstream's name for itself; "" if it is of v0.9.0
	Protocol string    // "http", "tcp" or "", as the upstream said
	Since    time.Time // when it connected
	InFlight int       // requests that have begun and not ended
	Control  bool      // whether it can be asked to move; not if it is of v0.9.0
	Draining bool      // a last resort: the node drains, or a newer tunnel replaces it
	Weight   int       // of the traffic that the upstream wants, 0 to 100; 0 is unhealthy
	Ejected  bool      // avoided at present since it failed
	Leaving  bool      // takes no request any more, and ends its last streams
	Version  string    // of the upstream's piko; "" if it did not say
	Features []string  // what both sides speak

	Requests          uint64   // that were sent to it, connections included
	Failed            uint64   // of those, as far as it was the upstream's or its service's fault
	LastFailure       *Failure // nil: none
	BytesIn, BytesOut uint64   // that came from it and went to it
}

// Upstreams returns the tunnels, in no order. Changes meanwhile may or may not
// be seen.
func (s *Server) Upstreams() iter.Seq[Status] {
	s.init()
	return func(yield func(Status) bool) {
		for _, u := range s.registry.all() {
			if st, ok := u.status(); ok && !yield(st) {
				return
			}
		}
	}
}

// UpstreamsOf is Upstreams for one name of the table.
func (s *Server) UpstreamsOf(name string) iter.Seq[Status] {
	s.init()
	return func(yield func(Status) bool) {
		for _, u := range s.registry.all() {
			if u.instance.endpoint != name {
				continue
			}
			if st, ok := u.status(); ok && !yield(st) {
				return
			}
		}
	}
}

// status is not ok for a tunnel that is not open yet.
func (u *upstream) status() (st Status, ok bool) {
	u.mu.Lock()
	sess, name, leaving, grant := u.sess, u.name, u.leaving, u.grant
	u.mu.Unlock()
	if sess == nil {
		return Status{}, false
	}
	_, endpoint := tunnel.SplitName(u.instance.endpoint)
	in, out := sess.Bytes()
	return Status{
		ID:       u.id(),
		Endpoint: endpoint,
		Tenant:   u.tenant,
		Subject:  grant.Subject(),
		Expires:  grant.Expiry(),
		Remote:   name,
		Instance: u.instance.id,
		Protocol: sess.Peer().Protocol,
		Since:    u.since,
		InFlight: u.local.InFlight(),
		Control:  sess.HasControl(),
		Draining: u.local.Draining(),
		Weight:   u.local.Weight(),
		Ejected:  u.local.Ejected(time.Now()),
		Leaving:  leaving,
		Version:  sess.Peer().Version,
		Features: sess.Peer().Features,

		Requests:    u.account.requests.Load(),
		Failed:      u.account.failed.Load(),
		LastFailure: u.account.last.Load(),
		BytesIn:     in,
		BytesOut:    out,
	}, true
}
