package gossip

import (
	"github.com/prometheus/client_golang/prometheus"
)

// pair is a counter of what comes and one of what goes.
type pair struct{ inbound, outbound prometheus.Counter }

// metrics are v0.9.0's where they mean the same, and ours.
type metrics struct {
	connections, streamBytes, packetBytes, digests, deltas pair

	resyncs    prometheus.Counter
	mismatches prometheus.Counter
	restarts   *prometheus.CounterVec // of log streams, by reason
	drops      *prometheus.CounterVec // of what came from outside, by reason
	conflicts  prometheus.Counter
	joins      *prometheus.CounterVec
	lag        prometheus.Histogram

	cluster       *Cluster
	nodes         *prometheus.Desc
	entries       *prometheus.Desc
	health, queue *prometheus.Desc
}

// lagBuckets reach from one batch to where a stream is restarted, in seconds.
var lagBuckets = []float64{.01, .025, .05, .1, .25, .5, 1, 2, 3, 5, 10, 30}

// newMetrics registers nothing if reg is nil.
func newMetrics(reg prometheus.Registerer, c *Cluster) *metrics {
	m := &metrics{
		connections: newPair("connections", "Number of TCP connections of gossip"),
		streamBytes: newPair("stream_bytes", "Number of bytes of gossip over TCP"),
		packetBytes: newPair("packet_bytes", "Number of bytes of gossip over UDP"),
		digests:     newPair("digest_entries", "Number of heads of nodes' logs"),
		deltas:      newPair("delta_entries", "Number of changes of endpoints"),
		resyncs:     newCounter("piko_gossip_snapshots_total", "Number of snapshots of other nodes' endpoints that were applied."),
		mismatches:  newCounter("piko_gossip_digest_mismatches_total", "Number of times that the copy of a node's endpoints was not what the node has. Each is followed by a snapshot."),
		conflicts:   newCounter("piko_gossip_id_conflicts_total", "Number of times that another node was seen with this node's id."),
		restarts:    newCounterVec("piko_gossip_stream_restarts_total", "Number of times that the stream of a node's endpoints was opened again.", "reason", "gone", "silent", "behind", "mismatch", "broken"),
		drops:       newCounterVec("piko_gossip_dropped_total", "Number of messages, packets and connections on the gossip port that were dropped.", "reason", "packet-queue", "connections", "announcement", "state", "meta", "gone", "nodes", "address"),
		joins:       newCounterVec("piko_gossip_joins_total", "Number of attempts to join a node.", "result", "ok", "failed"),
		lag: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "piko_gossip_lag_seconds", Buckets: lagBuckets,
			Help: "How long copies of other nodes' endpoints were behind what gossip said of them.",
		}),
		cluster: c,
		nodes:   prometheus.NewDesc("piko_cluster_nodes", "Number of nodes in the cluster, by status.", []string{"status"}, nil),
		entries: prometheus.NewDesc("piko_gossip_entries", "Number of endpoints of each node.", []string{"node_id", "deleted", "internal"}, nil),
		health:  prometheus.NewDesc("piko_gossip_health_score", "How badly this node keeps up with gossip: 0 is well.", nil, nil),
		queue:   prometheus.NewDesc("piko_gossip_queue", "Number of heads that wait to be announced.", nil, nil),
	}
	if reg != nil {
		reg.MustRegister(m.resyncs, m.mismatches, m.conflicts, m.restarts, m.drops, m.joins, m.lag, m)
		for _, p := range []pair{m.connections, m.streamBytes, m.packetBytes, m.digests, m.deltas} {
			reg.MustRegister(p.inbound, p.outbound)
		}
	}
	return m
}

func newPair(name, help string) pair {
	return pair{
		inbound:  newCounter("piko_gossip_"+name+"_inbound_total", help+" that came in."),
		outbound: newCounter("piko_gossip_"+name+"_outbound_total", help+" that went out."),
	}
}

func newCounter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

// newCounterVec has counters for the values from the beginning, so that the first event of each is seen as an increase.
func newCounterVec(name, help, label string, values ...string) *prometheus.CounterVec {
	v := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, []string{label})
	for _, value := range values {
		v.WithLabelValues(value)
	}
	return v
}

// dropped counts what came from outside and was not used.
func (m *metrics) dropped(reason string) { m.drops.WithLabelValues(reason).Inc() }

// Describe is part of prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.nodes, m.entries, m.health, m.queue} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	count := map[string]int{StatusActive: 0, StatusDraining: 0, StatusUnreachable: 0, StatusLeft: 0}
	seen := make(map[string]bool)
	for _, n := range m.cluster.Nodes() {
		count[n.Status]++
		if !seen[n.ID] {
			seen[n.ID] = true // two nodes with one id would break the whole scrape
			gauge(m.entries, float64(n.Endpoints), n.ID, "false", "false")
		}
	}
	for status, n := range count {
		gauge(m.nodes, float64(n), status)
	}
	gauge(m.health, float64(m.cluster.health()))
	gauge(m.queue, float64(m.cluster.queue.NumQueued()))
}
