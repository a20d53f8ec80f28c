// Package gossip tells the other nodes of the cluster what this one serves, and
// the router what they serve.
//
// memberlist finds the nodes, watches them and spreads small announcements. What
// each node serves is a log of its own that the others read over their
// connections to it: a snapshot, then changes in batches, then a heartbeat every
// 5 s (see ownLog and remoteCopy). Announcements carry the heads of these logs, so
// that a reader that missed something finds out.
//
// A node is known by its epoch, a name that is new at each start, and shown by its
// id. It is given traffic while memberlist thinks it alive, it has not said that
// it leaves, and a connection to it stands.
//
// What this package is not: it opens no connection to nodes but those of
// memberlist. Package peer does, and main hands it over as Options.Connect; the
// log's handler goes the other way, to be served to nodes that proved who they are.
//
// One goroutine (Cluster.loop) decides who is connected and followed, one follower
// for each other node applies its log to the router's table.
package gossip

import (
	"context"
	"io"
	"log/slog"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus"

	"piko/router"
)

// Member is a node as it describes itself to the others.
type Member struct {
	ID        string // as configured; shown to people
	Epoch     string // unique to one start of the process
	ProxyAddr string // host:port of the proxy port, as others reach it
	AdminAddr string // host:port of the admin port, likewise
	Key       []byte // with which it proves who it is; not to be changed
	Draining  bool   // prefers that others be given its work
}

// Peer is what carries requests to one node. All methods may be called by any
// goroutine at any time.
type Peer interface {
	// Upstream carries requests for the endpoint. It is called for each request.
	Upstream(endpoint string) router.Upstream
	// Subscribe opens the node's log behind a position, as its LogHandler serves
	// it. Reading from the body fails when ctx ends. The caller closes it.
	Subscribe(ctx context.Context, epoch string, since uint64) (io.ReadCloser, error)
	// Close takes no more requests. Those under way go on.
	Close()
}

// Options says how a node is part of a cluster. NodeID, Epoch, BindAddr,
// ProxyAddr, Table and Connect are needed.
type Options struct {
	NodeID string
	Epoch  string // of NewEpoch

	BindAddr      string // host:port of the gossip port, TCP and UDP; port 0 is chosen
	AdvertiseAddr string // host or host:port at which others reach it; empty: chosen

	Name    string   // clusters with other names do not mix
	Secrets []string // the first encrypts, all decrypt; none: clear text

	Join             []string      // hosts or host:port
	JoinTimeout      time.Duration // 0: one minute
	AbortIfJoinFails bool          // Run fails when no node could be joined in that time

	Interval      time.Duration // between rounds of gossip; 0: 50 ms
	MaxPacketSize int           // in bytes of UDP payload; 0: 1400

	ProxyAddr, AdminAddr string // what others are told of this node
	Key                  []byte // likewise

	Table *router.Table
	// Connect makes the connections to a node. It must not block. reachable is
	// told at changes whether the node can be reached, which it cannot before the
	// first call; from any goroutine, but not after Close has returned.
	Connect func(m Member, reachable func(bool)) Peer
	// OnSize, unless nil, is told at changes how many nodes there are, as Size
	// counts them. It must be fast, and is called by one goroutine at a time.
	OnSize func(nodes int)

	Logger     *slog.Logger          // nil: none
	Registerer prometheus.Registerer // nil: none

	transport transport // tests: in place of the port
	resolver  resolver  // tests: in place of the system's
}

// Timing. The detection of failures is what was measured for a crash that all
// know of within 2 s.
const (
	probeInterval       = 300 * time.Millisecond
	probeTimeout        = 150 * time.Millisecond
	defaultInterval     = 50 * time.Millisecond
	defaultPacketSize   = 1400
	defaultJoinTimeout  = time.Minute
	announceInterval    = time.Second
	forgetAfter         = time.Minute // a node that is gone
	readyTimeout        = 10 * time.Second
	silenceTimeout      = 12 * time.Second // a log without a frame: two heartbeats and some
	behindTimeout       = 3 * time.Second  // a copy that its node's head is ahead of
	manyNodes           = 16
	maxNodes            = 1024 // beyond that nobody is let in
	gossipToTheDeadTime = 30 * time.Second
)

