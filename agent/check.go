package agent

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"
)

// What HealthCheck.Type may be.
const (
	CheckHTTP = "http" // a GET whose status is in a range
	CheckTCP  = "tcp"  // a connection can be made
	CheckGRPC = "grpc" // grpc.health.v1.Health/Check says SERVING
)

// HealthCheck says how a listener finds out whether its service works. Nodes
// choose an unhealthy one only when there is no other for the endpoint. A v0.9.0
// node is not told, and goes on choosing it.
type HealthCheck struct {
	// Type is CheckHTTP, CheckTCP or CheckGRPC; empty is no check.
	Type string

	// Path of CheckHTTP, as a client would ask for it: behind the path of the
	// service's URL. "/" if empty.
	Path string
	// Host is the Host header of CheckHTTP and the authority of CheckGRPC; the
	// service's own address if empty.
	Host string
	// MinStatus and MaxStatus are the statuses of CheckHTTP that are well, both
	// included; 200 and 399 if 0.
	MinStatus, MaxStatus int
	// Service is the service that CheckGRPC asks about; empty is the server.
	Service string

	// Interval is from one check to the next; 5 s if 0. A result that may be the
	// beginning of a change is followed by quicker ones, so that Rise or Fall
	// checks fit into one interval.
	Interval time.Duration
	// Timeout bounds one check; 2 s if 0, but not more than Interval. A check that
	// takes longer than the interval puts off the next one.
	Timeout time.Duration
	// Rise is how many checks in a row make an unhealthy service healthy, 2 if 0;
	// Fall how many failed ones make a healthy one unhealthy, 3 if 0.
	Rise, Fall int
	// Jitter is the part of an interval, 0 to 1, that it may be shorter, at
	// random, so that agents that start together do not check together.
	Jitter float64
	// StartGate keeps the endpoint from being listened on until the first check
	// has passed. Without it a service is healthy until Fall checks have failed.
	StartGate bool
}

const (
	defaultCheckInterval = 5 * time.Second
	defaultCheckTimeout  = 2 * time.Second
	defaultRise          = 2
	defaultFall          = 3

	// minCheckInterval is a bound on what checks may cost a service.
	minCheckInterval = 100 * time.Millisecond
)

// withDefaults is c with values for what is 0.
func (c HealthCheck) withDefaults() HealthCheck {
	c.Interval = orDefault(c.Interval, defaultCheckInterval)
	c.Timeout = orDefault(c.Timeout, min(defaultCheckTimeout, c.Interval))
	if c.Path == "" {
		c.Path = "/"
	}
	for _, n := range []struct {
		value *int
		def   int
	}{{&c.MinStatus, http.StatusOK}, {&c.MaxStatus, 399}, {&c.Rise, defaultRise}, {&c.Fall, defaultFall}} {
		if *n.value == 0 {
			*n.value = n.def
		}
	}
	return c
}

// check finds what cannot be meant, of a HealthCheck with its defaults.
func (c HealthCheck) check() error {
	switch c.Type {
	case CheckHTTP, CheckTCP, CheckGRPC:
	default:
		return fmt.Errorf("unknown type %q: use %s, %s or %s", c.Type, CheckHTTP, CheckTCP, CheckGRPC)
	}
	switch _, err := url.ParseRequestURI(c.Path); {
	case err != nil || c.Path[0] != '/' || strings.Contains(c.Path, "#"):
		return fmt.Errorf("path %q is not one: give one such as /healthz", c.Path)
	case c.Host != "" && !isHost(c.Host):
		return fmt.Errorf("host %q is not one: give a name, or name:port", c.Host)
	case c.MinStatus < 100 || c.MaxStatus > 999 || c.MinStatus > c.MaxStatus:
		return fmt.Errorf("status %d to %d is no range: give one such as 200 to 399", c.MinStatus, c.MaxStatus)
	case c.Interval < minCheckInterval:
		return fmt.Errorf("interval %v is too short: use %v or more", c.Interval, minCheckInterval)
	case c.Timeout < 0:
		return fmt.Errorf("timeout %v leaves no time to answer: use a second or more", c.Timeout)
	case c.Rise < 1 || c.Fall < 1:
		return fmt.Errorf("rise %d and fall %d are numbers of checks: use 1 or more", c.Rise, c.Fall)
	case !(c.Jitter >= 0 && c.Jitter <= 1):
		return fmt.Errorf("jitter %v is not a part of the interval: use 0 to 1", c.Jitter)
	}
	return nil
}

func isHost(s string) bool {
	u, err := url.Parse("//" + s)
	return err == nil && u.Host == s && u.User == nil
}

// checkState decides what the results of checks mean.
type checkState struct {
	rise, fall int
	gated      bool // no check has passed yet, and the first one that does counts
	healthy    bool
	streak     int // checks in a row that say otherwise
}

func newCheckState(c HealthCheck) checkState {
	return checkState{rise: c.Rise, fall: c.Fall, gated: c.StartGate, healthy: !c.StartGate}
}

