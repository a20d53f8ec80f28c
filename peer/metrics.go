package peer

import (
	"context"
	"errors"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"piko/fault"
)

// metrics of the connections between nodes. Label values are from closed sets.
type metrics struct {
	handshakes *prometheus.CounterVec
}

// newMetrics registers nothing if reg is nil.
func newMetrics(reg prometheus.Registerer, p *Peers) (*metrics, error) {
	m := &metrics{handshakes: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "piko_peer_handshakes_total",
		Help: "Number of handshakes with other nodes, by who called (in: the other node) and result.",
	}, []string{"direction", "result"})}
	if reg == nil {
		return m, nil
	}
	sessions := func(direction string, count func() int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name:        "piko_peer_sessions",
			Help:        "Number of open connections with other nodes, by who called (in: the other node).",
			ConstLabels: prometheus.Labels{"direction": direction},
		}, func() float64 { return float64(count()) })
	}
	for _, c := range []prometheus.Collector{m.handshakes, sessions("in", p.inSessions), sessions("out", p.outSessions)} {
		if err := reg.Register(c); err != nil {
			return nil, err
		}
	}
	return m, nil
}

func (p *Peers) inSessions() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.inbound)
}

func (p *Peers) outSessions() (n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for l := range p.links {
		sessions, _ := l.Stats()
		n += sessions
	}
	return n
}

// resultOf is the label value for why a handshake failed.
func resultOf(err error) string {
	switch {
	case errors.Is(err, errProof), errors.Is(err, errEarly), errors.Is(err, errWelcome):
		return "proof"
	case errors.Is(err, os.ErrDeadlineExceeded), errors.Is(err, context.DeadlineExceeded):
		return "timeout"
	}
	return "failed"
}

// dialResult is the same for a dial.
func dialResult(err error) string {
	e, ok := errors.AsType[*refusedError](err)
	if !ok {
		return resultOf(err)
	}
	switch {
	case e.reason == refusedUnknown, e.reason == refusedNode, e.reason == refusedProof:
		return e.reason
	case errors.Is(err, fault.Draining):
		return "draining"
	case errors.Is(err, fault.Overloaded):
		return "overloaded"
	}
	return "refused"
}

// A logLimit lets five lines in 10 s through, so that a stranger who knocks
// again and again cannot fill the log. The zero value is ready.
type logLimit struct {
	// Guarded by mu.
	mu      sync.Mutex
	since   time.Time
	lines   int
	dropped int
}

// allow says whether a line may be written at now, and how many were not
// written since the last one that was.
func (l *logLimit) allow(now time.Time) (ok bool, dropped int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if now.Sub(l.since) >= 10*time.Second {
		l.since, l.lines = now, 0
	}
	if l.lines == 5 {
		l.dropped++
		return false, 0
	}
	l.lines++
	dropped, l.dropped = l.dropped, 0
	return true, dropped
}
