package main

import (
	"context"
	"iter"
	"maps"
	"slices"
	"time"

	"piko/admin"
	"piko/events"
	"piko/router"
	"piko/stats"
	"piko/tunnel"
	"piko/upstreamconn"
)

// statusSource is what the admin port shows of the node's traffic.
func (s *server) statusSource() *admin.Source {
	return &admin.Source{
		Self:      s.self,
		Endpoints: s.servedEndpoints,
		Size:      s.table.Size,
		Endpoint:  s.servedEndpoint,
		Name:      endpointName,
		Loads: func() map[string]admin.Load {
			active := s.traffic.Active(time.Now())
			loads := make(map[string]admin.Load, len(active))
			for name, l := range active {
				loads[name] = loadOf(l)
			}
			return loads
		},
		Traffic:   s.trafficOf,
		Upstreams: s.upstreamsOf,
	}
}

func loadOf(l stats.Load) admin.Load {
	return admin.Load{InFlight: l.InFlight, RequestsPerSecond: l.RequestsPerSecond, ErrorsPerSecond: l.ErrorsPerSecond, P50: l.P50, P99: l.P99}
}

// endpointName is the name in the table of an endpoint that somebody asks about.
func endpointName(tenant, endpoint string) (string, error) {
	endpoint, err := tunnel.ParseEndpoint(endpoint)
	if err != nil {
		return "", err
	}
	return tunnel.ParseName(tunnel.JoinName(tenant, endpoint))
}

// self is this node, as it shows itself.
func (s *server) self() admin.NodeOverview {
	n := admin.NodeOverview{ID: s.id, State: admin.StateActive, Version: version(), StartedAt: s.started.UTC().Truncate(time.Millisecond)}
	n.AdminAddr = s.gossip.SelfAdminAddr()
	endpoints, tunnels := s.table.Totals()
	n.Totals = admin.Totals{Endpoints: endpoints, Load: loadOf(s.traffic.Node(time.Now()))}
	n.Tunnels, n.InFlight = tunnels, s.gate.inFlight.count()
	if d := s.draining.Load(); d != nil {
		drain := s.drainState()
		n.State, n.Drain = admin.StateDraining, &drain
		if d.leaving.Load() {
			n.State = admin.StateLeaving
		}
	}
	return n
}

// alive is how many tunnels a route has at nodes that can be reached.
func alive(route *router.Route) (tunnels int) {
	tunnels = len(route.Locals)
	for _, r := range route.Remotes {
		if r.Node.Alive() {
			tunnels += r.Tunnels()
		}
	}
	return tunnels
}

func (s *server) servedEndpoints() iter.Seq2[string, int] {
	return func(yield func(string, int) bool) {
		for name, route := range s.table.Routes() {
			if !yield(name, alive(route)) {
				return
			}
		}
	}
}

func (s *server) servedEndpoint(name string) (e admin.Endpoint, ok bool) {
	route := s.table.Lookup(name)
	e.Tenant, e.Endpoint = tunnel.SplitName(name)
	e.Nodes = []string{}
	if route == nil {
		return e, false
	}
	if len(route.Locals) > 0 {
		e.Nodes = append(e.Nodes, s.id)
	}
	for _, r := range route.Remotes {
		if r.Node.Alive() {
			e.Nodes = append(e.Nodes, r.Node.ID())
		}
	}
	slices.Sort(e.Nodes)
	e.Tunnels = alive(route)
	return e, true
}

// trafficOf is what is known here of the requests to an endpoint.
func (s *server) trafficOf(name string) admin.Traffic {
	d := s.traffic.Endpoint(name, time.Now())
	t := admin.Traffic{Load: loadOf(d.Load)}
	for _, p := range d.Points {
		t.Points = append(t.Points, admin.Point{Time: p.Time.UTC().Round(time.Second), Requests: p.Requests, Errors: p.Errors, P50: p.P50, P99: p.P99})
	}
	for _, f := range d.Failures {
		t.RecentErrors = append(t.RecentErrors, admin.RecentError{
			Time: f.Time.UTC(), Code: f.Code, Status: f.Status, Node: s.id, Upstream: f.Upstream, Detail: f.Detail,
		})
	}
	return t
}

