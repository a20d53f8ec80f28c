// Package upstreamconn holds the tunnels that are open to this node: it takes
// an upstream's handshake, puts the upstream into the routing table, takes it
// out again when its tunnel ends or it asks for that, and moves all of them
// away when the node drains.
//
// It forwards nothing: the proxy finds an upstream in the table and calls
// RoundTrip or Open on it. Of the other nodes it knows only what the fields of
// Server tell: how many there are, whether one is ready, and how many tunnels
// they have on average. Package main hands these and the table in, serves
// Handler on the upstream port, runs Run beside it, and calls Drain, SendBack
// and Close when the node stops.
//
// A tunnel costs no goroutine here. Everything that happens to it is an event
// of its session, which this package turns into a change of the table.
package upstreamconn

import (
	"cmp"
	"context"
	"log/slog"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/auth"
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
	// MaxRequests bounds the requests of a tunnel at once; 0 is no other bound
	// than that of its streams.
	MaxRequests int
	// Budget bounds the bytes that wait for slow readers; nil is no bound over
	// all tunnels.
	Budget *tunnel.Budget
	// Registerer gets the metrics; nil means none.
	Registerer prometheus.Registerer

	// Auth says who may listen, and a tunnel ends when the token expires that
	// it lives by; nil lets everybody. Its Run is the caller's.
	Auth *auth.Guard
	// Isolated says that each tenant has endpoints of its own; otherwise all
	// tenants share theirs, as in v0.9.0.
	Isolated bool
	// Limits bound the tunnels of this node.
	Limits Limits

	// ClusterSize is how many nodes are not draining, this one included: what
	// an upstream is told when it connects; nil means 1. Changes are told with
	// TellClusterSize. The functions here are called by many goroutines, must
	// be fast, and must not call the Server.
	ClusterSize func() int
	// Others says whether another node is known that is ready to take tunnels.
	// While it says so, a node that drains refuses new ones; nil means never.
	Others func() bool
	// Average is how many tunnels the live nodes that are not draining have on
	// average, this one included; 0 or nil means that it is not known.
	Average func() float64
	// Rebalance is when tunnels are asked to move away because this node has
	// more than its share; the zero value is never.
	Rebalance Rebalance

	// OnChange, if not nil, is told of each tunnel that connects or ends. It is
	// called by many goroutines, must not block, and must not call the Server.
	OnChange func(Change)

	// Static after init.
	once    sync.Once
	log     *slog.Logger
	wheel   *tunnel.Wheel
	metrics *metrics
	second  time.Duration // how often Run looks after the tunnels; a second but in tests
	retry   time.Duration // verifyPause but in tests

	refusals logLimit
	healths  logLimit      // of upstreams that say that they are, or not
	sources  *auth.Sources // of requests that are no handshakes
	registry registry
	places   places
	numbers  numbers
	expiries expiries
	size     clusterSize
	lingers  lingering
}

func (s *Server) init() {
	s.once.Do(func() {
		s.log = s.Logger
		if s.log == nil {
			s.log = slog.New(slog.DiscardHandler)
		}
		s.wheel = tunnel.NewWheel()
		s.metrics = newMetrics(s.Registerer, s.Table, s.registry.all)
		s.numbers.init()
		s.sources = auth.NewSources(0)
		s.expiries.init()
		s.registry.init()
		s.places.limit(s.Limits)
		s.registry.limit(s.MaxRequests)
		s.size.init()
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
		fault.Write(w, r, s.slow(w, r, fault.New(fault.NotFound, nil)))
	})
	return mux
}

// Run watches over the life of the tunnels, tells them the size of the cluster
// and keeps the balance until ctx ends. Without it a peer that vanished is
// never noticed, nor a token that has expired. It waits for its goroutines.
func (s *Server) Run(ctx context.Context) error {
	s.init()
	var wg sync.WaitGroup
	wg.Go(func() { s.wheel.Run(ctx) })
	wg.Go(func() { s.tellSizes(ctx) })
	wg.Go(func() { s.endExpired(ctx) })
	s.tend(ctx)
	wg.Wait()
	return nil
}

// tend does what is to be done once a second.
func (s *Server) tend(ctx context.Context) {
	t := time.NewTicker(cmp.Or(s.second, time.Second))
	defer t.Stop()
	b := newBalancer(s)
	keys := uint64(0)
	for {
		select {
		case <-ctx.Done():
			return
		case now := <-t.C:
			s.lingers.end(now)
			keys = s.endRevoked(keys)
			b.balance(ctx, now)
		}
	}
}

// serveUpstream turns a request into a tunnel, or refuses it.
func (s *Server) serveUpstream(w http.ResponseWriter, r *http.Request) {
	hello := tunnel.ReadHello(r)
	u, err := s.admit(r, hello)
	if err != nil {
		s.refuse(w, r, err)
		return
	}
	reply := s.reply(hello)
	u.told = reply.ClusterSize
	sess, err := tunnel.Accept(w, r, reply, u.options())
	if err != nil {
		s.log.Info("upstream handshake failed", u.attrs("remote", r.RemoteAddr, "err", err)...)
		u.giveUp()
		return
	}
	if !s.registry.add(u) {
		closeSession(sess)
		u.giveUp()
		return
	}
	u.join(sess)
	s.catchUp(u)
}

// refuses says that no new tunnel is taken. A node that drains takes it if no
// other could: an upstream that waits for a node serves nobody.
func (s *Server) refuses() bool {
	draining, closed := s.registry.stage()
	return closed || draining && s.Others != nil && s.Others()
}

// reply accepts what we have built of what the upstream offers.
func (s *Server) reply(hello tunnel.Hello) tunnel.Reply {
	reply := tunnel.Reply{NodeID: s.NodeID, ClusterSize: 1, Features: accepted(hello)}
	if s.ClusterSize != nil {
		reply.ClusterSize = max(s.ClusterSize(), 1)
	}
	return reply
}
