package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/accesslog"
	"piko/admin"
	"piko/certs"
	"piko/events"
	"piko/gossip"
	"piko/limit"
	"piko/listen"
	"piko/peer"
	"piko/proxy"
	"piko/router"
	"piko/stats"
	"piko/tracing"
	"piko/tunnel"
	"piko/upstreamconn"
)

// serverCmd is `piko server`: without a further command it runs a node.
type serverCmd struct {
	Node   serverNodeCmd `cmd:"" hidden:"" default:"withargs" help:"Run a node."`
	Status statusCmd     `cmd:"" help:"Ask a running node."`
}

// serverNodeCmd runs a node.
type serverNodeCmd struct {
	serverConfig
	Config configFlags `embed:"" prefix:"config."`
}

// Help is the long help.
func (serverNodeCmd) Help() string {
	return `
A node takes requests from clients on its proxy port and forwards each to an agent
that listens on the endpoint which the request names: in the header x-piko-endpoint,
or as the first label of the host. Agents connect to its upstream port.

Examples:
  piko server
  piko server --proxy.bind-addr :80 --upstream.bind-addr 10.0.0.1:8001
  piko server --config.path /etc/piko/server.yaml --log.format text
  PIKO_PROXY_TIMEOUT=2m piko server --shutdown-delay 10s
  piko server --cluster.join node-1.example.com --cluster.secret-file /etc/piko/secret

` + reloadHelp + `

Exit status: 0 after SIGTERM or SIGINT (a second one kills), 1 for a failure such as a
port in use, 2 for a mistake in flags, environment or file.`
}

// checkConfig implements configured.
func (c *serverNodeCmd) checkConfig(*cli) error {
	if err := c.check(); err != nil {
		return err
	}
	_, err := c.loadTLS(nil, nil)
	return err
}

// files implements configured.
func (c *serverNodeCmd) files(*cli) []string { return c.serverConfig.files() }

// Run runs a node until a signal or a failure ends it.
func (c *serverNodeCmd) Run(p *process) error {
	if err := c.check(); err != nil {
		return err
	}
	log := p.logger(c.Log)
	limitMemory(p.getenv, log)
	raiseHeap(p.getenv)
	c.AccessOut, c.Collectors, c.Reload = p.logWriter(), p.collectors, p.reload
	s, err := newServer(c.serverConfig, log)
	if err != nil {
		return err
	}
	p.takeover.Store(new(takeover(func(next *cli) (func(), []string, error) { return s.prepare(next.Server.Node.serverConfig) })))
	status := fmt.Sprintf("serving clients on %s, agents on %s", s.ProxyAddr(), s.UpstreamAddr())
	defer newNotifier(p.getenv, s.log).follow(p.ctx, s.Ready(), status, c.GracePeriod)()
	return s.Run(p.ctx)
}

// server is one node: clients' requests come in on the proxy port and leave
// through the tunnels that upstreams opened on the upstream port, or through
// another node that has such tunnels. The table between them knows which
// upstream and which node serves which endpoint: upstreamconn says so of its
// tunnels, gossip of the other nodes, and peer has the connections to those.
type server struct {
	// Static after construction.
	cfg       serverConfig
	id        string
	epoch     string // of this start
	log       *slog.Logger
	table     *router.Table
	upstreams *upstreamconn.Server
	gossip    *gossip.Cluster
	peers     *peer.Peers
	upgrades  *upgrades
	limits    *limit.Requests
	memory    *limit.Memory
	traffic   *stats.Traffic
	events    *events.Log
	tracker   *events.Tracker
	webhook   *events.Webhook // nil: none
	// webhookSecret signs what it sends; replaced by reloads.
	webhookSecret atomic.Pointer[[]byte]
	tracer        *tracing.Tracer // nil: none
	started       time.Time
	budget        *tunnel.Budget
	uploads       *tunnel.Budget // of uploads over HTTP/2 that do not move: half as much as budget; it only counts
	public        *proxy.Public
	gate          *gate // clients' requests in flight
	hops          *gate // other nodes' requests in flight
	proxy         *port
	upstream      *port
	admin         *port

	challenges *port   // of ACME over plain HTTP; nil: none
	guards     *guards // who may use the ports
	registry   *prometheus.Registry
	state      *nodeMetrics
	files      *listen.Descriptors
	ready      chan struct{} // closed when the node serves

	nodeTLS
	expiry *certs.Expiry // of its certificates

	// Owned by who calls prepare.
	reloaded *serverConfig // in force since a reload; nil: none

	isReady    atomic.Bool // what /ready says
	isDraining atomic.Bool // responses ask clients to close their connections

	draining  atomic.Pointer[draining] // nil: it does not
	askDrain  sync.Once
	drainAsks chan struct{} // closed when an operator asks for a drain
}

