package main

import (
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// nodeMetrics say in which state the node is, and how far its drain has come. It is a prometheus.Collector.
type nodeMetrics struct {
	s *server

	cutRequests atomic.Int64 // by the end of the grace period

	info, ready, draining, left, deadline, cut *prometheus.Desc
}

func newNodeMetrics(s *server) *nodeMetrics {
	desc := func(name, help string, labels ...string) *prometheus.Desc {
		return prometheus.NewDesc(name, help, labels, nil)
	}
	return &nodeMetrics{
		s:        s,
		info:     desc("piko_node_info", "Always 1; the labels say which node this is.", "node_id", "version"),
		ready:    desc("piko_node_ready", "1 if /ready says yes, else 0: the node has not joined yet, or drains."),
		draining: desc("piko_node_draining", "1 if the node drains, else 0."),
		left:     desc("piko_node_drain_left", "What a drain still waits for, by kind: requests (connections included) and tunnels; 0 if the node does not drain.", "kind"),
		deadline: desc("piko_node_drain_deadline_timestamp_seconds", "When the grace period ends and what is left is cut; 0 if the node does not stop."),
		cut:      desc("piko_node_requests_cut_total", "Requests and connections that were cut when the grace period was over. The node ends a moment later, so few scrapes see it."),
	}
}

// Describe implements prometheus.Collector.
func (m *nodeMetrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{m.info, m.ready, m.draining, m.left, m.deadline, m.cut} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *nodeMetrics) Collect(ch chan<- prometheus.Metric) {
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	one := func(is bool) int {
		if is {
			return 1
		}
		return 0
	}
	drain := m.s.drainState()
	gauge(m.info, 1, m.s.id, version())
	gauge(m.ready, one(m.s.isReady.Load()))
	gauge(m.draining, one(m.s.isDraining.Load()))
	gauge(m.left, drain.RequestsLeft, "requests")
	gauge(m.left, drain.TunnelsLeft, "tunnels")
	deadline := 0.0
	if drain.Deadline != nil {
		deadline = float64(drain.Deadline.UnixMilli()) / 1e3
	}
	ch <- prometheus.MustNewConstMetric(m.deadline, prometheus.GaugeValue, deadline)
	ch <- prometheus.MustNewConstMetric(m.cut, prometheus.CounterValue, float64(m.cutRequests.Load()))
}

// newLogMetrics counts the lines of the log that were not written; lines are the access log's, too.
func newLogMetrics(dropped func() uint64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{
		Name: "piko_log_lines_dropped_total",
		Help: "Lines of the log, access log included, that were dropped since whoever reads standard error does not keep up.",
	}, func() float64 { return float64(dropped()) })
}