// Cluster is this node's part in a cluster. All methods may be called by any
// goroutine at any time. Use New.
type Cluster struct {
	// Static after construction.
	opt       Options
	log       *slog.Logger
	metrics   *metrics
	transport transport
	own       *ownLog
	removals  *removals
	queue     memberlist.TransmitLimitedQueue // of heads
	started   time.Time
	wake      chan struct{} // of loop; holds one
	metaNews  chan struct{} // of tellMeta; holds one
	ready     chan struct{} // closed when this node may be given work
	stopped   chan struct{} // closed when Run ends

	members   atomic.Int32 // known to be alive, with this one
	followers sync.WaitGroup
	readers   atomic.Int32 // of the own log

	// life has a place for who uses memberlist in a way that must not meet its end,
	// which may take seconds.
	life chan struct{}
	over bool                                  // memberlist is shut down; guarded by life
	list atomic.Pointer[memberlist.Memberlist] // nil before Run

	// Guarded by mu. Callbacks of memberlist's take it while they hold memberlist's
	// own lock, so nothing of memberlist is called with it held.
	mu       sync.Mutex
	fail     context.CancelCauseFunc      // ends Run; nil before it
	nodes    map[string]*node             // by epoch
	gone     map[string]time.Time         // epochs that left and never return: until when this is kept
	lost     map[netip.AddrPort]time.Time // where nodes were that fell silent, and when that was seen last
	awaited  map[string]bool              // epochs whose first snapshot readiness waits for; nil: not yet known
	joined   time.Time                    // zero: not yet
	size     int                          // what OnSize was told
	draining bool
	leaving  bool
	yielding bool   // to another node with this one's id
	sent     head   // what was announced last
	round    uint64 // of the last announcement
}

// New opens the gossip port. Whoever calls it calls Run, or Close when it cannot.
func New(opt Options) (*Cluster, error) {
	if err := opt.check(); err != nil {
		return nil, err
	}
	t := opt.transport
	if t == nil {
		var err error
		if t, err = listen(opt.BindAddr, opt.AdvertiseAddr); err != nil {
			return nil, err
		}
	}
	c := &Cluster{
		opt: opt, log: opt.Logger, transport: t, own: newOwnLog(opt.Epoch), started: time.Now(),
		life: make(chan struct{}, 1), wake: make(chan struct{}, 1), metaNews: make(chan struct{}, 1), ready: make(chan struct{}), stopped: make(chan struct{}),
		nodes: make(map[string]*node), gone: make(map[string]time.Time), lost: make(map[netip.AddrPort]time.Time),
	}
	c.members.Store(1)
	c.queue.RetransmitMult = retransmitMult
	c.queue.NumNodes = func() int { return int(c.members.Load()) }
	c.removals = newRemovals(func(endpoint string, weight int) {
		if c.own.set(endpoint, weight) {
			c.metrics.deltas.outbound.Inc()
		}
	})
	c.metrics = newMetrics(opt.Registerer, c)
	t.observe(c.metrics)
	opt.Table.Observe(c.removals.observe)
	return c, nil
}

// Addr is the address of the gossip port as others are told it.
func (c *Cluster) Addr() string { return c.transport.advertised().String() }

// Close gives the gossip port back when Run was never called.
func (c *Cluster) Close() { c.transport.Shutdown() }

// Ready is closed once the join is over and what all nodes known then serve has
// been learnt, or 10 s after the join.
func (c *Cluster) Ready() <-chan struct{} { return c.ready }

// kick makes a goroutine that waits for the level channel look again.
func kick(ch chan struct{}) {
	select {
	case ch <- struct{}{}:
	default:
	}
}