// newServer puts a node together and opens its ports, so that its addresses
// are known and a port in use is an error before anything has started. Whoever
// calls it calls Run, which also closes the ports.
func newServer(cfg serverConfig, log *slog.Logger) (*server, error) {
	s := &server{cfg: cfg, id: newNodeID(cfg.Cluster), table: router.NewTable(), ready: make(chan struct{}), upgrades: newUpgrades(),
		traffic: stats.New(), events: events.NewLog(), started: time.Now(), drainAsks: make(chan struct{})}
	s.tracker = s.newTracker()
	s.table.ObserveKnown(s.tracker.Endpoint)
	s.epoch = gossip.NewEpoch(s.id, time.Now())
	s.log = subsystem(log, "server").With("node_id", s.id)
	registry := newRegistry()
	registry.MustRegister(cfg.Collectors...)
	s.registry, s.files = registry, listen.NewDescriptors()
	var err error
	if s.nodeTLS, err = cfg.loadTLS(s.endpointExists, subsystem(log, "proxy")); err != nil {
		return nil, err
	}
	s.expiry = s.watchExpiry(s.log)
	registry.MustRegister(s.expiry, s.traffic.Collector(cfg.Admin.EndpointMetrics))
	s.state = newNodeMetrics(s)
	registry.MustRegister(s.state, s.events)
	secrets, err := cfg.Cluster.secrets()
	if err != nil {
		return nil, err
	}
	if s.guards, err = newGuards(&cfg, log, registry); err != nil {
		return nil, err
	}

	if s.webhook, err = s.newWebhook(log, registry); err != nil {
		return nil, err
	}
	if s.tracer, s.tracingTLS, err = cfg.Tracing.tracer("piko-server", s.id, log, registry); err != nil {
		return nil, err
	}
	s.expiry.AddClient("tracing", s.tracingTLS)
	if err := s.newLimits(log, registry); err != nil {
		return nil, err
	}
	s.upstreams = &upstreamconn.Server{
		NodeID:       s.id,
		Table:        s.table,
		Logger:       subsystem(log, "upstream"),
		StreamWindow: int(cfg.Upstream.StreamWindow),
		MaxRequests:  cfg.Proxy.Limits.RequestsPerTunnel,
		Budget:       s.budget,
		ClusterSize:  s.clusterSize,
		Others:       s.others,
		Average:      func() float64 { return s.gossip.AverageUpstreams() },
		Rebalance:    upstreamconn.Rebalance(cfg.Upstream.Rebalance),
		Registerer:   registry,
		Auth:         s.guards.upstream,
		Isolated:     cfg.isolated(),
		Limits:       upstreamconn.Limits(cfg.Upstream.Limits),
		OnChange:     s.tunnelChanged,
	}
	if s.peers, err = s.newPeers(log, registry, len(secrets) > 0); err != nil {
		return nil, err
	}
	status := &admin.Server{
		Ready:     s.isReady.Load,
		Endpoints: s.table.Endpoints,
		NodeID:    s.id,
		Nodes:     s.nodes,
		Gatherer:  registry,
		Reload:    cfg.Reload,
		TLS:       s.adminDialTLS(),
		Auth:      s.guards.adminAuth(),
		PassToken: len(secrets) > 0 || s.adminTLS != nil && !cfg.Admin.TLS.Client.InsecureSkipVerify,
		Source:    s.statusSource(),
		Events:    s.events,
		Drain:     s.drainAsked,
		Logger:    subsystem(log, "admin"),

		Disconnect: s.upstreams.Disconnect,
	}
	if s.public, err = proxy.NewPublic(s.proxyOptions(log, registry)); err != nil {
		return nil, err
	}
	s.gate = &gate{next: untilReady(s.ready, s.public), upgrades: s.upgrades}
	if err := s.open(log, status); err != nil {
		return nil, err
	}
	if err := s.newGossip(log, registry, secrets); err != nil {
		s.closePorts()
		return nil, err
	}
	return s, nil
}