// need is how many checks have to say otherwise.
func (s *checkState) need() int {
	switch {
	case s.gated:
		return 1
	case s.healthy:
		return s.fall
	}
	return s.rise
}

// result takes up that of a check, and reports whether the state has changed.
func (s *checkState) result(ok bool) (changed bool) {
	if ok == s.healthy {
		s.streak = 0
		return false
	}
	if s.streak++; s.streak < s.need() {
		return false
	}
	s.healthy, s.streak, s.gated = ok, 0, false
	return true
}

// pause is from the beginning of a check to that of the next one; random is in
// [0, 1).
func (s *checkState) pause(c *HealthCheck, random float64) time.Duration {
	d := c.Interval
	if s.streak > 0 {
		d /= time.Duration(s.need())
	}
	return d - time.Duration(c.Jitter*random*float64(d))
}

// checker checks the service of one listener while the listener runs.
type checker struct {
	// Static after construction.
	cfg     HealthCheck
	probe   func(context.Context) error
	log     *slog.Logger
	metrics *checkMetrics
	random  func() float64
	opened  chan struct{} // closed when the gate opens; that of a listener without one is open

	// Guarded by mu. SetWeight is called with it held: the order counts.
	mu     sync.Mutex
	state  checkState
	weigh  func(int) // tells the nodes; nil before there are any
	checks Health
}

// Health is what a listener's checks have found.
type Health struct {
	Healthy bool
	Since   time.Time // when that changed last, or began
	Checked time.Time // when the last check ended; zero if there was none
	Err     error     // why the last check failed; nil if it passed
}

func newChecker(lc *Listener, s *service, log *slog.Logger, m *checkMetrics) (*checker, error) {
	cfg := lc.HealthCheck.withDefaults()
	if err := cfg.check(); err != nil {
		return nil, fmt.Errorf("health check: %w", err)
	}
	c := &checker{
		cfg: cfg, probe: newProbe(cfg, s), metrics: m, random: rand.Float64,
		log:    log.With("endpoint", lc.Endpoint, "service", s.host, "check", cfg.Type),
		opened: make(chan struct{}), state: newCheckState(cfg),
	}
	if !cfg.StartGate {
		close(c.opened)
	}
	return c, nil
}

// start begins to check, until the returned func is called, which waits for the
// last check.
func (c *checker) start(ctx context.Context) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	c.mu.Lock()
	c.checks = Health{Healthy: c.state.healthy, Since: time.Now()}
	c.metrics.set(c.state.healthy)
	c.mu.Unlock()
	go func() {
		defer close(ended)
		c.run(ctx)
	}()
	return func() {
		cancel()
		<-ended
		c.metrics.set(false)
	}
}

// run checks at intervals until ctx ends.
func (c *checker) run(ctx context.Context) {
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
		}
		begin := time.Now()
		err := c.once(ctx)
		if ctx.Err() != nil {
			return
		}
		timer.Reset(c.took(err) - time.Since(begin))
	}
}

// once is one check.
func (c *checker) once(ctx context.Context) error {
	bounded, cancel := context.WithTimeout(ctx, c.cfg.Timeout)
	defer cancel()
	err := c.probe(bounded)
	if err != nil && errors.Is(bounded.Err(), context.DeadlineExceeded) {
		return fmt.Errorf("no answer within %v", c.cfg.Timeout)
	}
	return err
}

// took takes up the result of a check, and returns how long after its beginning
// the next one begins.
func (c *checker) took(err error) time.Duration {
	c.metrics.count(err == nil)
	c.mu.Lock()
	defer c.mu.Unlock()
	first := c.checks.Checked.IsZero()
	c.checks.Checked, c.checks.Err = time.Now(), err
	gated := c.state.gated
	if gated && err != nil && first {
		c.log.Warn("service is not healthy yet, and its endpoint not listened on", "error", err)
	}
	if c.state.result(err == nil) {
		c.changed(gated, err)
	}
	return c.state.pause(&c.cfg, c.random())
}

// changed tells everybody of the new state; it needs mu.
func (c *checker) changed(gated bool, err error) {
	healthy := c.state.healthy
	c.checks.Healthy, c.checks.Since = healthy, c.checks.Checked
	c.metrics.set(healthy)
	if healthy {
		c.log.Info("service healthy")
	} else {
		c.log.Warn("service unhealthy: nodes are told to prefer others", "failed_checks", c.cfg.Fall, "error", err)
	}
	if gated {
		close(c.opened)
	}
	if c.weigh != nil {
		c.weigh(weightOf(healthy))
	}
}

// attach has the nodes told of what is known, and of what changes.
func (c *checker) attach(weigh func(int)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.weigh = weigh
	weigh(weightOf(c.state.healthy))
}

func weightOf(healthy bool) int {
	if healthy {
		return 100
	}
	return 0
}

// health is what is known.
func (c *checker) health() Health {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.checks
}
