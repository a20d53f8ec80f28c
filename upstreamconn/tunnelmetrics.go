package upstreamconn

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// tunnelState is the value of a label: what of it holds that comes first.
type tunnelState int

const (
	stateLeaving   tunnelState = iota // takes no request any more
	stateDraining                     // a last resort: the node drains, or a newer tunnel replaces it
	stateEjected                      // avoided for a while since it failed
	stateUnhealthy                    // its service is, as the agent says
	stateActive
	tunnelStates
)

var stateNames = [tunnelStates]string{"leaving", "draining", "ejected", "unhealthy", "active"}

// tunnelCollector looks at the tunnels when it is asked.
type tunnelCollector struct {
	list                   func() []*upstream
	tunnels, streams, load *prometheus.Desc
}

func newTunnelCollector(list func() []*upstream) *tunnelCollector {
	return &tunnelCollector{
		list:    list,
		tunnels: prometheus.NewDesc("piko_upstreams_tunnels", "Number of tunnels open to this node, by state.", []string{"state"}, nil),
		streams: prometheus.NewDesc("piko_upstreams_streams", "Number of streams that requests use one after the other, by state: busy with one, or kept for the next.", []string{"state"}, nil),
		load:    prometheus.NewDesc("piko_upstreams_requests_in_flight", "Number of requests and connections under way in the tunnels of this node.", nil, nil),
	}
}

// Describe implements prometheus.Collector.
func (c *tunnelCollector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.tunnels, c.streams, c.load} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (c *tunnelCollector) Collect(ch chan<- prometheus.Metric) {
	var states [tunnelStates]int
	var busy, idle, load int
	now := time.Now()
	for _, u := range c.list() {
		state, open := u.state(now)
		if !open {
			continue
		}
		states[state]++
		load += u.local.InFlight()
		if pool := u.pool.Load(); pool != nil {
			b, i := pool.Conns()
			busy, idle = busy+b, idle+i
		}
	}
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	for state, n := range states {
		gauge(c.tunnels, n, stateNames[state])
	}
	gauge(c.streams, busy, "busy")
	gauge(c.streams, idle, "idle")
	gauge(c.load, load)
}

// state is not known of a tunnel that is not open yet.
func (u *upstream) state(now time.Time) (_ tunnelState, open bool) {
	u.mu.Lock()
	open, leaving := u.sess != nil, u.leaving
	u.mu.Unlock()
	switch {
	case leaving:
		return stateLeaving, open
	case u.local.Draining():
		return stateDraining, open
	case u.local.Ejected(now):
		return stateEjected, open
	case u.local.Weight() == 0:
		return stateUnhealthy, open
	}
	return stateActive, open
}