// closePorts undoes open.
func (s *server) closePorts() {
	for _, p := range []*port{s.proxy, s.upstream, s.admin, s.challenges} {
		if p != nil {
			p.ln.Close()
		}
	}
}

// proxyOptions is what the proxy is told.
func (s *server) proxyOptions(log *slog.Logger, registry prometheus.Registerer) proxy.Options {
	cfg := &s.cfg.Proxy
	opt := proxy.Options{
		Lookup:       s.table.Lookup,
		NodeID:       s.id,
		Internal:     s.peers,
		Limits:       s.limits,
		Traffic:      s.traffic,
		Tracer:       s.tracer,
		Buffers:      s.budget,
		Held:         s.uploads,
		Auth:         s.guards.proxy,
		Timeout:      zeroIsOff(cfg.Timeout),
		SendTimeout:  zeroIsOff(cfg.SendTimeout),
		ReadTimeout:  zeroIsOff(cfg.HTTP.ReadTimeout),
		WriteTimeout: zeroIsOff(cfg.HTTP.WriteTimeout),
		Draining:     s.isDraining.Load,
		Logger:       subsystem(log, "proxy"),
		Registerer:   registry,
	}
	if s.cfg.AccessOut != nil && !cfg.AccessLog.Disable {
		opt.AccessLog = accesslog.New(s.cfg.AccessOut, cfg.AccessLog.accessLog(), s.cfg.Log.accessOptions(log, "proxy.access"))
	}
	opt.Domains, opt.Tenants = cfg.routing()
	for _, p := range cfg.TrustedProxies {
		opt.TrustedProxies = append(opt.TrustedProxies, p.Prefix)
	}
	return opt
}

// open opens the ports, all or none.
func (s *server) open(log *slog.Logger, status *admin.Server) error {
	for _, p := range []struct {
		port **port
		flag string
		addr bindAddr
		srv  *http.Server
		opt  listen.Options
	}{
		{&s.proxy, "--proxy.bind-addr", s.cfg.Proxy.BindAddr, newProxyServer(s.gate, &s.cfg.Proxy, log), s.proxyPortOptions(log)},
		{&s.upstream, "--upstream.bind-addr", s.cfg.Upstream.BindAddr, newUpstreamServer(s.upstreams.Handler(), log), s.upstreamPortOptions(log)},
		{&s.admin, "--admin.bind-addr", s.cfg.Admin.BindAddr, newAdminServer(status.Handler(), log), s.adminPortOptions(log)},
	} {
		var err error
		if *p.port, err = openPort(p.flag, p.addr, p.srv, p.opt); err != nil {
			s.closePorts()
			return err
		}
	}
	s.proxy.resets = s.cfg.Proxy.HTTP.MaxResets
	if err := s.openACME(log); err != nil {
		s.closePorts()
		return err
	}
	return nil
}