func (s *server) upstreamsOf(name string) iter.Seq[admin.Upstream] {
	list := s.upstreams.Upstreams()
	if name != "" {
		list = s.upstreams.UpstreamsOf(name)
	}
	return func(yield func(admin.Upstream) bool) {
		for st := range list {
			if !yield(s.upstreamOf(st)) {
				return
			}
		}
	}
}

func (s *server) upstreamOf(st upstreamconn.Status) admin.Upstream {
	u := admin.Upstream{
		ID: st.ID, Endpoint: st.Endpoint, Tenant: st.Tenant, Instance: st.Instance, RemoteAddr: st.Remote,
		AgentVersion: st.Version, Features: st.Features, Node: s.id, Since: st.Since.UTC().Truncate(time.Millisecond),
		InFlight: st.InFlight, Requests: st.Requests, BytesIn: st.BytesIn, BytesOut: st.BytesOut, Errors: st.Failed,
		Weight: st.Weight, Draining: st.Draining || st.Leaving,
	}
	if u.Features == nil {
		u.Features = []string{}
	}
	if f := st.LastFailure; f != nil {
		u.LastError = &admin.UpstreamError{Time: f.Time.UTC(), Code: string(f.Code), Detail: f.Detail}
	}
	return u
}

// newTracker notices what the cluster's endpoints and nodes do.
func (s *server) newTracker() *events.Tracker {
	return &events.Tracker{
		NodeID:  s.id,
		Publish: s.events.Publish,
		Nodes:   s.nodeStates,
		Known: func(name string) (known, served bool) {
			route := s.table.Lookup(name)
			return route != nil, route != nil && alive(route) > 0
		},
		Unserved: func(f func(string)) {
			for name, route := range s.table.Routes() {
				if alive(route) == 0 {
					f(name)
				}
			}
		},
		Split: tunnel.SplitName,
	}
}

// nodeStates are the nodes of the cluster, the best state of each.
func (s *server) nodeStates() map[string]events.State {
	known := map[string]events.State{
		admin.StatusActive: events.Active, admin.StatusDraining: events.Draining, admin.StatusUnreachable: events.Unreachable,
	}
	states := make(map[string]events.State)
	for _, n := range s.gossip.Nodes() {
		state, ok := known[n.Status]
		if !ok {
			state = events.Gone
		}
		if before, twice := states[n.ID]; !twice || state < before {
			states[n.ID] = state
		}
	}
	return states
}

// watch notices events from when the node is ready: what there is then is none.
func (s *server) watch(ctx context.Context) {
	select {
	case <-s.ready:
		s.tracker.Run(ctx)
	case <-ctx.Done():
	}
}

// isFirst says whether this node is the one that speaks for all: of those that
// take work the one whose name is the first.
func (s *server) isFirst() bool {
	states := s.nodeStates()
	for _, best := range []events.State{events.Active, events.Draining} {
		for _, id := range slices.Sorted(maps.Keys(states)) {
			if states[id] == best {
				return id == s.id
			}
		}
	}
	return true
}

// tunnelChanged makes an event of what happened to a tunnel.
func (s *server) tunnelChanged(c upstreamconn.Change) {
	e := events.Event{
		Type: events.UpstreamConnected, Time: time.Now().UTC(), Node: s.id,
		Endpoint: c.Endpoint, Tenant: c.Tenant, Upstream: c.ID, Detail: c.Remote,
	}
	if !c.Connected {
		e.Type = events.UpstreamDisconnected
		e.Detail += ": " + c.Reason
	}
	s.events.Publish(e)
}
