// Package upstreamconn holds the tunnels that are open to this node: it takes
// an upstream's handshake, puts the upstream into the routing table, takes it
// out again when its tunnel ends or it asks for that, and moves all of them
// away when the node drains.
//
// It forwards nothing: the proxy finds an upstream in the table and calls
// RoundTrip or Open on it. It does not know the other nodes. Package main hands
// in the table, serves Handler on the upstream port, runs Run beside it, and
// calls Drain, SendBack and Close when the node stops.
//
// A tunnel costs no goroutine here. Everything that happens to it is an event
// of its session, which this package turns into a change of the table.
package upstreamconn

import (
	"context"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
	"piko/router"
	"piko/tunnel"
)

// Server takes tunnels. Set its fields before the first call of Handler; its
// methods are safe for concurrent use.
type Server struct {
	// NodeID is what upstreams are told of this node: they want their tunnels
	// at distinct ones.
	NodeID string
	// Table is where upstreams are put. It must not be nil.
	Table *router.Table
	// Logger gets connects, disconnects and refusals; nil discards.
	Logger *slog.Logger
	// StreamWindow and MaxStreams are those of tunnel.Options.
	StreamWindow int
	MaxStreams   int
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer

	// Static after init.
	once     sync.Once
	log      *slog.Logger
	wheel    *tunnel.Wheel
	metrics  *metrics
	features []string // what we accept of an upstream's; one slice for all tunnels

	refusals logLimit
	registry registry
}

func (s *Server) init() {
	s.once.Do(func() {
		s.log = s.Logger
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.wheel = tunnel.NewWheel()
		s.metrics = newMetrics(s.Registerer, s.Table)
		s.features = []string{tunnel.FeatureControl}
		s.registry.init()
	})
}

// Handler serves GET /piko/v1/upstream/{endpoint}; anything else is 404. It
// returns as soon as a tunnel is open.
func (s *Server) Handler() http.Handler {
	s.init()
	mux := http.NewServeMux()
	mux.HandleFunc(tunnel.UpstreamPath+"{endpoint}", s.serveUpstream)
	mux.HandleFunc(tunnel.UpstreamPath+"{$}", s.serveUpstream)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
		fault.Write(w, r, fault.New(fault.NotFound, nil))
	})
	return mux
}

// Run watches over the life of the tunnels until ctx ends. Without it a peer
// that vanished is never noticed.
func (s *Server) Run(ctx context.Context) error {
	s.init()
	s.wheel.Run(ctx)
	return nil
}

// serveUpstream turns a request into a tunnel, or refuses it.
func (s *Server) serveUpstream(w http.ResponseWriter, r *http.Request) {
	endpoint, err := s.check(r)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	hello := tunnel.ReadHello(r)
	u := newUpstream(s, instance{endpoint, hello.Instance})
	sess, err := tunnel.Accept(w, r, s.reply(hello), u.options())
	if err != nil {
		s.log.Info("upstream handshake failed", "endpoint", endpoint, "remote", r.RemoteAddr, "err", err)
		return
	}
	if !s.registry.add(u) {
		closeSession(sess)
		return
	}
	u.join(sess)
	s.catchUp(u)
}

// check returns the endpoint, or why there will be no tunnel for it.
func (s *Server) check(r *http.Request) (string, error) {
	endpoint, err := tunnel.ParseEndpoint(r.PathValue("endpoint"))
	if err != nil {
		return "", err
	}
	if err := tunnel.CheckHandshake(r); err != nil {
		return "", err
	}
	if s.registry.isDraining() {
		return "", fault.New(fault.Draining, nil)
	}
	// The name is a part of the request line, which should not be kept for
	// the life of a tunnel.
	return strings.Clone(endpoint), nil
}

// reply accepts what we have built of what the upstream offers.
func (s *Server) reply(hello tunnel.Hello) tunnel.Reply {
	reply := tunnel.Reply{NodeID: s.NodeID, ClusterSize: 1}
	if slices.Contains(hello.Features, tunnel.FeatureControl) {
		reply.Features = s.features
	}
	return reply
}

// refuse answers a request that is no handshake, and says so in the log.
func (s *Server) refuse(w http.ResponseWriter, r *http.Request, err error) {
	tunnel.RefuseHandshake(w, r, err)
	if ok, dropped := s.refusals.allow(time.Now()); ok {
		s.log.Info("upstream refused", "path", short(r.URL.Path), "remote", r.RemoteAddr, "reason", err.Error(), "unlogged", dropped)
	}
}

// short keeps a stranger's text from filling the log.
func short(s string) string { return s[:min(len(s), 300)] }