// Run serves until ctx ends, drains, and returns nil; or returns what failed,
// after a drain too. It leaves no goroutine behind. It may be called once.
func (s *server) Run(ctx context.Context) error {
	// What is under way outlives ctx by the grace period; cut ends it.
	base, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	var running sync.WaitGroup
	defer running.Wait()
	defer cut(errStopped)
	failed := make(chan error, 12)
	running.Go(func() { failed <- s.expiry.Run(base) })
	if s.acme != nil {
		running.Go(func() { failed <- s.acme.Run(base) })
	}
	if s.challenges != nil {
		running.Go(func() { failed <- s.challenges.serveUntil(base) })
	}
	running.Go(func() { failed <- s.upstreams.Run(base) })
	running.Go(func() { failed <- s.peers.Run(base) })
	running.Go(func() { failed <- s.gossip.Run(base) })
	running.Go(func() { failed <- s.guards.run(base) })
	running.Go(func() { s.budget.Run(base) })
	running.Go(func() { s.memory.Run(base) })
	running.Go(func() { limit.GiveBack(base) })
	running.Go(func() { s.traffic.Run(base) })
	running.Go(func() { s.watch(base) })
	if s.webhook != nil {
		reader := s.events.Follow()
		running.Go(func() { s.webhook.Run(base, reader) })
	}
	if s.tracer != nil {
		running.Go(func() { s.tracer.Run(base) })
	}
	running.Go(func() { s.tellResets(base) })
	for _, p := range []*port{s.proxy, s.upstream, s.admin} {
		running.Go(func() { failed <- p.serve(base) })
	}
	s.log.Info("node started", "version", version(), "proxy", s.ProxyAddr().String(), "upstream", s.UpstreamAddr().String(),
		"admin", s.AdminAddr().String(), "gossip", s.GossipAddr())

	s.warnOpen()
	reason, err := s.serveAndMove(ctx, base, failed)
	s.drain(base, cut, reason)
	return err
}

// serveAndMove is serveUntil, and moves work away if an operator asks for that.
func (s *server) serveAndMove(ctx, base context.Context, failed <-chan error) (reason string, err error) {
	moving, stop := context.WithCancel(base)
	var mover sync.WaitGroup
	defer mover.Wait()
	defer stop()
	mover.Go(func() { s.drainWhenAsked(moving) })
	return s.serveUntil(ctx, failed)
}

// serveUntil returns why the node has to stop: an error if something failed.
func (s *server) serveUntil(ctx context.Context, failed <-chan error) (reason string, err error) {
	joined := s.gossip.Ready()
	for {
		select {
		case <-joined:
			joined = nil
			s.isReady.Store(true)
			if s.isDraining.Load() { // an operator was quick
				s.isReady.Store(false)
			}
			close(s.ready)
			s.log.Info("node ready", "nodes", s.clusterSize())
		case <-ctx.Done():
			return context.Cause(ctx).Error(), nil
		case err := <-failed:
			if err == nil {
				err = errStopped // by nobody who should
			}
			s.log.Error("node failed", "error", err)
			return "failure", err
		}
	}
}

// Ready is closed once the node serves requests.
func (s *server) Ready() <-chan struct{} { return s.ready }

// ProxyAddr, UpstreamAddr and AdminAddr are the addresses that the node listens
// on, with the real port where the configuration said 0.
func (s *server) ProxyAddr() net.Addr    { return s.proxy.ln.Addr() }
func (s *server) UpstreamAddr() net.Addr { return s.upstream.ln.Addr() }
func (s *server) AdminAddr() net.Addr    { return s.admin.ln.Addr() }

// GossipAddr is host:port, TCP and UDP, where other nodes join this one.
func (s *server) GossipAddr() string { return s.gossip.Addr() }

// randomIDLen is how long the random part of a node's ID is, in bytes.
const randomIDLen = 7

// newNodeID is the configured name, or a new one: unique for each start.
func newNodeID(cfg clusterConfig) string {
	if cfg.NodeID != "" {
		return string(cfg.NodeID)
	}
	return string(cfg.NodeIDPrefix) + strings.ToLower(rand.Text()[:randomIDLen])
}
