package proxy

import (
	"fmt"
	"maps"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// waitResult says what came of a wait for a candidate.
type waitResult int

const (
	waitFound   waitResult = iota
	waitInVain             // the time was over
	waitLeft               // the client went away
	waitRefused            // too many were waiting
	waitResults
)

// hopMetrics are those of the entry node's side. Safe for concurrent use.
type hopMetrics struct {
	// Static after construction.
	hops       byNode
	hopLatency prometheus.Histogram
	misses     [4]prometheus.Counter // as missIndex says
	waits      [waitResults]prometheus.Counter
}

// newHopMetrics also returns what is to be registered.
func newHopMetrics() (*hopMetrics, []prometheus.Collector) {
	hops := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_upstreams_remote_requests_total", Help: "Requests that were sent to another node, which has an upstream for them."}, []string{"node_id"})
	misses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_proxy_misses_total", Help: "Requests that another node gave back, since it had no upstream for them."}, []string{"reason"})
	waits := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_proxy_waits_total", Help: "Requests that waited for an upstream to come up at any node, by what came of it."}, []string{"result"})
	m := &hopMetrics{
		hops: byNode{vec: hops},
		hopLatency: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "piko_proxy_hop_response_seconds", Help: "Time from sending a request to another node to the header of the response.",
			Buckets: prometheus.DefBuckets}),
		waits: [waitResults]prometheus.Counter{
			waitFound: waits.WithLabelValues("found"), waitInVain: waits.WithLabelValues("in_vain"),
			waitLeft: waits.WithLabelValues("client_left"), waitRefused: waits.WithLabelValues("refused"),
		},
	}
	m.misses = missCounters(misses)
	return m, []prometheus.Collector{hops, m.hopLatency, misses, waits}
}

func (m *hopMetrics) missed(reason missReason) { m.misses[missIndex(reason)].Inc() }

func missCounters(v *prometheus.CounterVec) (c [4]prometheus.Counter) {
	for _, reason := range []missReason{missNoUpstream, missDraining, missOverloaded, missProtocol} {
		c[missIndex(reason)] = v.WithLabelValues(string(reason))
	}
	return c
}

// missIndex holds what it does not know for no-upstream.
func missIndex(reason missReason) int {
	switch reason {
	case missDraining:
		return 1
	case missOverloaded:
		return 2
	case missProtocol:
		return 3
	}
	return 0
}

// maxNodes bounds the values of node_id: nodes come and go, and their ids may be new each time.
const maxNodes = 1024

// byNode has a counter for each node, found without a lock. Safe for concurrent use.
type byNode struct {
	vec   *prometheus.CounterVec // static after construction
	known atomic.Pointer[map[string]prometheus.Counter]
	mu    sync.Mutex // held to replace known
}

func (b *byNode) of(id string) prometheus.Counter {
	if known := b.known.Load(); known != nil {
		if c, ok := (*known)[id]; ok {
			return c
		}
	}
	return b.add(id)
}

func (b *byNode) add(id string) prometheus.Counter {
	b.mu.Lock()
	defer b.mu.Unlock()
	var old map[string]prometheus.Counter
	if known := b.known.Load(); known != nil {
		old = *known
	}
	if len(old) >= maxNodes && old[id] == nil {
		return b.vec.WithLabelValues("other")
	}
	next := maps.Clone(old)
	if next == nil {
		next = make(map[string]prometheus.Counter)
	}
	next[id] = b.vec.WithLabelValues(id)
	b.known.Store(&next)
	return next[id]
}

// hopResult says what became of a request that came by a hop.
type hopResult int

const (
	hopServed hopResult = iota
	hopMissed
	hopFailed
	hopAborted
	hopResults
)

// peerMetrics are those of the owner's side. Safe for concurrent use.
type peerMetrics struct {
	// Static after construction.
	inFlight prometheus.Gauge
	requests [hopResults]prometheus.Counter
	misses   [4]prometheus.Counter
	retries  prometheus.Counter

	ejections prometheus.Counter
}

// newPeerMetrics registers the metrics; a nil reg leaves them unregistered.
func newPeerMetrics(reg prometheus.Registerer) (*peerMetrics, error) {
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_peer_requests_total", Help: "Requests of other nodes, by what became of them here."}, []string{"result"})
	misses := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_peer_misses_total", Help: "Requests of other nodes that were given back, since no upstream here took them."}, []string{"reason"})
	m := &peerMetrics{
		inFlight: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "piko_peer_requests_in_flight", Help: "Requests of other nodes that are being forwarded, streams and upgraded connections included."}),
		requests: [hopResults]prometheus.Counter{
			hopServed: requests.WithLabelValues("served"), hopMissed: requests.WithLabelValues("missed"),
			hopFailed: requests.WithLabelValues("failed"), hopAborted: requests.WithLabelValues("aborted"),
		},
		misses: missCounters(misses),
		retries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_peer_retries_total", Help: "Requests of other nodes that were sent to another upstream here, since the one before had not executed them."}),
		ejections: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "piko_peer_ejections_total", Help: "Times that an upstream was avoided for a while since requests of other nodes had failed with it."}),
	}
	if reg == nil {
		return m, nil
	}
	for _, c := range []prometheus.Collector{m.inFlight, requests, misses, m.retries, m.ejections} {
		if err := reg.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

func (m *peerMetrics) missed(reason missReason) { m.misses[missIndex(reason)].Inc() }
