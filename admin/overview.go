package admin

import (
	"net/http"
)

// status answers the routes of a Source.
type status struct {
	// Static after construction.
	*Server
	source  *Source
	forward *forwarder
	live    live
}

// serveOverview answers /status/overview.
func (s *status) serveOverview(w http.ResponseWriter, r *http.Request) {
	s.writeJSON(w, s.overview(r))
}

func (s *status) overview(r *http.Request) Overview {
	self := s.source.Self()
	o := Overview{Time: now(), NodeID: s.NodeID, Nodes: []NodeOverview{self}, Totals: self.Totals, Partial: []Partial{}}
	if !wantsCluster(r) {
		return o
	}
	answers := gather[Overview](s.forward, r, "/status/overview", nil)
	for _, a := range answers {
		n := NodeOverview{ID: a.node.ID, State: StatusUnreachable, AdminAddr: a.node.AdminAddr}
		if a.err == nil && len(a.value.Nodes) == 1 {
			n = a.value.Nodes[0]
			n.ID = a.node.ID
			o.Totals.Load = o.Totals.merge(n.Load)
		}
		o.Nodes = append(o.Nodes, n)
	}
	o.Totals.Endpoints = s.source.Size()
	o.Partial = missing(s.Server, answers)
	return o
}
