package stats

import (
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// others is the endpoint of what is counted of all that have no series of their own. No endpoint has such a name.
const others = "(other)"

// A latency's buckets in the metrics are some of the histogram's own, each two doublings above the one before.
const (
	firstEdge = 4 * perStep // index of the first bucket that is above the first bound
	edgeStep  = 2 * perStep
	edges     = 9 // bounds: 512 µs to 33.6 s
)

// exported is what the metrics say of an endpoint's latencies. It is brought up to date at each sample.
type exported struct {
	buckets [edges]uint64 // cumulative
	count   uint64
	sum     float64 // seconds
}

// bounds are the upper ends of the buckets, in seconds.
var bounds = func() (list [edges]float64) {
	for i := range list {
		step := (firstEdge+i*edgeStep)/perStep - 1
		list[i] = float64(uint64(perStep)<<step) * unit.Seconds()
	}
	return list
}()

// add adds the latencies of an interval.
func (e *exported) add(c *counts) {
	for i, n := range c {
		if n == 0 {
			continue
		}
		e.count += uint64(n)
		e.sum += float64(n) * middle(i)
		for b := range e.buckets {
			if i < firstEdge+b*edgeStep {
				e.buckets[b] += uint64(n)
			}
		}
	}
}

// showing says which endpoints have series. Guarded by Traffic.mu.
type showing struct {
	limit, shown int
	gone         sample // of endpoints that had series and were forgotten
	other        sample // what was last said of those that have none
}

// Collector returns metrics of the endpoints: n of them have series of their own,
// which are the first that have requests, until they had none for 15 minutes.
// All others are one. Call it before the first request.
func (t *Traffic) Collector(n int) prometheus.Collector {
	t.mu.Lock()
	t.showing.limit = n
	t.mu.Unlock()
	byEndpoint := []string{"endpoint", "tenant"}
	return &collector{
		traffic: t,
		requests: prometheus.NewDesc("piko_endpoint_requests_total",
			"Requests of clients by endpoint, counted at the node where they come in; those of endpoints without series of their own are "+others+".", byEndpoint, nil),
		errors: prometheus.NewDesc("piko_endpoint_errors_total",
			"Requests of clients that were answered with 500 or above or broke off, by endpoint.", byEndpoint, nil),
		inFlight: prometheus.NewDesc("piko_endpoint_requests_in_flight",
			"Requests and connections of clients under way, by endpoint.", byEndpoint, nil),
		latency: prometheus.NewDesc("piko_endpoint_request_latency_seconds",
			"Time from a request's header to the end of its response, by endpoint, as of the last 5 s; the sum is right to an eighth.", byEndpoint, nil),
	}
}

// show gives the endpoint series if there is room. It needs mu.
func (t *Traffic) show(e *Endpoint) {
	if e.shown || t.showing.shown >= t.showing.limit {
		return
	}
	t.showing.shown++
	e.shown, e.base = true, sample{e.ended.Load(), e.failed.Load()}
}

// showMore gives places of those that were forgotten to those that are active. It needs mu.
func (t *Traffic) showMore(now time.Time) {
	for _, e := range t.all() {
		if t.showing.shown >= t.showing.limit {
			return
		}
		if e.active.Equal(now) {
			t.show(e)
		}
	}
}

// hide is for an endpoint that is forgotten. It needs mu.
func (t *Traffic) hide(e *Endpoint) {
	if !e.shown {
		return
	}
	t.showing.shown--
	since := e.sinceShown()
	t.showing.gone.ended += since.ended
	t.showing.gone.failed += since.failed
}

// sinceShown is what was counted since it has series.
func (e *Endpoint) sinceShown() sample {
	failed := e.failed.Load()
	return sample{e.ended.Load() - e.base.ended, failed - e.base.failed}
}

// collector implements prometheus.Collector.
type collector struct {
	traffic                             *Traffic
	requests, errors, inFlight, latency *prometheus.Desc
}

// Describe is part of prometheus.Collector.
func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.requests, c.errors, c.inFlight, c.latency} {
		ch <- d
	}
}

// Collect is part of prometheus.Collector.
func (c *collector) Collect(ch chan<- prometheus.Metric) {
	t := c.traffic
	t.mu.Lock()
	defer t.mu.Unlock()
	shown := t.showing.gone
	for _, e := range t.all() {
		if !e.shown {
			continue
		}
		since := e.sinceShown()
		shown.ended += since.ended
		shown.failed += since.failed
		tenant, endpoint, ok := strings.Cut(e.name, "/")
		if !ok {
			tenant, endpoint = "", e.name
		}
		c.count(ch, since, endpoint, tenant)
		ch <- prometheus.MustNewConstMetric(c.inFlight, prometheus.GaugeValue, float64(e.inFlight()), endpoint, tenant)
		if d := e.detail.Load(); d != nil {
			buckets := make(map[float64]uint64, edges)
			for i, n := range d.exported.buckets {
				buckets[bounds[i]] = n
			}
			ch <- prometheus.MustNewConstHistogram(c.latency, d.exported.count, d.exported.sum, buckets, endpoint, tenant)
		}
	}
	c.count(ch, t.others(shown), others, "")
}

func (c *collector) count(ch chan<- prometheus.Metric, s sample, labels ...string) {
	ch <- prometheus.MustNewConstMetric(c.requests, prometheus.CounterValue, float64(s.ended), labels...)
	ch <- prometheus.MustNewConstMetric(c.errors, prometheus.CounterValue, float64(s.failed), labels...)
}

// others is what the node has counted and the endpoints with series have not. An endpoint counts a request before the node
// does, so the difference may be short of some for a moment; a counter must not go back. It needs mu.
func (t *Traffic) others(shown sample) sample {
	sum, last := t.total(), &t.showing.other
	if sum.ended >= shown.ended {
		last.ended = max(last.ended, sum.ended-shown.ended)
	}
	if sum.failed >= shown.failed {
		last.failed = max(last.failed, sum.failed-shown.failed)
	}
	return *last
}
