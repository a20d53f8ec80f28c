// Package admin is what operators and their tools ask a node: is it healthy and
// ready, what are its metrics, which endpoints does it serve, which nodes does
// it know and what do they serve, where does it spend its time; and the same of
// any other node of its cluster. It also has the client of that API, for the
// command line.
//
// It owns no goroutine but those of requests, and does not listen: main gives it funcs
// that answer its questions and serves its Handler on the admin port. It knows
// no other part of piko, only what they have to show.
package admin

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"iter"
	"log/slog"
	"maps"
	"net/http"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"piko/admin/page"
	"piko/events"
	"piko/fault"
)

// Server answers the requests of the admin port. The fields are set before
// Handler is called and not changed after; the funcs may be called by any
// goroutine at any time and must be fast.
type Server struct {
	// Healthy answers /health; nil is always yes. It must not depend on other
	// nodes: whoever asks restarts the process when the answer is no.
	Healthy func() bool
	// Ready answers /ready; nil is always yes. It is no before the node serves
	// and from the start of its drain.
	Ready func() bool
	// Endpoints are the endpoints of the node's own upstreams with their
	// number, in any order; nil is none.
	Endpoints func() iter.Seq2[string, int]
	// NodeID is this node's own.
	NodeID string
	// Nodes are the nodes of the cluster as this one knows them, itself
	// included, in any order; nil is none. Requests are forwarded to their
	// AdminAddr and to no other.
	Nodes func() []Node
	// TLS, if not nil, is asked what to dial other nodes' admin ports with, for
	// each connection; nil means that they speak no TLS. What it returns may be
	// nil, for the system's authorities.
	TLS func() *tls.Config
	// Auth, if not nil, decides who may ask for anything but /health and /ready,
	// and says which header held the token. Its errors are for fault.Write. nil
	// lets everybody read, and this machine alone do the rest.
	Auth func(*http.Request) (header string, err error)
	// PassToken lets a token go with a request to another node: whoever
	// announces an address in the cluster must be known to be a member.
	PassToken bool
	// Reload reads the configuration again, see ReloadHandler; nil serves no such
	// route. It may take its time.
	Reload func(context.Context) (*Reloaded, error)
	// Gatherer has the metrics; nil serves none.
	Gatherer prometheus.Gatherer
	// Source, if not nil, is for the routes that show traffic.
	Source *Source
	// Events, if not nil, are those that /status/events shows.
	Events *events.Log
	// Drain, if not nil, makes the node drain, unless it does already, and says
	// how far it is; it does not wait.
	Drain func() Drain
	// Disconnect, if not nil, ends the tunnel with the id and says whether there
	// was one; it does not wait.
	Disconnect func(id string) bool
	// Logger gets what goes wrong here, and what was asked for; nil discards.
	Logger *slog.Logger

	watching viewers // of Events
}

// get is a route that is answered by GET and HEAD alone.
type get struct {
	path    string
	handler http.HandlerFunc
}

// Handler returns the routes of the admin port, and its web page. Any other path is 404 and any
// other method 405, as JSON. All but the profiles take ?forward=NODE: then that
// node of the cluster answers.
func (s *Server) Handler() http.Handler {
	mux := http.NewServeMux()
	forward := newForwarder(s, mux)
	for _, r := range []get{
		{"/health", probe(s.Healthy)},
		{"/ready", probe(s.Ready)},
		{"/status/upstream/endpoints", s.serveEndpoints},
		{"/status/cluster/nodes", serveNodes(s, (*Node).summary)},
		{"/status/cluster/nodes/{id}", serveNode(s, (*Node).detail)}, // id may be "local"
		{"/status/gossip/nodes", serveNodes(s, (*Node).gossip)},
		{"/status/gossip/nodes/{id}", serveNode(s, (*Node).gossipDetail)},
	} {
		mux.Handle(r.path, methods(r.handler, http.MethodGet, http.MethodHead))
	}
	if s.Gatherer != nil {
		mux.Handle("/metrics", methods(metricsHandler(s.Gatherer, s.log()), http.MethodGet, http.MethodHead))
	}
	if s.Reload != nil {
		mux.Handle(reloadPath, ReloadHandler(s.Reload))
	}
	s.addPprof(mux)
	s.addStatus(mux, forward)
	web := page.Handler()
	mux.Handle(page.Prefix, web)
	mux.HandleFunc("/", serveRest(web))
	return newGate(s, forward)
}

// addStatus adds the routes for which there is something to show or to do.
func (s *Server) addStatus(mux *http.ServeMux, forward *forwarder) {
	if s.Source != nil {
		st := &status{Server: s, source: s.Source, forward: forward}
		for _, r := range []get{
			{"/status/overview", st.serveOverview},
			{"/status/endpoints", st.serveEndpointList},
			{"/status/endpoints/{endpoint}", st.serveEndpoint},
			{"/status/upstreams", st.serveUpstreams},
			{"/status/loads", st.serveLoads},
			{"/status/traffic", st.serveTraffic},
		} {
			mux.Handle(r.path, methods(r.handler, http.MethodGet, http.MethodHead))
		}
		mux.Handle("/status/live", methods(http.HandlerFunc(st.serveLive), http.MethodGet))
	}
	if s.Events != nil {
		mux.Handle("/status/events", methods(http.HandlerFunc(s.serveEvents), http.MethodGet))
	}
	if s.Drain != nil {
		mux.Handle("/status/drain", methods(http.HandlerFunc(s.serveDrain), http.MethodPost))
	}
	if s.Disconnect != nil {
		mux.Handle("/status/upstreams/{id}/disconnect", methods(http.HandlerFunc(s.serveDisconnect), http.MethodPost))
	}
}

func (s *Server) log() *slog.Logger {
	if s.Logger == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Logger
}

// methods answers 405 to all other methods.
func methods(h http.Handler, allowed ...string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if slices.Contains(allowed, r.Method) {
			h.ServeHTTP(w, r)
			return
		}
		for _, m := range allowed {
			w.Header().Add("Allow", m)
		}
		fault.Write(w, r, fault.MethodNotAllowed)
	})
}

// serveRest serves the web page to those who want it, and nothing to others.
func serveRest(web http.Handler) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if page.Wanted(r) {
			web.ServeHTTP(w, r)
			return
		}
		w.Header().Add("Vary", "Accept")
		fault.Write(w, r, fault.NotFound)
	}
}

// probe answers 200 or 503 without a body, as v0.9.0 does.
func probe(ok func() bool) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Cache-Control", "no-store")
		if ok != nil && !ok() {
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}
}

// serveEndpoints answers {"endpoint": number of upstreams}.
func (s *Server) serveEndpoints(w http.ResponseWriter, _ *http.Request) {
	counts := make(map[string]int)
	if s.Endpoints != nil {
		maps.Insert(counts, s.Endpoints())
	}
	s.writeJSON(w, counts)
}

// writeJSON answers a status request. The client may be gone, which is logged
// at debug only.
func (s *Server) writeJSON(w http.ResponseWriter, v any) {
	w.Header().Set("Content-Type", "application/json; charset=utf-8")
	w.Header().Set("Cache-Control", "no-store")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if err := json.NewEncoder(w).Encode(v); err != nil {
		s.log().Debug("write status", "error", err)
	}
}
