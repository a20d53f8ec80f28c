package events

import "github.com/prometheus/client_golang/prometheus"

var (
	eventsDesc = prometheus.NewDesc("piko_events_total", "Events of this node's log, by type.", []string{"type"}, nil)
	lostDesc   = prometheus.NewDesc("piko_events_lost_total", "Events that were gone from the log before somebody who follows it had read them; each counts for each reader.", nil, nil)
)

// Describe implements prometheus.Collector.
func (l *Log) Describe(ch chan<- *prometheus.Desc) {
	ch <- eventsDesc
	ch <- lostDesc
}

// Collect implements prometheus.Collector.
func (l *Log) Collect(ch chan<- prometheus.Metric) {
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, name := range types {
		ch <- prometheus.MustNewConstMetric(eventsDesc, prometheus.CounterValue, float64(l.count[name]), name)
	}
	ch <- prometheus.MustNewConstMetric(lostDesc, prometheus.CounterValue, float64(l.lost))
}
